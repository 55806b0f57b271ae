"""The README's examples run as they stand."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
EXAMPLES = re.findall(r"^```python\n(.+?)^```", README.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
REASONS = {
    "monai": "MONAI is a test dependency",
    "sklearn": "scikit-learn is a test dependency",
    "transformers": "transformers is installed beside torch 2.6: see the group test-torch2_6",
    "timm": "timm needs torchvision, which is installed beside torch 2.6: see the group test-torch2_6",
}


def test_there_are_examples():
    assert EXAMPLES


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_readme_examples_run(example):
    for library, reason in REASONS.items():
        if f"import {library}" in example or f"from {library}" in example:
            pytest.importorskip(library, reason=reason)
    exec(compile(example, str(README), "exec"), {"__name__": "__main__"})
