"""A copy of the weights, from which they are restored."""

import torch
from torch import Tensor

from .gradient_bucket import GradientBucket, copy_tensors_, local_shards


class SavedWeights:
    """Copies of weights that are about to be perturbed.

    The buffers are kept for the next step, because allocating them again costs more than copying. No state_dict holds
    them.
    """

    def __init__(self) -> None:
        self._buffers: dict[Tensor, Tensor] = {}
        self._saved: list[tuple[list[Tensor], list[Tensor], bool]] = []  # weights, copies, foreach

    def save(self, bucket: GradientBucket) -> None:
        """Copy the weights of a bucket."""
        weights = bucket.params if bucket.foreach else local_shards(bucket.params)
        copies = []
        for param, weight in zip(bucket.params, weights, strict=True):
            buffer = self._buffers.get(param)
            if buffer is None or not _alike(buffer, weight):
                buffer = self._buffers[param] = torch.empty_like(weight, requires_grad=False)
            copies.append(buffer)
        copy_tensors_(copies, weights, bucket.foreach)
        self._saved.append((weights, copies, bucket.foreach))

    def restore(self) -> None:
        """Copy the saved weights back, bit by bit."""
        for weights, copies, foreach in self._saved:
            copy_tensors_(weights, copies, foreach)
        self._saved = []  # last, so that an interrupted restoration can be repeated


def _alike(buffer: Tensor, weight: Tensor) -> bool:
    return buffer.shape == weight.shape and buffer.dtype == weight.dtype and buffer.device == weight.device
