"""What is wrong in a configuration, each mistake with its place and the nearest valid name.

The parser tells the first mistake only, inside out, and passes over some: a misspelt key that holds nothing, and any
mistake where a mapping would do as well as a class. So the files are read here too, node by node.
"""

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from .class_paths import ClassPathError, find_class, find_subclass
from .errors import did_you_mean
from .signatures import (
    arguments_of,
    classes_of,
    is_accepted,
    takes_anything,
    type_hints,
    type_name,
    type_of_items,
    without_anything,
)

CLASS_KEYS = ("class_path", "init_args", "dict_kwargs")
CLASSES = {"model": "fuse_lightning.LightningModuleDefault", "data": "fuse_lightning.DataModuleDefault"}
LINKED = {"model": ("model_dir",)}  # arguments that the run folder tells
NOISE = ("Given value", "Subtypes:", "Errors:", "Does not validate against", "- Expected a <class 'NoneType'>")


def configuration_problems(
    parser: ArgumentParser, arguments: list[str], refusal: argparse.ArgumentError | None = None
) -> list[str]:
    """A line for each mistake in the configuration files and options.

    Args:
        parser: the parser of the command.
        arguments: the command's arguments.
        refusal: what the parser raised, if it did. Then values and missing arguments are looked at too, and where
            nothing is found, this is what is told.
    """
    actions = {action.dest: action for action in parser._actions if not action.dest.endswith("help")}
    files = _config_files(arguments)
    problems = list(_wrong_options(arguments, actions, files, thorough=refusal is not None))
    for path in files:
        problems += _FileProblems(path, actions, thorough=refusal is not None, whole=len(files) == 1).all()
    if refusal is not None and not problems:
        lines = [line for line in str(refusal).splitlines() if not line.strip().startswith(NOISE)]
        return ["\n".join(lines)]
    return problems


def _config_files(arguments: list[str]) -> list[Path]:
    files = []
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, equals, value = argument.partition("=")
        if name in ("-c", "--config"):
            files.append(Path(value if equals else following))
    return files


def _wrong_options(
    arguments: list[str], actions: Mapping[str, argparse.Action], files: list[Path], thorough: bool
) -> Iterator[str]:
    """Options of another name than any key of the configuration; thoroughly, those with a value of another type too."""
    open_ended = [dest for dest in actions if not _is_group(dest, actions)]  # a class's own arguments may follow
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, equals, value = argument.partition("=")
        if not name.startswith("--"):
            continue
        key = name.removeprefix("--")
        if key not in actions and not any(key.startswith((f"{dest}.", f"{dest}+")) for dest in open_ended):
            yield f"there is no option {name}.{did_you_mean(name, [f'--{dest}' for dest in actions])}"
        elif thorough:
            yield from _wrong_value(key, value if equals else following, actions, files)


def _wrong_value(key: str, value: str, actions: Mapping[str, argparse.Action], files: list[Path]) -> Iterator[str]:
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
            nearest = _nearest(argument, names)
            yield f"there is no option --{key}: {class_path} has no argument {argument!r}.{nearest}"
            return
        hint = type_hints(made).get(argument)
    else:
        hint = getattr(actions.get(key), "_typehint", None)
    try:
        node = yaml.compose(value, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        return  # a text that only the parser can judge
    if isinstance(node, yaml.ScalarNode) and not is_accepted(node, hint):
        yield f"--{key}: {_unaccepted(node, hint)}"


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


def _is_group(key: str, actions: Mapping[str, argparse.Action]) -> bool:
    """Whether other keys of the parser lie below this one, as those of the trainer do."""
    return any(dest.startswith(f"{key}.") for dest in actions)


class _FileProblems:
    """The mistakes of one file.

    Args:
        path: the file.
        actions: the parser's actions by key.
        thorough: look at values and missing arguments too, which is the parser's to do where it gets that far.
        whole: whether this is the whole configuration, or changes another file's.
    """

    def __init__(self, path: Path, actions: Mapping[str, argparse.Action], thorough: bool, whole: bool) -> None:
        self.path = path
        self.actions = actions
        self.thorough = thorough
        self.whole = whole
        self.found: list[str] = []
        self._told: set[tuple[int, str]] = set()  # what an anchor names is met more than once
        self._met = 0  # the mistakes, those told before included

    def all(self) -> list[str]:
        """A line for each."""
        try:
            self.loader = yaml.SafeLoader(self.path.read_text(encoding="utf-8"))
            root = self.loader.get_single_node()
        except (OSError, UnicodeDecodeError) as error:
            return [f"{self.path} cannot be read: {error}."]
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else "?"
            return [f"{self.path}:{line}: this is not YAML: {error.problem}. Check the indentation and the colons."]
        if not isinstance(root, yaml.MappingNode):
            return [f"{self.path} holds no keys; it needs trainer, model and data."]
        self._check_group(root, "")
        return self.found

    def _add(self, node: yaml.Node, key: str, problem: str) -> None:
        self._met += 1
        if (node.start_mark.index, problem) not in self._told:
            self._told.add((node.start_mark.index, problem))
            self.found.append(f"{self.path}:{node.start_mark.line + 1}: {key}: {problem}")

    def _entries(self, node: yaml.MappingNode, key: str) -> list[tuple[Any, Any]]:
        """The keys and values of a mapping, each key once."""
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.value in seen and key_node.value != "<<":
                place = f"{key}.{key_node.value}".lstrip(".")
                self._add(key_node, place, "this key is there twice, and one would be lost.")
            seen.add(key_node.value)
        self.loader.flatten_mapping(node)  # `<<: *anchor`
        return list(node.value)

    def _check_group(self, node: yaml.MappingNode, prefix: str) -> None:
        """Keys that are the parser's own, such as those of the trainer."""
        for key_node, value in self._entries(node, prefix.rstrip(".")):
            key = f"{prefix}{key_node.value}"
            if _is_group(key, self.actions) and isinstance(value, yaml.MappingNode):
                self._check_group(value, f"{key}.")
            elif key in CLASSES and self.whole and not _value(value, "class_path"):
                self._add(key_node, key, f"it needs class_path, such as {CLASSES[key]}, and its init_args.")
            elif key in self.actions:
                self._check_value(value, key, getattr(self.actions[key], "_typehint", None))
            else:
                names = {
                    dest.removeprefix(prefix).partition(".")[0] for dest in self.actions if dest.startswith(prefix)
                }
                self._add(key_node, key, f"there is no such key.{_nearest(key_node.value, sorted(names))}")

    def _check_value(self, node: yaml.Node, key: str, hint: Any) -> None:
        """A value: first its parts, then the whole, so that the innermost mistake is the one that is told."""
        before = self._met
        class_node = _value(node, "class_path")
        was_thorough = self.thorough
        if class_node is not None and takes_anything(hint):  # the parser takes a class with a mistake for a mapping
            self.thorough, hint = True, without_anything(hint)
        if class_node is not None:
            self._check_class(node, class_node, key, hint)
        elif (misspelt := _misspelt_class_path(node)) is not None:
            self._add(misspelt, f"{key}.{misspelt.value}", "there is no such key. Did you mean 'class_path'?")
        elif isinstance(node, yaml.MappingNode):
            for key_node, value in self._entries(node, key):
                self._check_value(value, f"{key}.{key_node.value}", type_of_items(hint, Mapping))
        elif isinstance(node, yaml.SequenceNode):
            for position, value in enumerate(node.value):
                self._check_value(value, f"{key}[{position}]", type_of_items(hint, list))
        if self.thorough and self._met == before and key not in LINKED and not is_accepted(node, hint):
            self._add(node, key, _unaccepted(node, hint))
        self.thorough = was_thorough

    def _check_class(self, node: Any, class_node: yaml.ScalarNode, key: str, hint: Any) -> None:
        """The class there is, and its arguments."""
        class_path = str(class_node.value)
        try:
            made = find_class(class_path) if "." in class_path else find_subclass(class_path, classes_of(hint))
        except ClassPathError as error:
            self._add(class_node, f"{key}.class_path", f"{class_path!r}: {error}")
            return
        names, required, takes_others = arguments_of(made)
        for key_node, _ in self._entries(node, key):
            if key_node.value in CLASS_KEYS:
                continue
            belongs = f"an argument of {class_path} goes under init_args."
            problem = (
                belongs if key_node.value in names else f"there is no such key.{_nearest(key_node.value, CLASS_KEYS)}"
            )
            self._add(key_node, f"{key}.{key_node.value}", problem)
        hints = type_hints(made)
        arguments = _value(node, "init_args")
        given = self._entries(arguments, f"{key}.init_args") if isinstance(arguments, yaml.MappingNode) else []
        for key_node, value in given:
            argument_key = f"{key}.init_args.{key_node.value}"
            if key_node.value in names:
                self._check_value(value, argument_key, hints.get(key_node.value))
            else:
                problem = f"{class_path} has no argument {key_node.value!r}.{_nearest(key_node.value, names)}"
                others = " What it passes on to others goes under dict_kwargs." if takes_others else ""
                self._add(key_node, argument_key, problem + others)
        there = {*(key_node.value for key_node, _ in given), *LINKED.get(key, ())}
        missing = [name for name in required if name not in there]
        misspelt = any(key_node.value not in names for key_node, _ in given)
        if self.thorough and missing and not misspelt and _value(node, "dict_kwargs") is None:
            self._add(class_node, key, f"{class_path} needs {', '.join(missing)} in init_args.")


def _value(node: Any, key: str) -> Any:
    entries = node.value if isinstance(node, yaml.MappingNode) else []
    return next((value for key_node, value in entries if key_node.value == key), None)


def _misspelt_class_path(node: Any) -> Any:
    """The key beside `init_args` that was meant to be `class_path`."""
    names = {key_node.value: key_node for key_node, _ in node.value} if isinstance(node, yaml.MappingNode) else {}
    near = [key for name, key in names.items() if name not in CLASS_KEYS and did_you_mean(name, ["class_path"])]
    return near[0] if near and "init_args" in names else None


def _nearest(name: str, names: Any) -> str:
    return did_you_mean(name, names) or f" There are: {', '.join(names) or 'none'}."


def _unaccepted(node: yaml.Node, hint: Any) -> str:
    takes = f"it takes {type_name(hint)}"
    if _value(node, "class_path") is not None:
        return f"{takes}, which {_value(node, 'class_path').value} is not."
    if isinstance(node, yaml.ScalarNode):
        text = str(node.value)
        if "." in text and "Callable" in str(hint):
            try:
                find_class(text)
            except ClassPathError as error:
                return f"{text!r}: {error}"
        return f"{takes}, got {text!r}."
    return f"{takes}, got {'a list' if isinstance(node, yaml.SequenceNode) else 'keys and values'}."
