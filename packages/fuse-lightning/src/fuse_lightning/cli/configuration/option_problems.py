"""What is wrong in the options of a command, each mistake with the nearest valid name."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from .class_paths import ClassPathError, find_class
from ..errors import did_you_mean
from .file_problems import CLASSES, FileProblems, nearest, unaccepted
from .parser_keys import is_group
from .signatures import arguments_of, is_accepted, type_hints


def option_problems(arguments: list[str], types: Mapping[str, Any], files: list[Path], thorough: bool) -> Iterator[str]:
    """Options of another name than any key of the configuration, and the mistakes in a file that an option names.

    Thoroughly, options with a value of another type too.
    """
    open_ended = [dest for dest in types if not is_group(dest, types)]  # a class's own arguments may follow
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, equals, value = argument.partition("=")
        if not name.startswith("--"):
            continue
        key = name.removeprefix("--")
        if key not in types and not any(key.startswith((f"{dest}.", f"{dest}+")) for dest in open_ended):
            yield f"there is no option {name}.{did_you_mean(name, [f'--{dest}' for dest in types])}"
            continue
        text = value if equals else following
        if key in CLASSES and Path(text).is_file():
            yield from FileProblems(Path(text), types, thorough, whole=True).of_component(key)
        elif thorough:
            yield from _wrong_value(key, text, types, files)


def _wrong_value(key: str, value: str, types: Mapping[str, Any], files: list[Path]) -> Iterator[str]:
    """An option that the parser may have refused: of the parser's own, or an argument of a class in the files."""
    class_key, is_argument, argument = key.rpartition(".init_args.")
    try:
        if key.endswith(".class_path"):
            find_class(value)
            return
        class_path = _class_in_files(class_key, files) if is_argument else None
        made = None if class_path is None else find_class(class_path)
    except ClassPathError as error:
        yield f"--{key}: {error}"
        return
    if made is not None:
        names, _, _ = arguments_of(made)
        if argument.partition(".")[0] not in names:
            near = nearest(argument, names)
            yield f"there is no option --{key}: {class_path} has no argument {argument!r}.{near}"
            return
        hint = type_hints(made).get(argument)
    else:
        hint = types.get(key)
    try:
        node = yaml.compose(value, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        return  # a text that only the parser can judge
    if isinstance(node, yaml.ScalarNode) and not is_accepted(node, hint):
        yield f"--{key}: {unaccepted(node, hint)}"


def _class_in_files(key: str, files: list[Path]) -> str | None:
    """The class path that the last of the files gives for this key; None where none does."""
    for path in reversed(files):
        try:
            node = yaml.safe_load(path.read_text(encoding="utf-8"))
            for part in key.split("."):
                node = node[part]
            return str(node["class_path"])
        except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError):
            continue  # what is wrong in a file is told of the file
    return None
