"""What a pass over the logits is asked for, and what it gives."""

from typing import Literal, NamedTuple

from torch import Tensor

Activation = Literal["softmax", "sigmoid", "none"]


class Wanted(NamedTuple):
    """What to compute."""

    activation: Activation
    sums: bool = False
    """The sums over voxels."""
    squared: bool = False
    """In the sums, squares of the probabilities and of the target, outside of the overlap."""
    gamma: float | None = None
    """The exponent of the focal losses of the voxels, 0 for cross-entropy; None for no such losses. They need a
    softmax, and for another exponent than 0 class indices."""


class Results(NamedTuple):
    """Float64 for float64 logits, else float32. What is not wanted is an empty tensor."""

    overlap: Tensor
    """The sum of probability times target over the valid voxels, `[B, C]`: the true positives."""
    predicted: Tensor
    """The sum of the probabilities, `[B, C]`: true and false positives."""
    present: Tensor
    """The sum of the target, `[B, C]`: true positives and false negatives."""
    losses: Tensor
    """The focal losses of the voxels, `[B, S]`, 0 where not valid."""
