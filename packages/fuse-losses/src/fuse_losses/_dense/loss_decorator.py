"""Dense losses whose options are checked once, by the annotations of their signature."""

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, ParamSpec, Union, cast, get_args, get_origin, get_type_hints

from torch import Tensor

from fuse_core import did_you_mean

from .deep_supervision import mean_over_levels
from .option_checks import (
    check_bool,
    check_choice,
    check_class_indices,
    check_int,
    check_number,
    check_numbers,
    check_regions,
    plain_number,
)
from .options import DenseOptions

_TENSORS = ("mask", "voxel_weights", "annotated")
_LOSSES_WITH: dict[str, list[str]] = {}
"""The names of the losses that have an option of their own, by its name."""

Check = Callable[[str, str, Any, bool], Any]
"""Takes the loss's name, the option's name, its value and `validate`; returns the value as the formulas take it."""
CheckTogether = Callable[[str, dict[str, Any]], None]
P = ParamSpec("P")


class DenseLoss(NamedTuple):
    """A dense loss function and how to check its options."""

    function: Callable[..., Tensor]
    """Takes logits, target, `mask` and checked options."""
    checks: dict[str, Check]
    """The check of each option, shared and its own."""
    numbers: tuple[str, ...]
    """The options that take a number for each class."""
    check_together: CheckTogether | None
    """Raises where the options do not go together."""
    place_of: Callable[[str], str] | None = None
    """Says where an option belongs that this loss does not have, or an empty string."""

    def checked(self, owner: str, options: Mapping[str, Any], others: Iterable[str] = ()) -> dict[str, Any]:
        """The options as `function` takes them.

        Args:
            owner: the loss that the errors name.
            options: as the user gave them.
            others: the loss's arguments that are no options; the error for an unknown option names them too.

        Raises:
            TypeError: an option that does not exist, or of the wrong type.
            ValueError: an option with a value that it does not take.
        """
        validate = plain_number(options.get("validate")) is True
        result: dict[str, Any] = {}
        for name, value in options.items():
            if name not in self.checks:
                hint = self.place_of(name) if self.place_of else ""
                raise unknown_option(owner, name, [*self.checks, *others], hint)
            result[name] = self.checks[name](owner, name, value, validate)
        if not result.get("include_background", True):
            result["ignore_classes"] = (0, *result.get("ignore_classes", ()))
        if result.get("regions") is not None and result.get("activation", "softmax") == "softmax":
            raise ValueError(f"{owner}(regions=) overlap, so they need activation='sigmoid', got 'softmax'.")
        if result.get("merge_unannotated") and result.get("activation", "softmax") != "softmax":
            raise ValueError(
                f"{owner}(merge_unannotated=True) merges classes of a softmax, got"
                f" activation={result['activation']!r}. Leave it out: `annotated` alone leaves classes out there."
            )
        _check_across_processes(owner, result)
        if self.check_together is not None:
            self.check_together(owner, result)
        return result

    def evaluate(self, logits: Any, target: Any, **options: Any) -> Tensor:
        """The loss of checked options; of a list of predictions, their weighted mean.

        A method of its own: in one function with the checks, torch 2.6 cannot compile a second value of a number.
        """
        if isinstance(logits, (list, tuple)):
            return mean_over_levels(self.function, logits, target, options)
        return self.function(logits, target, **options)


def dense_loss(
    check_together: CheckTogether | None = None,
    place_of: Callable[[str], str] | None = None,
    public_name: str = "",
) -> Callable[[Callable[P, Tensor]], Callable[P, Tensor]]:
    """Turn a formula into a loss that checks its options by the annotations of the formula's signature.

    Args:
        check_together: raises where options do not go together; is given the loss's name and the checked options.
        place_of: says where an unknown option belongs, or an empty string.
        public_name: the name that errors give the loss; the function's if empty.

    Returns:
        A decorator. A class finds the formula and its checks in the attribute `dense_loss` of what it returns, so that
        it checks the options once, at construction.
    """

    def decorate(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
        own = [one for one in inspect.signature(function).parameters.values() if one.kind is one.KEYWORD_ONLY]
        hints = {one.name: one.annotation for one in own if one.name not in _TENSORS} | get_type_hints(DenseOptions)
        checks = {name: _check_of(hint) for name, hint in hints.items()}
        numbers = tuple(name for name, hint in hints.items() if Tensor in get_args(hint))
        loss = DenseLoss(function, checks, numbers, check_together, place_of)
        name = public_name or function.__name__
        for option in checks.keys() - DenseOptions.__annotations__.keys():
            _LOSSES_WITH.setdefault(option, []).append(name)

        @functools.wraps(function)
        def checked(logits: Any, target: Any, **options: Any) -> Tensor:
            tensors = {one: options.pop(one) for one in _TENSORS if one in options}
            return loss.evaluate(logits, target, **loss.checked(name, options, others=_TENSORS), **tensors, owner=name)

        result: Any = checked
        # The compiler counts compilations by code object: with one for all losses, a ninth compilation would fail.
        result.__code__ = result.__code__.replace(co_name=function.__name__)
        result.dense_loss = loss
        return cast("Callable[P, Tensor]", result)

    return decorate


def _check_across_processes(owner: str, options: dict[str, Any]) -> None:
    """Raise if `across_processes` has nothing to sum: no reduction, no sums over the batch, no count of classes."""
    counts_classes = any(isinstance(options.get(name), str) for name in ("class_weights", "pos_weight"))  # "ipw"
    sums = options.get("reduction") != "none" or not options.get("per_sample", True) or counts_classes
    if options.get("across_processes") and not sums:
        raise ValueError(
            f"{owner}(across_processes=True) changes nothing with reduction='none': each value is of this process."
            " Leave it out, or use reduction='mean' or 'sum'."
        )


def unknown_option(owner: str, name: str, known: Iterable[str], hint: str = "") -> TypeError:
    """The error for an option that a loss does not have: where it belongs, the nearest known one, or else all."""
    if not hint and name in _LOSSES_WITH:
        hint = f" It is an option of {', '.join(_LOSSES_WITH[name])}."
    if not hint and (longer := [one for one in known if one.startswith(f"{name}_")]):
        hint = f" Did you mean {' or '.join(map(repr, longer))}?"
    hint = hint or did_you_mean(name, known) or f" Its options: {', '.join(sorted(known))}."
    return TypeError(f"{owner} has no option {name!r}.{hint}")


def _check_of(hint: Any) -> Check:
    """The check of an option with this annotation."""
    # The annotations are looked at here, and not in the check, because the compiler cannot trace that.
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    none = ("None",) if NoneType in kinds else ()
    choices = tuple(choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind))
    takes_numbers, takes_one = Sequence[float] in kinds, float in kinds
    others = " or ".join([*(["a number for all"] if takes_one else []), *map(repr, choices), *none]) or "None"
    check_kind: Callable[..., Any] | None = None  # for the terms of a compound loss, and what a class hands on itself
    if Sequence[Sequence[int]] in kinds:
        check_kind = check_regions
    elif get_origin(kinds[0]) is Iterable:
        check_kind = check_class_indices
    elif bool in kinds:
        check_kind = check_bool
    elif int in kinds:
        check_kind = functools.partial(check_int, others=" or None" if none else "")
    elif takes_one:
        check_kind = check_number

    def check(owner: str, option: str, value: Any, validate: bool) -> Any:
        if value is None and none:
            return None
        if takes_numbers:
            value = plain_number(value)
            if isinstance(value, str) and value in choices:
                return value
            if takes_one and isinstance(value, (int, float)):
                return check_number(owner, option, value)
            return check_numbers(owner, option, value, validate, others=others)
        if choices:
            return check_choice(owner, option, value, choices, *none)
        return value if check_kind is None else check_kind(owner, option, value)

    return check
