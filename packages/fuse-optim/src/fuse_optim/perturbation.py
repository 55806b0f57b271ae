"""Move the weights, and restore them bit by bit."""

import torch
from torch import Tensor

from .gradient_bucket import GradientBucket, copy_tensors_, local_shards


class Perturbation:
    """Perturbed weights, with copies from which they are restored.

    The buffers of the copies are kept for the next step, because allocating them again costs more than copying. No
    state_dict holds them.
    """

    # Where a step is. It stands here because Lightning's manual optimization calls methods on a copy of the optimizer's
    # attributes, which has this object in common with it.
    opened = False  # whether `first_step` or `zero_grad` has begun a step
    ending = False  # whether `second_step` is running
    overflow = False  # whether loss scaling made a gradient of the first pass infinite

    def __init__(self) -> None:
        self._buffers: dict[Tensor, Tensor] = {}
        self._saved: list[tuple[list[Tensor], list[Tensor], list[int], bool]] = []  # weights, copies, versions, foreach

    def __bool__(self) -> bool:
        """Whether weights are perturbed."""
        return bool(self._saved)

    def add(self, bucket: GradientBucket, radius: float, direction: list[Tensor], norm: Tensor) -> None:
        """Save the weights of a bucket and add `radius / norm * direction` to them."""
        weights, copies = self._copy(bucket)
        self._saved.append((weights, copies, [-1] * len(weights), bucket.foreach))  # first, in case of an interruption
        # A norm of (almost) zero gives no direction: the weights stay, instead of being divided by it.
        scale = torch.where(norm > torch.finfo(norm.dtype).tiny, radius / norm, 0.0)
        bucket.add_(bucket.params, direction, scale)
        self._saved[-1][2][:] = [weight._version for weight in weights]

    def _copy(self, bucket: GradientBucket) -> tuple[list[Tensor], list[Tensor]]:
        weights = bucket.params if bucket.foreach else local_shards(bucket.params)
        copies = []
        for param, weight in zip(bucket.params, weights, strict=True):
            buffer = self._buffers.get(param)
            kind = weight.dtype, weight.device, weight.shape
            if buffer is None or (buffer.dtype, buffer.device, buffer.shape) != kind:
                buffer = self._buffers[param] = torch.empty_like(weight, requires_grad=False)
            copies.append(buffer)
        copy_tensors_(copies, weights, bucket.foreach)
        return weights, copies

    @torch.no_grad()
    def restore(self, keep_written: bool = False) -> list[Tensor]:
        """Copy the saved weights back. Return those left out: with `keep_written`, the ones written meanwhile."""
        written: list[Tensor] = []
        for weights, copies, versions, foreach in self._saved:
            left_out = [keep_written and w._version != version for w, version in zip(weights, versions, strict=True)]
            if any(left_out):
                written += [weight for weight, out in zip(weights, left_out, strict=True) if out]
                copies = [w if out else copy for w, copy, out in zip(weights, copies, left_out, strict=True)]
            copy_tensors_(weights, copies, foreach)
        self._saved = []  # last, so that an interrupted restoration can be repeated
        self.opened = False
        return written
