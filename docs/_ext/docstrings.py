"""Docstrings for Sphinx: our docstrings write code and formulas as Markdown does. Every public name must have one."""

import importlib
import inspect
import re
from inspect import Parameter
from typing import Any, Unpack, get_args, get_origin, get_type_hints

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.inspect import stringify_signature

from fuse_losses import LossDense

MODULES = (
    "fuse_core",
    "fuse_losses",
    "fuse_losses.functional",
    "fuse_models",
    "fuse_optim",
    "fuse_optim.lightning",
    "fuse_lightning",
)
CODE = re.compile(r"(?<![`:\\])`([^`]+)`(?!`)")
FORMULA = re.compile(r"(?<![\w$\\])\$([^$]+)\$(?![\w$])")
LINK = re.compile(r"\[([^\]]+)\]\((https?://[^)]+)\)")
ROLE = re.compile(r":[\w:]+:`[^`]+`")
TABLE = re.compile(r"(?m)^([ ]*)\|(.+)\|\n\1\|[-|: ]+\|\n((?:\1\|.+\|\n?)+)")
DOCTEST = re.compile(r"^\s*(>>>|\.\.\. |\.\.\.$)")


def public_names() -> dict[str, str]:
    """The full name of each public object, by its short name."""
    names: dict[str, str] = {}
    for module in MODULES:
        for name in importlib.import_module(module).__all__:
            if name != "__version__":
                names.setdefault(name, f"{module}.{name}")
    return names


def check_public_docstrings() -> None:
    """Raise unless every public class and function has a docstring with an example, and every public method a docstring.

    Raises:
        ExtensionError: it names all that lack one.
    """
    missing, no_example = [], []
    for full_name in public_names().values():
        module, _, name = full_name.rpartition(".")
        value = getattr(importlib.import_module(module), name)
        if not (inspect.isclass(value) or inspect.isroutine(value)):
            continue
        if ">>>" not in (inspect.getdoc(value) or ""):
            no_example.append(full_name)
        documented = [(full_name, value)]
        if inspect.isclass(value):
            documented += [
                (f"{full_name}.{member}", method)
                for member, method in vars(value).items()
                if not member.startswith("_") and inspect.isroutine(method) and not isinstance(method, staticmethod)
            ]
        missing += [name for name, one in documented if not inspect.getdoc(one)]
    if missing:
        raise ExtensionError(f"These public names have no docstring: {', '.join(missing)}.")
    if no_example:
        raise ExtensionError(f"The docstrings of these public names have no example: {', '.join(no_example)}.")


def to_rest(lines: list[str], names: dict[str, str]) -> list[str]:
    """Markdown's code, formulas and links as reStructuredText. Examples stay as they are."""
    result: list[str] = []
    text: list[str] = []
    in_example = False
    for line in [*lines, ">>> end"]:
        starts = DOCTEST.match(line) is not None
        if starts or (in_example and line.strip()):
            if text:
                result += _text_to_rest("\n".join(text), names).split("\n")
                text = []
            in_example = True
            result.append(line)
        else:
            in_example = False
            text.append(line)
    return result[:-1]


def _text_to_rest(text: str, names: dict[str, str]) -> str:
    def code(match: re.Match[str]) -> str:
        content = " ".join(match[1].split())
        after = text[match.end() : match.end() + 1]
        short = content.removeprefix("functional.")
        shown = f":py:obj:`~{names[short]}`" if short in names else f"``{content}``"
        return shown + ("\\ " if after.isalnum() else "")

    def block(match: re.Match[str]) -> str:
        lines = "\n".join(f"{match[1]}   {line.strip()}" for line in match[2].strip().split("\n"))
        return f"{match[1]}.. math::\n\n{lines}\n"

    def table(match: re.Match[str]) -> str:
        rows = [match[2], *(line.strip().strip("|") for line in match[3].strip().split("\n"))]
        lines = [f"{match[1]}.. list-table::", f"{match[1]}   :header-rows: 1", ""]
        for row in rows:
            cells = [cell.strip() for cell in row.split("|")]
            lines += [f"{match[1]}   {'  ' if index else '* '}- {cell}" for index, cell in enumerate(cells)]
        return "\n".join(lines) + "\n"

    kept: list[str] = []

    def keep(text: str) -> str:
        kept.append(text)
        return f"\0{len(kept) - 1}\0"

    def formula(match: re.Match[str]) -> str:
        return keep(f":math:`{' '.join(match[1].split())}`")

    text = TABLE.sub(table, text)
    text = re.sub(r"(?m)^([ ]*)\$\$(.+?)\$\$", block, text, flags=re.DOTALL)
    text = ROLE.sub(lambda match: keep(match[0]), text)
    text = FORMULA.sub(formula, text)
    text = CODE.sub(code, text)
    text = LINK.sub(r"`\1 <\2>`__", text)
    return re.sub(r"\0(\d+)\0(\w?)", lambda match: kept[int(match[1])] + (f"\\ {match[2]}" if match[2] else ""), text)


def process_docstring(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Change the lines in place, before napoleon does."""
    lines[:] = to_rest(lines, app.fuse_names)  # type: ignore[attr-defined]
    if what in ("attribute", "data", "property"):
        lines[:0] = ["..", ""]  # an empty comment: napoleon takes the words before a colon in the first line for a type


def process_signature(
    app: Sphinx, what: str, name: str, value: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None] | None:
    """Show the arguments that `**options: Unpack[SomeOptions]` stands for, with types and defaults."""
    if not (inspect.isclass(value) or inspect.isroutine(value)):
        return None
    try:
        found = inspect.signature(value)
    except (TypeError, ValueError):
        return None
    parameters = list(found.parameters.values())
    if not parameters or get_origin(parameters[-1].annotation) is not Unpack:
        return None
    (unpacked,) = get_args(parameters.pop().annotation)
    given = {one.name for one in parameters}
    defaults = _defaults(value)
    parameters += [
        Parameter(one, Parameter.KEYWORD_ONLY, annotation=hint, default=defaults.get(one, Parameter.empty))
        for one, hint in get_type_hints(unpacked).items()
        if one not in given
    ]
    parameters.sort(key=lambda one: one.kind)
    shown = found.replace(parameters=parameters, return_annotation=Parameter.empty)
    return stringify_signature(shown, unqualified_typehints=True), returns


def _defaults(value: Any) -> dict[str, Any]:
    """The defaults of a dense loss's options: the shared ones, and those in the signatures of function and class."""
    function = value.function if inspect.isclass(value) else value
    signatures = [inspect.signature(one) for one in (function, LossDense)]
    own = {one.name: one.default for found in signatures for one in found.parameters.values()}
    shared = importlib.import_module("fuse_losses._dense.options").DenseSettings._field_defaults
    return {name: one for name, one in (shared | own).items() if one is not Parameter.empty}


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    check_public_docstrings()
    app.fuse_names = public_names()  # type: ignore[attr-defined]
    app.connect("autodoc-process-docstring", process_docstring, priority=100)
    app.connect("autodoc-process-signature", process_signature)
    return {"parallel_read_safe": True}
