"""A copy of the weights, for bringing them back."""

import torch
from torch import Tensor

from .gradient_bucket import GradientBucket, local_shards


class SavedWeights:
    """Copies of weights that are about to be perturbed.

    The buffers are kept for the next step, because allocating them anew costs more than copying. They are not part of
    any state_dict.
    """

    def __init__(self) -> None:
        self._buffers: dict[Tensor, Tensor] = {}
        self._saved: list[tuple[GradientBucket, list[Tensor], list[Tensor]]] = []

    def __bool__(self) -> bool:
        """Whether weights are saved that were not restored."""
        return bool(self._saved)

    def save(self, bucket: GradientBucket) -> None:
        """Copy the weights of a bucket."""
        weights = local_shards([param.detach() for param in bucket.params])
        copies = []
        for param, weight in zip(bucket.params, weights, strict=True):
            buffer = self._buffers.get(param)
            if buffer is None or (buffer.shape, buffer.dtype, buffer.device) != (
                weight.shape,
                weight.dtype,
                weight.device,
            ):
                buffer = self._buffers[param] = torch.empty_like(weight)
            copies.append(buffer)
        bucket.copy_(copies, weights)
        self._saved.append((bucket, weights, copies))

    def restore(self) -> None:
        """Copy back, bit by bit, what was saved."""
        for bucket, weights, copies in self._saved:
            bucket.copy_(weights, copies)
        self._saved = []  # last, so that an interrupted restoration can be done again
