"""The class or function that a path in a configuration names, its arguments, and what the parser says of values."""

import argparse
import importlib
import inspect
import pkgutil
import re
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import yaml
from jsonargparse import ArgumentParser
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from fuse_core import did_you_mean

from .yaml_with_lines import MAPPING


def find_class(class_path: str, bases: Collection[type] = (object,)) -> Any:
    """The class of a path, or of a name below one of the bases, or a function that returns one; or a LookupError."""
    if "." not in class_path:
        classes = list(bases)
        for base in classes:  # the list grows by the classes below
            classes += type.__subclasses__(base)
        by_name = {one.__name__: one for one in classes}
        if class_path not in by_name:
            near = did_you_mean(class_path, by_name)
            raise LookupError(f"there is no such class.{near} Give a class_path, such as my_project.MyClass.")
        return by_name[class_path]
    found, path = None, ""
    for name in class_path.split("."):
        path = f"{path}.{name}".removeprefix(".")
        try:
            found = getattr(found, name) if hasattr(found, name) else importlib.import_module(path)
        except Exception as error:
            known = dir(found) if found is not None else [module.name for module in pkgutil.iter_modules()]
            near = did_you_mean(name, known) if getattr(error, "name", None) == path else ""
            raise LookupError(f"importing {path} fails: {type(error).__name__}: {error}.{near}") from error
    try:
        made = {found} if isinstance(found, type) else classes_in(typing.get_type_hints(found)["return"])
        is_right = all(issubclass(one, tuple(bases)) for one in made)
    except (KeyError, NameError, TypeError):  # a function without this type, or a protocol, which the parser judges
        is_right = isinstance(found, type)
    if not is_right:
        raise LookupError("it is no such class, and no function whose return type is annotated as one.")
    if not isinstance(found, type) and {Optimizer, LRScheduler} & {*bases}:  # the parser would call it without those
        raise LookupError("a function is given by its path alone, without class_path and init_args.")
    return found


def nearest(name: str, known: Iterable[str]) -> str:
    """The sentence that names the nearest of the known names, or all of them."""
    return did_you_mean(name, known) or f" There are: {', '.join(known) or 'none'}."


class Arguments:
    """What a class, or a function that returns an object, takes: `names`, those of them `required`, and their types."""

    def __init__(self, made: Any) -> None:
        try:
            parameters = list(inspect.signature(made, eval_str=True).parameters.values())
        except (NameError, AttributeError, TypeError):  # a type that cannot be looked up
            parameters = list(inspect.signature(made).parameters.values())
        first = 1 if isinstance(made, type) and issubclass(made, Optimizer | LRScheduler) else 0
        named = [p for p in parameters[first:] if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        self.made = made
        self.not_in_files = {p.name for p in parameters[:first]}  # the parameters, or the optimizer
        self.names = [p.name for p in named]
        self.required = [p.name for p in named if p.default is p.empty]
        if any(p.kind is p.VAR_KEYWORD for p in parameters):  # the parser finds out whose they are
            self.names += [name for name in self._add_to(ArgumentParser(), set()) if name not in self.names]
        self.types = {p.name: p.annotation for p in named if p.annotation is not p.empty}

    def _add_to(self, parser: ArgumentParser, skip: set[str]) -> list[str]:
        add: Any = parser.add_class_arguments if isinstance(self.made, type) else parser.add_function_arguments
        names: list[str] = add(self.made, skip=skip | self.not_in_files, fail_untyped=False, sub_configs=True)
        return names

    def refusal(self, key: yaml.ScalarNode, value: yaml.Node) -> str | None:
        """What the parser says of a value that it refuses."""
        parser = ArgumentParser(exit_on_error=False)
        self._add_to(parser, set(self.names) - {key.value})
        try:
            parser.parse_string(yaml.serialize(yaml.MappingNode(MAPPING, [(key, value)]), Dumper=yaml.SafeDumper))
        except (argparse.ArgumentError, AttributeError) as error:  # the second for a class that is not there
            return shortened(str(error))
        return None


def shortened(refusal: str) -> str:
    """What the parser expected and got, in one line."""
    not_there = r"(?s:.*)((?:No module named|module '\S+' has no attribute) '\S+')(?s:.*)"
    text = re.sub(rf"{not_there}|<\w+ '(?:\w+\.)*(\w+)'>|typing\.|member of |Parser key .*:\n", r"\1\2", refusal)
    kinds = r"(?:Expected (?:an? )?+|subclass of )(?!NoneType|path|dot|import|')(.*?)(?: but got .*|\. Got value.*)?$"
    takes = dict.fromkeys(re.findall(kinds, text, re.MULTILINE))
    got = re.search(r"(?:Got|Given) value: (.*)", text)
    return f"it takes {' or '.join(takes)}, got {got[1]}" if takes and got else " ".join(text.split())


def classes_in(annotation: Any) -> set[type]:
    """The classes of a type's objects, alone or in a list or mapping, or made by a function of this type."""
    parts, origin = typing.get_args(annotation), typing.get_origin(annotation)
    if not parts:
        return {annotation if isinstance(annotation, type) and annotation is not Any else object}
    if origin is typing.Literal:
        return set(map(type, parts))
    is_keyed = origin is Callable or (isinstance(origin, type) and issubclass(origin, Mapping))
    return set().union(*map(classes_in, parts[-1:] if is_keyed else parts))
