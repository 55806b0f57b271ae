"""Classes by their paths, and the nearest one where there is none of that path."""

import importlib
import pkgutil
from collections.abc import Iterable
from typing import Any

from fuse_core import did_you_mean


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
    near = did_you_mean(name, known) or f" It has: {', '.join(sorted(known)) or 'nothing public'}."
    return f"{path.rpartition('.')[0]} has no {name!r}.{near}"


def _with_subclasses(base: type) -> Iterable[type]:
    yield base
    subclasses: list[type] = type.__subclasses__(base)
    for below in subclasses:
        yield from _with_subclasses(below)
