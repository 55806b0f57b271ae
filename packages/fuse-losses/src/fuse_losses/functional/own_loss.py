"""A dense loss of the user's own: masks, weights and reduction for the values that a formula gives."""

from collections.abc import Callable, Iterable
from typing import Any, Literal, Unpack, cast

import torch
from torch import Tensor

from .._dense.inputs import read_dense_inputs
from .._dense.loss_decorator import dense_loss
from .._dense.options import TensorOptions
from .._fused.probabilities import by_class, class_probabilities, probabilities_of, zero_where_invalid
from .overlap import reduce_classes
from .voxel_losses import reduce_voxels

Values = Literal["voxel and class", "voxel", "class"]


def _check_own_loss(owner: str, options: dict[str, Any]) -> None:
    """Raise for an option that cannot be applied to values of this kind."""
    if options.get("values_for") != "voxel":
        return
    refused = {
        "class_weights": options.get("class_weights") is not None,
        "include_background=False": options.get("include_background") is False,
        "ignore_classes": bool(options.get("ignore_classes")),
    }
    for option, given in refused.items():
        if given:
            raise ValueError(
                f"{owner} returns values for voxels, to which {option} cannot be applied. Return them for"
                ' "voxel and class".'
            )


def check_keys(owner: str, values_for: Values, keys: Iterable[str], activation: str) -> None:
    """Raise for the key of a tensor that cannot be applied to values of this kind.

    Args:
        owner: the class that the error names.
        values_for: what the class returns a number for.
        keys: the tensors that it has keys for, such as `"voxel_weights"`.
        activation: as given.
    """
    refused = {"class": "voxel_weights", "voxel": "annotated"}.get(values_for, "")
    if refused in keys and (values_for == "class" or activation != "softmax"):
        raise ValueError(
            f"{owner} says values_for={values_for!r}, to which {refused}_key cannot be applied. Return values for"
            ' "voxel and class".'
        )


@dense_loss(_check_own_loss, public_name="LossDense")
def own_loss(
    logits: Tensor,
    target: Tensor,
    *,
    values_for: Values = "voxel and class",
    values: Callable[[Tensor, Tensor], Tensor] | None = None,
    mask: Tensor | None = None,
    **options: Unpack[TensorOptions],
) -> Tensor:
    """The loss that `LossDense` makes of the `values` of a subclass."""
    inputs = read_dense_inputs(logits, target, mask, options)
    settings, valid = inputs.settings, inputs.valid
    owner, shape = settings.owner, inputs.logits.shape
    if values_for == "class" and inputs.voxel_weights is not None:
        raise ValueError(f"{owner} returns values for classes, to which voxel_weights cannot be applied.")
    if values_for == "voxel" and valid is not None and valid.ndim == 3:
        raise ValueError(
            f"{owner} returns values for voxels, to which a mask for each class, or annotated, cannot be applied."
        )
    masked = inputs.logits if valid is not None and valid.ndim == 3 else zero_where_invalid(inputs.logits, valid)
    probabilities = zero_where_invalid(probabilities_of(masked, settings.activation), valid)
    truth = class_probabilities(inputs.target, valid, shape[1], probabilities.dtype)
    result = cast("Callable[[Tensor, Tensor], Tensor]", values)(probabilities, truth)
    expected = {"voxel and class": shape, "voxel": (shape[0], shape[2]), "class": shape[:2]}[values_for]
    if not isinstance(result, Tensor) or tuple(result.shape) != tuple(expected):
        received = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
        raise ValueError(
            f"{owner} says values_for={values_for!r}, so values returns {tuple(expected)}, got {received}."
        )
    if values_for == "class":
        counted = by_class(torch.ones_like(probabilities[:, :1], dtype=torch.bool) if valid is None else valid).any(2)
        return reduce_classes(result, counted.expand(shape[:2]), inputs, per_sample=True)
    weights = torch.ones_like(result)
    if values_for == "voxel and class" and inputs.class_weights is not None:
        weights = weights * inputs.class_weights[:, None]
    if values_for == "voxel and class" and inputs.annotated is not None:
        weights = weights * inputs.annotated[:, :, None]
    if inputs.voxel_weights is not None:
        weights = weights * (inputs.voxel_weights if values_for == "voxel" else inputs.voxel_weights[:, None])
    if valid is not None:
        weights = torch.where(valid if values_for == "voxel" else by_class(valid), weights, 0.0)
    losses = torch.where(weights == 0, 0.0, result * weights)
    return reduce_voxels(losses, inputs, weights.sum())
