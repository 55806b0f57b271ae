"""The README's examples run as they stand."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"
EXAMPLES = re.findall(r"^```python\n(.+?)^```", README.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def test_readme_examples_run():
    assert EXAMPLES
    for example in EXAMPLES:
        exec(compile(example, str(README), "exec"), {"__name__": "__main__"})
