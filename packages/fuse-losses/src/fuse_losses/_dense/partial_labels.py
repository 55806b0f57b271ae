"""Classes that were not annotated in a sample."""

import torch
from torch import Tensor

from .._fused.device_rules import accumulation_dtype, values_may_be_read
from .options import DenseSettings


def merge_into_background(logits: Tensor, annotated: Tensor) -> Tensor:
    """Logits in which the classes that were not annotated are a part of the background.

    The background's probability becomes the sum of its own and theirs, and theirs become 0. Shi et al. 2021, "Marginal
    loss and exclusion loss for partially supervised multi-organ segmentation", eq. 3.

    Args:
        logits: `[B, C, S]`; class 0 is the background.
        annotated: bool `[B, C]`.
    """
    merged = ~annotated
    merged = torch.cat([torch.ones_like(merged[:, :1]), merged[:, 1:]], 1)[..., None]
    logits = logits.to(accumulation_dtype(logits.dtype))
    lowest = torch.finfo(logits.dtype).min / 4
    background = torch.logsumexp(torch.where(merged, logits, lowest), 1, keepdim=True)
    rest = torch.where(merged[:, 1:], lowest, logits[:, 1:])
    return torch.cat([background, rest], 1)


def background_target(target: Tensor, annotated: Tensor) -> Tensor:
    """A target in which the classes that were not annotated are background."""
    if target.ndim == 2:
        index = target.long()  # uint8 compared with 256 would wrap around
        is_class = (index >= 0) & (index < annotated.shape[1])
        known = annotated.gather(1, torch.where(is_class, index, 0)) | ~is_class
        return torch.where(known, target, 0)
    merged = ~annotated
    merged = torch.cat([torch.zeros_like(merged[:, :1]), merged[:, 1:]], 1)[..., None]
    rest = torch.where(merged, 0, target)
    background = rest[:, :1] + torch.where(merged, target, 0).sum(1, keepdim=True).to(target.dtype)
    return torch.cat([background, rest[:, 1:]], 1)


def read_annotated(logits: Tensor, settings: DenseSettings) -> Tensor | None:
    """Which classes were annotated in each sample, bool `[B, C]`."""
    annotated = settings.annotated
    if annotated is None:
        return None
    owner, shape = settings.owner, tuple(logits.shape[:2])
    if not isinstance(annotated, Tensor) or tuple(annotated.shape) != shape:
        received = tuple(annotated.shape) if isinstance(annotated, Tensor) else type(annotated).__name__
        raise ValueError(f"{owner} takes annotated {list(shape)}, one bool for each sample and class, got {received}.")
    if settings.activation == "softmax" and not settings.merge_unannotated:
        raise ValueError(
            f"{owner} got annotated classes with a softmax, in which a class that was not annotated is taken for"
            " background. Use merge_unannotated=True, or activation='sigmoid'."
        )
    if annotated.dtype != torch.bool and values_may_be_read(annotated, settings.validate):
        wrong = annotated[(annotated != 0) & (annotated != 1)]
        if wrong.numel():
            raise ValueError(f"{owner} takes annotated of 0 and 1, or bool, got {float(wrong[0]):g}.")
    return annotated.bool()
