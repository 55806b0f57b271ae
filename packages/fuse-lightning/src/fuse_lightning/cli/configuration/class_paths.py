"""Classes by their paths, and the nearest one where there is none of that path."""

import importlib
import pkgutil
from collections.abc import Iterable
from types import ModuleType
from typing import Any

from ..errors import did_you_mean


class ClassPathError(Exception):
    """There is nothing of this path; says how far it leads and what is near."""


def find_class(class_path: str) -> Any:
    """The class or function of a dotted path.

    Raises:
        ClassPathError: a part of the path is missing, or its module cannot be imported.
    """
    found: Any = None
    parts = class_path.split(".")
    for position, name in enumerate(parts):
        parent = ".".join(parts[:position])
        if found is not None and hasattr(found, name):
            found = getattr(found, name)
            continue
        if found is None or hasattr(found, "__path__"):  # a package may have modules that are not imported yet
            module = _imported(".".join(parts[: position + 1]))
            if module is not None:
                found = module
                continue
        if found is None:
            raise ClassPathError(
                f"there is no module {name!r}.{did_you_mean(name, _top_level_modules())} It must be installed, or "
                f"lie in the folder where the command runs."
            )
        near = did_you_mean(name, _public_names(found))
        there = "" if near else f" It has: {', '.join(_public_names(found)) or 'nothing public'}."
        raise ClassPathError(f"{parent} has no {name!r}.{near}{there}")
    return found


def find_subclass(name: str, bases: Iterable[type]) -> Any:
    """The class of this name among those below the bases, as the parser takes classes by their names alone.

    Raises:
        ClassPathError: there is none.
    """
    classes = {found.__name__: found for base in bases for found in _with_subclasses(base)}
    if name not in classes:
        raise ClassPathError(
            f"there is no such class.{did_you_mean(name, classes)} Give the whole path, such as my_project.{name}."
        )
    return classes[name]


def _with_subclasses(base: type) -> Iterable[type]:
    yield base
    subclasses: list[type] = type.__subclasses__(base)
    for below in subclasses:
        yield from _with_subclasses(below)


def _imported(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            return None
        raise ClassPathError(f"importing {name} fails: {error}. Install what is missing.") from error
    except Exception as error:
        raise ClassPathError(f"importing {name} fails: {type(error).__name__}: {error}") from error


def _top_level_modules() -> Iterable[str]:
    return [module.name for module in pkgutil.iter_modules()]


def _public_names(found: Any) -> list[str]:
    """Classes and functions, and a package's modules."""
    names = [name for name, value in vars(found).items() if callable(value) and not name.startswith("_")]
    modules = [module.name for module in pkgutil.iter_modules(getattr(found, "__path__", []))]
    return sorted({*names, *modules})
