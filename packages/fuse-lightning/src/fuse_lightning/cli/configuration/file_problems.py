"""What is wrong in a configuration file, each mistake with its line and the nearest valid name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from .class_paths import ClassPathError, find_class, find_subclass
from ..errors import did_you_mean
from .parser_keys import is_group
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
OPTIONAL = ("data",)  # a module may have loaders of its own
NULL = "tag:yaml.org,2002:null"
LINKED = {"model": ("model_dir",)}  # arguments that the run folder tells


class FileProblems:
    """The mistakes of one file.

    Args:
        path: the file.
        types: the parser's keys and their types; see `key_types`.
        thorough: look at values and missing arguments too, which is the parser's to do where it gets that far.
        whole: whether this is the whole configuration, or changes another file's.
    """

    def __init__(self, path: Path, types: Mapping[str, Any], thorough: bool, whole: bool) -> None:
        self.path = path
        self.types = types
        self.thorough = thorough
        self.whole = whole
        self.found: list[str] = []
        self._told: set[tuple[int, str]] = set()  # what an anchor names is met more than once
        self._met = 0  # the mistakes, those told before included

    def all(self) -> list[str]:
        """A line for each."""
        root = self._root()
        if isinstance(root, yaml.MappingNode):
            self._check_group(root, "")
        elif not self.found:
            self.found.append(f"{self.path} holds no keys; it needs trainer, model and data.")
        return self.found

    def of_component(self, key: str) -> list[str]:
        """A line for each, where the file holds the module or the data alone: the value of the key."""
        root = self._root()
        if _value(root, "class_path") is not None:
            self._check_value(root, key, self.types[key])
        elif not self.found:
            self.found.append(f"{self.path}: {key}: {_needs_class(key)}")
        return self.found

    def _root(self) -> yaml.Node | None:
        try:
            self.loader = yaml.SafeLoader(self.path.read_text(encoding="utf-8"))
            root: yaml.Node | None = self.loader.get_single_node()
        except (OSError, UnicodeDecodeError) as error:
            self.found.append(f"{self.path} cannot be read: {error}.")
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else "?"
            problem = f"this is not YAML: {error.problem}. Check the indentation and the colons."
            self.found.append(f"{self.path}:{line}: {problem}")
        else:
            return root
        return None

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
            if is_group(key, self.types) and isinstance(value, yaml.MappingNode):
                self._check_group(value, f"{key}.")
            elif key in CLASSES:
                self._check_component(value, key, key_node)
            elif key in self.types:
                self._check_value(value, key, self.types[key])
            else:
                names = {dest.removeprefix(prefix).partition(".")[0] for dest in self.types if dest.startswith(prefix)}
                self._add(key_node, key, f"there is no such key.{nearest(key_node.value, sorted(names))}")

    def _check_component(self, node: yaml.Node, key: str, place: yaml.Node) -> None:
        """The module or the data: a class and its arguments, a class by its path alone, or a file with either."""
        is_text = isinstance(node, yaml.ScalarNode) and node.tag != NULL
        file = self.path.parent / str(node.value) if is_text else None
        if file is not None and file.is_file():
            self.found += FileProblems(file, self.types, self.thorough, self.whole).of_component(key)
        elif is_text and self.thorough and self._find_class(node, key, self.types[key]) is None:
            return  # told
        elif is_text or not self.whole or _value(node, "class_path") or (key in OPTIONAL and node.tag == NULL):
            self._check_value(node, key, self.types[key])
        else:
            self._add(place, key, _needs_class(key))

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
            self._add(node, key, unaccepted(node, hint))
        self.thorough = was_thorough

    def _find_class(self, node: yaml.Node, key: str, hint: Any) -> Any:
        """The class of the path that is written there; None where there is none, which is told."""
        class_path = str(node.value)
        try:
            return find_class(class_path) if "." in class_path else find_subclass(class_path, classes_of(hint))
        except ClassPathError as error:
            self._add(node, key, f"{class_path!r}: {error}")
            return None

    def _check_class(self, node: Any, class_node: yaml.ScalarNode, key: str, hint: Any) -> None:
        """The class there is, and its arguments."""
        class_path = str(class_node.value)
        made = self._find_class(class_node, f"{key}.class_path", hint)
        if made is None:
            return
        names, required, takes_others = arguments_of(made)
        for key_node, _ in self._entries(node, key):
            if key_node.value in CLASS_KEYS:
                continue
            belongs = f"an argument of {class_path} goes under init_args."
            problem = (
                belongs if key_node.value in names else f"there is no such key.{nearest(key_node.value, CLASS_KEYS)}"
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
                problem = f"{class_path} has no argument {key_node.value!r}.{nearest(key_node.value, names)}"
                others = " What it passes on to others goes under dict_kwargs." if takes_others else ""
                self._add(key_node, argument_key, problem + others)
        there = {*(key_node.value for key_node, _ in given), *LINKED.get(key, ())}
        missing = [name for name in required if name not in there]
        misspelt = any(key_node.value not in names for key_node, _ in given)
        if self.thorough and missing and not misspelt and _value(node, "dict_kwargs") is None:
            self._add(class_node, key, f"{class_path} needs {', '.join(missing)} in init_args.")


def _needs_class(key: str) -> str:
    return f"it needs class_path, such as {CLASSES[key]}, and its init_args."


def _value(node: Any, key: str) -> Any:
    entries = node.value if isinstance(node, yaml.MappingNode) else []
    return next((value for key_node, value in entries if key_node.value == key), None)


def _misspelt_class_path(node: Any) -> Any:
    """The key beside `init_args` that was meant to be `class_path`."""
    names = {key_node.value: key_node for key_node, _ in node.value} if isinstance(node, yaml.MappingNode) else {}
    near = [key for name, key in names.items() if name not in CLASS_KEYS and did_you_mean(name, ["class_path"])]
    return near[0] if near and "init_args" in names else None


def nearest(name: str, names: Any) -> str:
    """A question with the nearest of the names, or all of them."""
    return did_you_mean(name, names) or f" There are: {', '.join(names) or 'none'}."


def unaccepted(node: yaml.Node, hint: Any) -> str:
    """What a value should be, and what it is."""
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
