"""Finds a module's weights among given ones: removes prefixes, applies layouts, and compares names and shapes."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn.parameter import is_lazy

from .layouts import LAYOUTS
from .state_dict_file import EXTRA_STATE

LISTED = 4
AS_GIVEN = "as given"


@dataclass(frozen=True)
class LoadReport:
    """The result of loading weights.

    Attributes:
        layout: the rule that renamed the weights, `"as given"` for none.
        prefix: what stood before the module's names, such as `"model.backbone."`.
        loaded: the module's weights that were loaded.
        missing: the module's weights that kept their values.
        left: the given weights that were not used.

    Example:
        >>> from torch import nn
        >>> from fuse_models import load_weights
        >>> weights = {f"model.{name}": weight for name, weight in nn.Linear(3, 2).state_dict().items()}
        >>> report = load_weights(nn.Linear(3, 2), weights)
        >>> report.loaded, report.prefix
        (('weight', 'bias'), 'model.')
        >>> print(report)
        2 of 2 weights loaded (names as given, prefix 'model.')
    """

    layout: str
    prefix: str
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    left: tuple[str, ...]

    def __str__(self) -> str:
        total = len(self.loaded) + len(self.missing)
        text = f"{len(self.loaded)} of {total} weights loaded (names {self.layout}, prefix {self.prefix!r})"
        missing = f"; missing: {_listed(self.missing)}" if self.missing else ""
        return text + missing + (f"; left: {_listed(self.left)}" if self.left else "")


class MisfitError(ValueError):
    """No layout and no prefix makes the weights fit; the message says what does not."""


def fit_weights(
    own: Mapping[str, Tensor],
    given: Mapping[str, Tensor],
    *,
    strict: bool | Sequence[str] = True,
    left_out: Sequence[str] = (),
    adapt: Callable[[dict[str, Tensor]], None] | None = None,
) -> tuple[dict[str, Tensor], LoadReport]:
    """The module's weights under its names, and a report, or a `MisfitError`.

    Args:
        own: the module's state dict; with `keep_vars=True`, weights that modules share are recognized.
        given: the weights.
        strict: see `load_weights`.
        left_out: names to ignore in the given weights (with the names below them).
        adapt: changes the weights in the given dict, before their shapes are compared.
    """
    given = {name.replace("_orig_mod.", ""): tensor for name, tensor in given.items()}  # torch.compile's
    layouts: dict[str, dict[str, Tensor | None]] = {AS_GIVEN: dict(given)}
    for layout, rename in LAYOUTS.items():
        renamed = rename(given, own)
        if renamed.keys() != given.keys() or any(weight is None for weight in renamed.values()):
            layouts[layout] = renamed
    misfits: dict[str, str] = {}
    fitting: dict[tuple[str, str], dict[str, Tensor]] = {}
    for layout, weights in layouts.items():
        for prefix in _prefixes(own, weights):
            part = {
                name.removeprefix(prefix): weight
                for name, weight in weights.items()
                if weight is not None and name.startswith(prefix)
            }
            _share(own, part)
            part = {name: weight for name, weight in part.items() if not _is_below(name, left_out)}
            if adapt is not None:
                adapt(part)
            fits = {name for name in own if name in part and _fits(name, own[name], part[name])}
            part = {name: weight for name, weight in part.items() if name in fits or _is_needed(name, strict)}
            needed = {name: weight for name, weight in own.items() if name in part or _is_needed(name, strict)}
            misfit = _misfit(needed, part)
            if not misfit and (fits or strict is False):
                fitting[layout, prefix] = part
            elif layout not in misfits or len(fits) > len(own) // 2:
                misfits[layout] = misfit or "no name is the same"
    if not fitting:
        as_given = misfits.pop(AS_GIVEN)
        raise MisfitError(as_given + "".join(f"; with the names of {name}: {text}" for name, text in misfits.items()))
    most = max(map(len, fitting.values()))
    best = [(layout, prefix) for (layout, prefix), part in fitting.items() if len(part) == most]
    layout, prefix = best[0]
    several = [prefix for name, prefix in best if name == layout]
    if len(several) > 1 and "" not in several:
        raise MisfitError(f"several parts fit: {', '.join(map(repr, several))}. Give the weights of one of them")
    part = fitting[layout, prefix]
    used = {f"{prefix}{name}" for name in part}
    left = tuple(name for name in layouts[layout] if name not in used)
    missing = tuple(name for name in own if name not in part)
    return part, LoadReport(layout, prefix, tuple(name for name in own if name in part), missing, left)


def _prefixes(own: Mapping[str, Tensor], weights: Iterable[str]) -> list[str]:
    """No prefix, and those that most names have in front of a name of the module."""
    count: Counter[str] = Counter()
    for name in weights:
        end = name.find(".")
        while end >= 0:
            if name[end + 1 :] in own:
                count[name[: end + 1]] += 1
            end = name.find(".", end + 1)
    most = max(count.values(), default=0)
    return ["", *(prefix for prefix, number in count.items() if number == most)]


def _share(own: Mapping[str, Tensor], part: dict[str, Tensor]) -> None:
    """Add the other names of weights that modules share, of which safetensors.torch.save_model keeps one only."""
    kept = {id(tensor): part[name] for name, tensor in own.items() if name in part}
    part |= {name: kept[id(tensor)] for name, tensor in own.items() if name not in part and id(tensor) in kept}


def _misfit(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """The first few names that are missing, unknown, or of another shape or kind. Counts of batches may be missing."""
    misfits = [(name, own[name]) for name in own if name in given and not _fits(name, own[name], given[name])]
    found = {
        "missing": [name for name in own if name not in given and not name.endswith(".num_batches_tracked")],
        "unknown": [name for name in given if name not in own],
        "of another shape": [
            f"{name} {tuple(given[name].shape)} for {tuple(tensor.shape)}"
            for name, tensor in misfits
            if given[name].shape != tensor.shape
        ],
        "of another kind": [
            f"{name} {given[name].dtype} for {tensor.dtype}"
            for name, tensor in misfits
            if given[name].shape == tensor.shape
        ],
    }
    return "; ".join(f"{kind}: {_listed(names)}" for kind, names in found.items() if names)


def _fits(name: str, own: Tensor, given: Tensor) -> bool:
    """Whether the shapes are equal. Integers (quantized weights) do not fit floating-point weights.

    Lazy weights take any shape, and a module's extra state may be no tensor.
    """
    if name.endswith(EXTRA_STATE) or is_lazy(own):
        return True
    return own.shape == given.shape and (given.is_floating_point() or not own.is_floating_point())


def _is_needed(name: str, strict: bool | Sequence[str]) -> bool:
    return strict if isinstance(strict, bool) else not _is_below(name, strict)


def _is_below(name: str, branches: Sequence[str]) -> bool:
    return any(name == branch or name.startswith(f"{branch}.") for branch in branches)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")
