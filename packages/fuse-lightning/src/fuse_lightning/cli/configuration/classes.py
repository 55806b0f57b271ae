"""The class or function that a path in a configuration names, its arguments, and what the parser says of values."""

import argparse
import enum
import importlib
import inspect
import pkgutil
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import yaml
from jsonargparse import ArgumentParser
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from fuse_core import did_you_mean

from .document import MAPPING, STRING


def find_class(class_path: str, bases: Iterable[type] = ()) -> Any:
    """The class or function of a dotted path; of a name without dots, the class of this name below one of the bases.

    A LookupError says how far the path leads, and what is near.
    """
    if "." not in class_path:
        classes = {found.__name__: found for base in bases for found in _with_subclasses(base)}
        if class_path not in classes:
            near = did_you_mean(class_path, classes)
            raise LookupError(f"there is no such class.{near} Give the whole path, such as my_project.{class_path}.")
        return classes[class_path]
    found: Any = None
    parts = class_path.split(".")
    for position, name in enumerate(parts):
        path = ".".join(parts[: position + 1])
        try:
            found = getattr(found, name) if hasattr(found, name) else importlib.import_module(path)
        except Exception as error:
            if isinstance(error, ModuleNotFoundError) and f"{path}.".startswith(f"{error.name}."):
                raise LookupError(_missing(name, path, found)) from error
            raise LookupError(f"importing {path} fails: {type(error).__name__}: {error}.") from error
    return found


def _missing(name: str, path: str, parent: Any) -> str:
    if parent is None:
        near = did_you_mean(name, [module.name for module in pkgutil.iter_modules()])
        return f"there is no module {name!r}.{near} It must be installed, or lie in the folder where the command runs."
    modules = {module.name for module in pkgutil.iter_modules(getattr(parent, "__path__", []))}
    known = modules.union(key for key, value in vars(parent).items() if callable(value) and not key.startswith("_"))
    return f"{path.rpartition('.')[0]} has no {name!r}.{nearest(name, sorted(known))}"


def _with_subclasses(base: type) -> Iterable[type]:
    yield base
    subclasses: list[type] = type.__subclasses__(base)
    for below in subclasses:
        yield from _with_subclasses(below)


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
        value.flow_style = True  # in one line
        text = yaml.serialize(yaml.MappingNode(MAPPING, [(key, value)]), Dumper=yaml.SafeDumper)
        try:
            parser.parse_string(text)
        except argparse.ArgumentError as error:
            if key.value not in self.types:  # it is passed on, to a function that has the type
                return shortened(str(error)).removeprefix(f"{key.value}: ")
            got = repr(value.value) if value.tag == STRING else " ".join(text.split()[1:])
            return f"it takes {' or '.join(_kinds_in(self.types[key.value]))}, got {got}."
        return None


def shortened(refusal: str) -> str:
    """What the parser says of the value of a key, in one line."""
    types = " or ".join(re.findall(r"Expected an? <class '(?:\w+\.)*(\w+)'>", refusal))
    found = re.search(r'Parser key "([\w.]+)".*(?:Got|Given) value: (.*)', refusal, re.DOTALL)
    return f"{found[1]}: it takes {types}, got {found[2]}" if found and types else refusal


def _kinds_in(annotation: Any) -> list[str]:
    """The names of what a type takes, and the values of a literal, without None."""
    parts, origin = typing.get_args(annotation), typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        return [kind for part in parts for kind in _kinds_in(part) if part is not type(None)]
    if origin is typing.Literal or isinstance(annotation, enum.EnumType):
        return [repr(one) for one in parts] or list(annotation.__members__)
    text = str(getattr(annotation, "__forward_arg__", annotation)).replace("typing.", "")
    return [text if parts else getattr(annotation, "__name__", text)]


def classes_in(annotation: Any) -> set[type]:
    """The classes of a type's objects, alone or in a list or mapping, or made by a function of this type."""
    parts, origin = typing.get_args(annotation), typing.get_origin(annotation)
    if not parts:
        return {annotation if isinstance(annotation, type) and annotation is not Any else object}
    is_keyed = origin is Callable or (isinstance(origin, type) and issubclass(origin, Mapping))
    return set() if origin is typing.Literal else set().union(*map(classes_in, parts[-1:] if is_keyed else parts))


def makes_one_of(found: Any, classes: set[type]) -> bool:
    """Whether calling it gives an object of one of the classes: a class does, or a function with this return type."""
    try:
        made = {found} if isinstance(found, type) else classes_in(typing.get_type_hints(found)["return"])
        return all(issubclass(one, tuple(classes)) for one in made)
    except (KeyError, NameError):  # a function that does not say what it returns
        return False
    except TypeError:  # a protocol, which the parser may know better; or no function at all
        return isinstance(found, type)
