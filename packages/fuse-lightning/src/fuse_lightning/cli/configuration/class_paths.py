"""Classes by their paths, and the nearest one where there is none of that path."""

import importlib
import pkgutil
from collections.abc import Iterable
from typing import Any

from fuse_core import did_you_mean


class ClassPathError(Exception):
    """There is nothing of this path. Says how far it leads, and what is near."""


def find_class(class_path: str, bases: Iterable[type] = ()) -> Any:
    """The class or function of a dotted path; of a name without dots, the class of this name below one of the bases.

    Raises:
        ClassPathError: a part of the path is missing, or its module cannot be imported.
    """
    if "." not in class_path:
        classes = {found.__name__: found for base in bases for found in _with_subclasses(base)}
        if class_path not in classes:
            near = did_you_mean(class_path, classes)
            raise ClassPathError(f"there is no such class.{near} Give the whole path, such as my_project.{class_path}.")
        return classes[class_path]
    found: Any = None
    parts = class_path.split(".")
    for position, name in enumerate(parts):
        path = ".".join(parts[: position + 1])
        try:
            found = getattr(found, name) if hasattr(found, name) else importlib.import_module(path)
        except Exception as error:
            if not (isinstance(error, ModuleNotFoundError) and f"{path}.".startswith(f"{error.name}.")):
                raise ClassPathError(f"importing {path} fails: {type(error).__name__}: {error}.") from error
            modules = [
                module.name for module in pkgutil.iter_modules(getattr(found, "__path__", None if not position else []))
            ]
            if found is None:
                where = "It must be installed, or lie in the folder where the command runs."
                raise ClassPathError(f"there is no module {name!r}.{did_you_mean(name, modules)} {where}") from error
            public = {name for name, value in vars(found).items() if callable(value) and not name.startswith("_")}
            known = sorted(public.union(modules))
            near = did_you_mean(name, known) or f" It has: {', '.join(known) or 'nothing public'}."
            raise ClassPathError(f"{'.'.join(parts[:position])} has no {name!r}.{near}") from error
    return found


def _with_subclasses(base: type) -> Iterable[type]:
    yield base
    for below in type.__subclasses__(base):
        yield from _with_subclasses(below)
