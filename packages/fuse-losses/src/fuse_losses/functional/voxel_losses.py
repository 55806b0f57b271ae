"""What cross-entropy, focal loss and top-k cross-entropy share: a loss for each voxel, and its reduction."""

from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from .._dense.class_weights import class_counts, numbers_on_device
from .._dense.inputs import ROUNDING, DenseInputs, holds_indices
from .._dense.option_checks import check_number, check_numbers
from .._dense.options import Numbers
from .._dense.sum_over_processes import sum_over_processes
from .._fused.block_passes import Wanted
from .._fused.device_rules import accumulation_dtype, adds_by_index, counting_dtype, values_may_be_read
from .._fused.focal_term import focal_term
from .._fused.memory_saving_gradient import one_pass
from .._fused.probabilities import by_class, class_probabilities, zero_where_invalid
from .._fused.safe_division import divide_or_zero

Alpha = float | Numbers
PosWeight = float | Numbers | Literal["ipw"]


def check_voxel_options(owner: str, options: dict[str, Any]) -> None:
    """Raise where `alpha`, `pos_weight` and `label_smoothing` do not go together with the activation."""
    softmax = options.get("activation", "softmax") == "softmax"
    check_number(owner, "label_smoothing", options.get("label_smoothing", 0.0), at_most=1.0)
    if softmax and options.get("pos_weight") is not None:
        raise ValueError(
            f"{owner}(pos_weight=) weighs the positives of a sigmoid, got activation='softmax'. Use class_weights, or"
            " activation='sigmoid'."
        )
    alpha = options.get("alpha")
    if alpha is None or softmax:
        return
    number = isinstance(alpha, (int, float))
    sigmoid = options["activation"] == "sigmoid" or options.get("regions") is not None
    if number and sigmoid:
        check_number(owner, "alpha", alpha, at_most=1.0)
    elif not number and (sigmoid or len(alpha) == 1):  # one number in a list is for a single channel
        check_numbers(owner, "alpha", alpha, options.get("validate", False), at_most=1.0)


def is_binary(inputs: DenseInputs) -> bool:
    """Whether each channel is a probability by itself."""
    settings = inputs.settings
    return settings.activation == "sigmoid" or settings.regions is not None or inputs.logits.shape[1] == 1


def voxel_losses(
    inputs: DenseInputs,
    gamma: float = 0.0,
    alpha: Alpha | None = None,
    label_smoothing: float = 0.0,
    pos_weight: PosWeight | None = None,
) -> Tensor:
    """The weighted focal losses of the voxels, `[B, S]`, or where channels are by themselves `[B, C, S]`.

    With `gamma` 0 it is the cross-entropy. The losses are 0 where not valid.
    """
    if is_binary(inputs):
        if isinstance(alpha, (int, float)):
            check_number(inputs.settings.owner, "alpha", alpha, at_most=1.0)
        losses = _binary_losses(inputs, gamma, alpha, label_smoothing, pos_weight)
    else:
        if pos_weight is not None:
            raise ValueError(f"{inputs.settings.owner} takes pos_weight for a sigmoid or a single channel only.")
        losses = _categorical_losses(inputs, gamma, class_factor(inputs, alpha), label_smoothing)
    if inputs.voxel_weights is None:
        return losses
    return losses * (inputs.voxel_weights if losses.ndim == 2 else inputs.voxel_weights[:, None])


def class_factor(inputs: DenseInputs, alpha: Alpha | None = None) -> Tensor | None:
    """The factors of the classes `[C]`: class weights times alpha; None for 1."""
    factor, weights = _of_classes("alpha", alpha, inputs), inputs.class_weights
    if factor is None or weights is None:
        return weights if factor is None else factor
    return factor * weights


def reduce_voxels(losses: Tensor, inputs: DenseInputs, divisor: Tensor | None = None) -> Tensor:
    """Reduce the losses that `voxel_losses` gave; a mean divides by the sum of all weights if not told otherwise."""
    settings = inputs.settings
    if settings.reduction == "none":
        return losses.reshape(*losses.shape[:-1], *inputs.spatial)
    total = sum_over_processes(losses.sum(), settings.across_processes)
    if settings.reduction == "sum":
        return total
    divisor = (_divisor(inputs) if divisor is None else divisor).to(losses.dtype)
    divisor = sum_over_processes(divisor, settings.across_processes)
    inputs.record("counted", divisor)
    all_count = inputs.valid is None and inputs.voxel_weights is None and inputs.class_weights is None
    if all_count and holds_indices(inputs.target) and losses.numel() > 0:
        return total / divisor  # not 0, so that a GPU need not start the kernels that look
    return divide_or_zero(total, divisor)


def _categorical_losses(inputs: DenseInputs, gamma: float, factor: Tensor | None, label_smoothing: float) -> Tensor:
    """The losses `[B, S]` of probabilities over the classes."""
    logits, target, valid = inputs.logits, inputs.target, inputs.valid
    classes, dtype = logits.shape[1], accumulation_dtype(logits.dtype)
    if inputs.results is not None and label_smoothing == 0:
        return inputs.results.losses
    if label_smoothing != 0:
        target = class_probabilities(target, valid, classes, dtype)
        target = target * (1 - label_smoothing) + label_smoothing * _share_of_each_class(inputs, dtype)
    activation = inputs.settings.activation
    if activation == "softmax" and (holds_indices(target) or gamma == 0):
        return one_pass(logits, target, valid, Wanted(activation, gamma=gamma), factor).losses
    if valid is None or valid.ndim == 2:
        logits = zero_where_invalid(logits, valid)
    if activation == "softmax":
        log_probabilities = torch.log_softmax(logits, dim=1, dtype=dtype)
    else:
        _check_sums(inputs)
        log_probabilities = _safe_log(zero_where_invalid(logits, valid).to(dtype))
    truth = class_probabilities(target, valid, classes, dtype)
    log_probabilities = torch.where(truth == 0, 0.0, log_probabilities)  # minus infinity times 0 would be NaN
    terms = truth * focal_term(log_probabilities, gamma)
    return (terms if factor is None else terms * factor[:, None]).sum(1)


def _check_sums(inputs: DenseInputs) -> None:
    """Raise if probabilities sum to more than 1 over the classes, where looking costs no synchronization."""
    prediction, settings = inputs.logits.detach(), inputs.settings
    if prediction.numel() == 0 or not values_may_be_read(prediction, settings.validate):
        return
    highest = zero_where_invalid(prediction, inputs.valid).float().sum(1).amax()
    if highest > 1 + ROUNDING:
        raise ValueError(
            f"{settings.owner} with activation='none' takes probabilities that sum to 1 over the classes, got a sum of"
            f" {highest:g}. For channels by themselves pass logits and activation='sigmoid'."
        )


def _binary_losses(
    inputs: DenseInputs, gamma: float, alpha: Alpha | None, label_smoothing: float, pos_weight: PosWeight | None
) -> Tensor:
    """The losses `[B, C, S]` of channels that are probabilities by themselves."""
    dtype = accumulation_dtype(inputs.logits.dtype)
    logits = zero_where_invalid(inputs.logits, inputs.valid).to(dtype)
    positive = class_probabilities(inputs.target, inputs.valid, logits.shape[1], dtype)
    weight = _of_classes("pos_weight", pos_weight, inputs)
    if label_smoothing != 0:
        positive = positive * (1 - label_smoothing) + label_smoothing / 2
    if inputs.settings.activation == "sigmoid":
        log_p, log_rest = logsigmoid(logits), logsigmoid(-logits)
    else:
        log_p, log_rest = _safe_log(logits), _safe_log(1 - logits)
    # exp(gamma * log(1 - p)) is (1 - p) ** gamma with a gradient that is finite for every gamma
    on_positive = -log_p if gamma == 0 else -log_p * torch.exp(gamma * log_rest)
    on_negative = -log_rest if gamma == 0 else -log_rest * torch.exp(gamma * log_p)
    if weight is not None:
        on_positive = on_positive * weight[:, None]
    share = _of_classes("alpha", alpha, inputs)
    if share is None:
        losses = positive * on_positive + (1 - positive) * on_negative
    else:
        share = share[:, None]
        losses = share * positive * on_positive + (1 - share) * (1 - positive) * on_negative
    if inputs.class_weights is not None:
        losses = losses * inputs.class_weights[:, None]
    return zero_where_invalid(losses, inputs.valid)


def _share_of_each_class(inputs: DenseInputs, dtype: torch.dtype) -> Tensor | float:
    """What label smoothing gives to each class: 1 / K, where K leaves out the classes merged into the background."""
    if inputs.annotated is None or not inputs.settings.merge_unannotated:
        return 1 / inputs.logits.shape[1]
    kept = torch.cat([torch.ones_like(inputs.annotated[:, :1]), inputs.annotated[:, 1:]], 1).to(dtype)
    return (kept / kept.sum(1, keepdim=True))[:, :, None]


def _safe_log(probabilities: Tensor) -> Tensor:
    return probabilities.clamp(min=torch.finfo(probabilities.dtype).eps, max=1.0).log()


def _divisor(inputs: DenseInputs) -> Tensor:
    """What a mean divides by: the sum of the weights that took part."""
    logits, target, valid, weights = inputs.logits, inputs.target, inputs.valid, inputs.class_weights
    classes = logits.shape[1]
    if is_binary(inputs):
        counts = _valid_counts(inputs)
        return counts.expand(classes).sum() if weights is None else (counts * weights).sum()
    if weights is None and holds_indices(target):
        return _valid_counts(inputs).squeeze(0)
    if inputs.results is not None and inputs.results.present.numel() and holds_indices(target):
        counts = inputs.results.present.sum(0)  # a compound loss has counted them
    elif weights is not None and holds_indices(target) and not adds_by_index(target.device):
        return _sum_of_looked_up(weights, inputs)
    else:
        counts = class_counts(target, valid, classes, inputs.voxel_weights)
    return counts.sum() if weights is None else (counts * weights).sum()


def _sum_of_looked_up(weights: Tensor, inputs: DenseInputs) -> Tensor:
    """The sum over the valid voxels of the weights of their classes, without a count of each class."""
    index = inputs.target.long()
    if inputs.valid is not None:
        index = torch.where(inputs.valid, index, len(weights))
        weights = torch.cat([weights, torch.zeros_like(weights[:1])])
    of_voxels = weights[index]
    return (of_voxels if inputs.voxel_weights is None else of_voxels * inputs.voxel_weights).sum()


def _valid_counts(inputs: DenseInputs) -> Tensor:
    """The number of valid voxels of the batch, or the sum of their weights, `[1]` or by class `[C]`."""
    valid, weights = inputs.valid, inputs.voxel_weights
    if valid is None and weights is None:
        samples, _, voxels = inputs.logits.shape
        dtype = counting_dtype(inputs.logits.device)
        return torch.full((1,), samples * voxels, dtype=dtype, device=inputs.logits.device)
    if valid is None:
        return cast(Tensor, weights).sum().reshape(1)
    valid = by_class(valid)
    return (valid if weights is None else valid * weights[:, None]).sum((0, 2))


def _of_classes(option: str, numbers: PosWeight | None, inputs: DenseInputs) -> Tensor | None:
    """The numbers of an option as `[C]`; None for none."""
    classes, device = inputs.logits.shape[1], inputs.logits.device
    dtype = accumulation_dtype(inputs.logits.dtype)
    if numbers is None:
        return None
    if isinstance(numbers, str):  # "ipw": negatives for each positive
        truth = (
            inputs.target
            if inputs.target.ndim == 3
            else inputs.target[:, None] == torch.arange(classes, device=device).unsqueeze(1)
        )
        positives = class_counts(truth, inputs.valid, classes)
        counts = _valid_counts(inputs.changed(voxel_weights=None)).to(positives.dtype).expand(classes)
        positives, counts = (
            sum_over_processes(one, inputs.settings.across_processes) for one in (positives, counts.clone())
        )
        occurs = positives > 0
        return torch.where(occurs, (counts - positives) / torch.where(occurs, positives, 1.0), 1.0).to(dtype)
    if isinstance(numbers, (int, float)):
        return torch.full((classes,), float(numbers), dtype=dtype, device=device)
    factors = numbers_on_device(numbers, dtype, device)
    if len(factors) != classes:
        owner = inputs.settings.owner
        raise ValueError(f"{owner} got {len(factors)} values of {option} for a prediction of {classes} classes.")
    return factors
