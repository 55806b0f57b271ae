"""The keys that a command's parser knows: those of a configuration's upper levels, such as `trainer.max_epochs`."""

from collections.abc import Iterable
from typing import Any

from jsonargparse import ArgumentParser


def key_types(parser: ArgumentParser) -> dict[str, Any]:
    """The type of what each key takes; None where the parser has none."""
    # The parser has no public list of its arguments, and their types are nowhere else.
    actions = [action for action in parser._actions if not action.dest.endswith("help")]
    return {action.dest: getattr(action, "_typehint", None) for action in actions}


def is_group(key: str, keys: Iterable[str]) -> bool:
    """Whether other keys of the parser lie below this one, as those of the trainer do."""
    return any(other.startswith(f"{key}.") for other in keys)
