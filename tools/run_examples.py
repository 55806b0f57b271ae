"""Runs the python examples of Markdown files, each file in a namespace of its own: `run_examples.py README.md`.

`--first` runs only the first example of each file.
"""

import re
import sys
from pathlib import Path

names = [name for name in sys.argv[1:] if name != "--first"]
for name in names:
    examples = re.findall(
        r"^```python\n(.+?)^```", Path(name).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    if not examples:
        sys.exit(f"error: {name} holds no python example")
    if "--first" in sys.argv:
        examples = examples[:1]
    namespace: dict[str, object] = {"__name__": "__main__"}
    for example in examples:
        exec(compile(example, name, "exec"), namespace)
    print(f"{name}: {len(examples)} examples ran")
