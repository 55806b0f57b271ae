"""The walkthrough's files, as a project of the user's own."""

import re
from importlib.resources import files

STYLES = ("ready-made", "custom")
"""The LightningModule: LightningModuleDefault, or one written from the step functions."""


def template_files(style: str = "ready-made") -> dict[str, str]:
    """The text of each file of a new project, by the file's name. `python run.py` in the project's folder runs it.

    These are the files of `fuse_lightning/walkthrough/template` with two changes: they import one another by plain
    names instead of relative ones, and only the requested one of the two LightningModules is there.

    Args:
        style: the project's LightningModule, `"ready-made"` or `"custom"`.

    Raises:
        ValueError: an unknown style.

    Example:
        >>> sorted(name for name in template_files("custom") if name.startswith("module_"))
        ['module_custom.py']
    """
    if style not in STYLES:
        raise ValueError(f"template_files(style=) is one of {', '.join(map(repr, STYLES))}, got {style!r}.")
    chosen, others = _module_file(style), {_module_file(other) for other in STYLES if other != style}
    project = {}
    for file in sorted(files(__package__).joinpath("template").iterdir(), key=lambda file: file.name):
        if file.is_file() and file.name != "__init__.py" and file.name.removesuffix(".py") not in others:
            text = file.read_text(encoding="utf-8")
            if file.name.endswith(".py"):
                text = re.sub(r"^from \. import ", "import ", text, flags=re.MULTILINE)
                text = re.sub(r"^from \.(\w+) import ", r"from \1 import ", text, flags=re.MULTILINE)
            for other in others:
                text = text.replace(other, chosen)
            project[file.name] = text
    return project


def _module_file(style: str) -> str:
    return f"module_{style.replace('-', '_')}"
