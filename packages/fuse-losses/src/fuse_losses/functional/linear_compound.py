"""A compound loss of the logits that a linear layer would make, without the logits."""

from typing import Any, Unpack

from torch import Tensor

from .._dense.inputs import read_dense_inputs
from .._dense.options import TensorOptions
from .._fused.device_rules import accumulation_dtype
from .._fused.linear_pass import linear_pass
from .compound import MakePass, Terms, compound, sum_of_terms


def linear_compound_loss(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    terms: Terms,
    *,
    mask: Tensor | None = None,
    **options: Unpack[TensorOptions],
) -> Tensor:
    r"""`compound_loss` of the logits $W f + b$ of each voxel, made and used block by block.

    Neither the logits nor their gradient ever exist whole. With many classes, that saves most of the memory of a
    segmentation's last layer (a convolution with a kernel of 1) and its loss.

    Args:
        features: `[B, F, *spatial]` with up to three spatial axes, or `[B, F]`.
        weight: `[C, F]`; of a convolution with a kernel of 1, `[C, F, 1, ...]`.
        bias: `[C]`, or None.
        target: class indices or probabilities; see `DenseOptions`.
        terms: see `compound_loss`. The terms must share one pass: one kind of sums, one kind of losses of the voxels.
        mask: see `dice_loss`.
        **options: see `compound_loss`.

    Returns:
        A scalar. Its gradient can not be differentiated again.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: shapes that do not fit, a value out of range, or terms that need the whole logits.

    Example:
        >>> import torch
        >>> features, weight, bias = torch.zeros(1, 4, 3), torch.zeros(2, 4), torch.zeros(2)
        >>> linear_compound_loss(features, weight, bias, torch.tensor([[0, 1, 1]]), {"cross_entropy": 1.0})
        tensor(0.6931)
    """
    owner, given = "linear_compound_loss", {"terms": terms, **options}
    tensors: dict[str, Any] = {name: given.pop(name) for name in ("voxel_weights", "annotated") if name in given}
    checked = compound.dense_loss.checked(owner, given, others=("mask", "voxel_weights", "annotated"))  # type: ignore[attr-defined]
    check_linear_compound(owner, checked)
    return linear_compound(features, weight, bias, target, mask, {**checked, **tensors, "owner": owner})


def check_linear_compound(owner: str, options: dict[str, Any]) -> None:
    """Raise for an option that works on whole logits only."""
    names = ("merge_unannotated", "deep_supervision_weights")
    refused = [name for name in names if options.get(name, False) is not False]
    refused += ["activation='none'"] if options.get("activation") == "none" else []
    if refused:
        raise ValueError(f"{owner} takes no {' and no '.join(refused)}, which need the logits. Use compound_loss.")


def linear_compound(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    mask: Tensor | None,
    options: dict[str, Any],
) -> Tensor:
    """`linear_compound_loss` of checked options."""
    owner = options["owner"]
    for name, value in (("features", features), ("weight", weight), ("bias", bias)):
        if name == "bias" and bias is None:
            continue
        if not isinstance(value, Tensor) or not value.is_floating_point():
            received = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"{owner} takes a floating-point tensor as {name}, got {received}.")
    flat_weight = weight.flatten(1) if weight.ndim > 1 else weight
    if flat_weight.ndim != 2 or features.ndim < 2 or flat_weight.shape[1] != features.shape[1]:
        raise ValueError(
            f"{owner} takes features [B, F, *spatial] and weight [C, F], perhaps with axes of 1 behind, got shapes"
            f" {tuple(features.shape)} and {tuple(weight.shape)}."
        )
    if bias is not None and tuple(bias.shape) != (len(weight),):
        raise ValueError(f"{owner} takes bias [{len(weight)}], got shape {tuple(bias.shape)}.")
    options = dict(options)
    terms = options.pop("terms")
    # Has the shape and the type of the logits, but one element of memory.
    dtype = accumulation_dtype(features.dtype)
    stand_in = features.new_zeros((), dtype=dtype).expand(len(features), len(weight), *features.shape[2:])
    inputs = read_dense_inputs(stand_in, target, mask, options)  # type: ignore[arg-type]
    flat = features.flatten(2) if features.ndim > 2 else features[..., None]
    # A lambda, because the compiler of torch 2.6 cannot trace annotations.
    make_pass: MakePass = lambda wanted, factor: linear_pass(  # noqa: E731
        flat, flat_weight, bias, inputs.target, inputs.valid, wanted, factor, inputs.voxel_weights
    )
    return sum_of_terms(inputs, terms, make_pass, needs_logits=False)
