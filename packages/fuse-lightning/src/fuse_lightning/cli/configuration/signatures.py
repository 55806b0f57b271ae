"""The arguments of a class and their types, as the parser sees them."""

import argparse
import inspect
import typing
from collections.abc import Mapping
from typing import Any

import yaml
from jsonargparse import ArgumentParser
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


def arguments_of(made: Any) -> tuple[list[str], list[str], bool]:
    """The names of the arguments, those of them that must be given, and whether others are taken and passed on.

    Args:
        made: a class, or a function that returns an object.
    """
    parameters = list(inspect.signature(made).parameters.values())
    if isinstance(made, type) and issubclass(made, Optimizer | LRScheduler):
        parameters = parameters[1:]  # the parameters or the optimizer, which are not the file's to give
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    passes_on = any(p.kind is p.VAR_KEYWORD for p in parameters)
    names = [p.name for p in named]
    if passes_on:  # the parser finds out where to, and the names there
        parser = ArgumentParser()
        add = parser.add_class_arguments if isinstance(made, type) else parser.add_function_arguments
        names += [name for name in add(made, fail_untyped=False) if name not in names]
    return names, [p.name for p in named if p.default is p.empty], passes_on


def type_hints(made: Any) -> dict[str, Any]:
    """The types of the arguments, those that base classes take included."""
    hints: dict[str, Any] = {}
    for function in [vars(base).get("__init__") for base in made.__mro__] if isinstance(made, type) else [made]:
        try:
            hints = {**typing.get_type_hints(function), **hints} if inspect.isfunction(function) else hints
        except Exception:  # noqa: S112  a type that cannot be looked up is not checked
            continue
    return hints


def is_union(hint: Any) -> bool:
    """Whether it is `A | B`, or `Union[A, B]`."""
    return typing.get_origin(hint) is typing.Union or type(hint).__name__ == "UnionType"


def options_of(hint: Any) -> tuple[Any, ...]:
    """The members of a union, or the type alone."""
    return typing.get_args(hint) if is_union(hint) else (hint,)


def type_of_items(hint: Any, container: type) -> Any:
    """The type of a mapping's values or a sequence's items; None where that is not one type."""
    for option in options_of(hint):
        origin, arguments = typing.get_origin(option), typing.get_args(option)
        if isinstance(origin, type) and arguments and origin is not tuple:
            is_mapping = issubclass(origin, Mapping)
            if is_mapping == (container is Mapping) and hasattr(origin, "__getitem__"):
                return arguments[-1]
    return None


def classes_of(hint: Any) -> list[type]:
    """The classes whose objects a type takes, or that a function of this type makes."""
    made = [typing.get_args(option)[-1] if typing.get_args(option) else option for option in options_of(hint)]
    return [option for option in made if isinstance(option, type)]


def takes_anything(hint: Any) -> bool:
    """Whether the parser takes any mapping for this type, so that it finds no fault with a class."""
    return any(_is_anything(option) for option in options_of(hint))


def without_anything(hint: Any) -> Any:
    """The union of what is left of a type; None for nothing."""
    options = tuple(option for option in options_of(hint) if not _is_anything(option) and option is not type(None))
    return typing.Union[options] if options else None  # noqa: UP007  there is no other way to make one of a tuple


def _is_anything(hint: Any) -> bool:
    if hint is None or hint is Any or hint is inspect.Parameter.empty:
        return True
    origin = typing.get_origin(hint) or hint
    return isinstance(origin, type) and issubclass(origin, Mapping) and typing.get_args(hint)[-1:] in ((), (Any,))


def is_accepted(node: yaml.Node, hint: Any) -> bool:
    """Whether the parser takes this value for this type; also where there is no type, or one it does not know."""
    parser = ArgumentParser(exit_on_error=False)
    try:
        parser.add_argument("--value", type=hint)
    except Exception:
        return True
    mapping = yaml.MappingNode("tag:yaml.org,2002:map", [(yaml.ScalarNode("tag:yaml.org,2002:str", "value"), node)])
    try:
        parser.parse_string(yaml.serialize(mapping, Dumper=yaml.SafeDumper))
    except argparse.ArgumentError:
        return False
    return True


def type_name(hint: Any) -> str:
    """A type in few words, for messages."""
    if is_union(hint):
        return " or ".join(type_name(option) for option in options_of(hint) if option is not type(None))
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return " or ".join(map(repr, arguments))
    if "Callable" in str(hint):
        made = type_name(arguments[-1]) if arguments and isinstance(arguments[-1], type) else None
        return f"a class of {made}, or a function that makes one" if made else "a function or class by its path"
    if origin is not None:
        return f"{origin.__name__}[{', '.join(map(type_name, arguments))}]"
    return getattr(hint, "__name__", str(hint))
