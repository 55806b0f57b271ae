"""The options that all dense losses share: what they mean, their defaults, and their checks."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypedDict, get_args

import torch
from torch import Tensor

from fuse_core import nearest_keys

Activation = Literal["softmax", "sigmoid", "none"]
Reduction = Literal["none", "mean", "sum"]
ResizeMode = Literal["nearest", "maxpool", "area"]
ClassWeights = Sequence[float] | Tensor | Literal["ipw"]
RESIZE_MODES: tuple[ResizeMode, ...] = get_args(ResizeMode)
_ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)
_REDUCTIONS: tuple[Reduction, ...] = get_args(Reduction)


class DenseOptions(TypedDict, total=False):
    """The keyword arguments that every dense loss takes, as a function and as a class.

    The prediction is `[B, C, *spatial]` with up to three spatial axes, or `[B, C]`. The target holds class indices
    (`[B, *spatial]` or `[B, 1, *spatial]`, of an integer type or bool) or a probability for each class
    (`[B, C, *spatial]`: one-hot, soft or multilabel). With one channel the target is that channel's, `[B, *spatial]` or
    `[B, 1, *spatial]`.
    """

    activation: Activation
    """Turns the prediction into probabilities: `"softmax"` over the classes (the default), `"sigmoid"` for each channel
    by itself, or `"none"` where the prediction holds probabilities already."""

    class_weights: ClassWeights | None
    """A factor of each class, C numbers, or `"ipw"`: the weights of `inverse_proportion_weights` for the batch at hand.
    Under `"mean"` the weighted sum is divided by the sum of the weights that took part, so only their ratios matter;
    under `"sum"` and `"none"` they multiply as they are."""

    ignore_index: int | None
    """Voxels of this class index do not count, as if they were not there. Any integer, whether or not it is a class. In
    a target with a channel for each class these are the voxels whose channel `ignore_index` is 1, or if there is no
    such channel, those where any channel holds this value."""

    include_background: bool
    """False is `ignore_classes=[0]`."""

    ignore_classes: Iterable[int]
    """Classes without a term in the loss. They take part in the softmax, and their voxels are negatives of the other
    classes."""

    reduction: Reduction
    """`"mean"` (the default), `"sum"`, or `"none"`; every loss documents its shape."""

    resize_mode: ResizeMode | None
    """How `resize_target` brings the target to the prediction's spatial size, and with it the mask. None, the default,
    demands equal sizes."""

    validate: bool
    """Check the values of targets, of weights and, with `activation="none"`, of predictions on other devices than the
    CPU too, at the price of a synchronisation. On the CPU they are always checked, but not in a compiled loss."""


class DenseSettings(NamedTuple):
    """`DenseOptions` with their defaults."""

    activation: Activation = "softmax"
    class_weights: ClassWeights | None = None
    ignore_index: int | None = None
    include_background: bool = True
    ignore_classes: tuple[int, ...] = ()
    reduction: Reduction = "mean"
    resize_mode: ResizeMode | None = None
    validate: bool = False


def dense_settings(loss: str, options: Mapping[str, Any]) -> DenseSettings:
    """The options with their defaults, after checking what can be checked without data.

    Args:
        loss: the loss that they are for, named by the errors.
        options: see `DenseOptions`.

    Raises:
        TypeError: an option that does not exist, or of the wrong type.
        ValueError: an option with a value that it does not take.
    """
    for name in options:
        if name not in DenseSettings._fields:
            nearest = nearest_keys(name, DenseSettings._fields, n=1) or DenseSettings._fields
            raise TypeError(f"{loss} has no option {name!r}. Nearest: {', '.join(nearest)}.")
    settings = DenseSettings(**options)
    check_choice(loss, "activation", settings.activation, _ACTIVATIONS)
    check_choice(loss, "reduction", settings.reduction, _REDUCTIONS)
    if settings.resize_mode is not None:
        check_choice(loss, "resize_mode", settings.resize_mode, RESIZE_MODES, "None")
    if settings.ignore_index is not None and not _is_int(settings.ignore_index):
        raise TypeError(f"{loss}(ignore_index=) takes an int or None, got {settings.ignore_index!r}.")
    if isinstance(settings.ignore_classes, str) or not isinstance(settings.ignore_classes, Iterable):
        raise TypeError(f"{loss}(ignore_classes=) takes several ints, got {settings.ignore_classes!r}.")
    ignored = tuple(settings.ignore_classes)
    if not all(_is_int(one) and one >= 0 for one in ignored):
        raise ValueError(f"{loss}(ignore_classes=) takes class indices from 0, got {list(ignored)}.")
    if not settings.include_background:
        ignored = (0, *ignored)
    check_bool(loss, "include_background", settings.include_background)
    check_bool(loss, "validate", settings.validate)
    check_class_weights(loss, settings.class_weights, settings.validate)
    return DenseSettings(**{**options, "ignore_classes": ignored})


def check_choice(loss: str, option: str, value: object, choices: Sequence[str], *others: str) -> None:
    """Raise a ValueError unless `value` is one of `choices`; `others` are named beside them."""
    if value not in choices:
        listed = ", ".join([*map(repr, choices), *others])
        raise ValueError(f"{loss}({option}=) is one of {listed}, got {value!r}.")


def check_bool(loss: str, option: str, value: object) -> None:
    """Raise a TypeError unless `value` is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{loss}({option}=) takes True or False, got {value!r}.")


def check_number(loss: str, option: str, value: object, *, at_most: float = math.inf) -> None:
    """Raise unless `value` is a finite number from 0 to `at_most`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{loss}({option}=) takes a number, got {value!r}.")
    if not (0 <= value <= at_most and value < math.inf):  # not isfinite, which the compiler cannot trace
        upper = "" if at_most == math.inf else f" and at most {at_most:g}"
        raise ValueError(f"{loss}({option}=) is a finite number of at least 0{upper}, got {value!r}.")


def check_class_weights(loss: str, weights: object, validate: bool) -> None:
    """Raise unless `weights` are None, `"ipw"`, or finite numbers of at least 0, one for each class."""
    if isinstance(weights, str) and weights == "ipw":
        return
    if (weights is not None and not isinstance(weights, (Tensor, Sequence))) or isinstance(weights, str):
        raise TypeError(f"{loss}(class_weights=) takes a number for each class, 'ipw' or None, got {weights!r}.")
    check_numbers(loss, "class_weights", weights, validate)


def check_numbers(
    loss: str, option: str, values: Tensor | Sequence[float] | None, validate: bool, *, at_most: float = math.inf
) -> None:
    """Raise unless `values` are finite numbers from 0 to `at_most`, one for each class; None are none."""
    if isinstance(values, Tensor):
        if values.ndim != 1:
            raise ValueError(f"{loss}({option}=) has one axis, over the classes, got shape {tuple(values.shape)}.")
        if values_may_be_read(values, validate):
            check_numbers(loss, option, [float(one) for one in values.tolist()], validate, at_most=at_most)
        return
    for value in values or ():
        check_number(loss, option, value, at_most=at_most)


def values_may_be_read(tensor: Tensor, validate: bool) -> bool:
    """Whether Python may look at the values: it costs no synchronisation, or was asked for, and nothing is tracing."""
    return (validate or tensor.device.type == "cpu") and not torch.compiler.is_compiling()


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
