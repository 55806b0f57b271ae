"""The options that all dense losses share."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple, TypedDict, get_args

from torch import Tensor

from .._fused.probabilities import Activation

Reduction = Literal["none", "mean", "sum"]
ResizeMode = Literal["nearest", "maxpool", "area"]
Numbers = Sequence[float] | Tensor
ClassWeights = Numbers | Literal["ipw"]
RESIZE_MODES: tuple[ResizeMode, ...] = get_args(ResizeMode)


class DenseOptions(TypedDict, total=False):
    """The keyword arguments that every dense loss takes, as a function and as a class.

    The prediction is `[B, C, *spatial]` with up to three spatial axes, or `[B, C]`. The target holds class indices
    (`[B, *spatial]` or `[B, 1, *spatial]`, of an integer type or bool) or a probability for each class
    (`[B, C, *spatial]`: one-hot, soft or multilabel). With one channel the target is that channel's, `[B, *spatial]` or
    `[B, 1, *spatial]`.

    Example:
        >>> from fuse_losses import LossDice, LossFocal
        >>> options: DenseOptions = {"include_background": False, "ignore_index": 255}
        >>> dice, focal = LossDice(**options), LossFocal(gamma=2.0, **options)
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
    a target with a channel for each class these are the voxels whose channel `ignore_index` is 1. If there is no such
    channel, these are the voxels where any channel holds this value; without a softmax, only the entries that hold
    it."""

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

    regions: Sequence[Sequence[int]] | None
    """The classes that each channel of the prediction stands for, as in BraTS: `[[1, 2, 3], [2, 3], [3]]`. The target
    then holds class indices, and the truth of a channel is the union of its classes. A class of no region is
    background: list every label, or leave unlabeled voxels out with `ignore_index`. For `activation="sigmoid"` and
    `"none"`."""

    merge_unannotated: bool
    """With a softmax and `annotated`: add the probabilities of the classes that were not annotated to that of the
    background, class 0 (the marginal loss of Shi et al. 2021). What the target holds for these classes is background
    then."""

    deep_supervision_weights: Sequence[float] | Literal["halved", "halved_without_last"]
    """The weights of the predictions where the prediction is a list, the finest first; they are scaled to a sum of 1.
    `"halved"`, the default, is 1, 1/2, 1/4, ...; `"halved_without_last"` leaves the coarsest out, as nnU-Net does. The
    target is brought to the size of each by `resize_mode`."""

    across_processes: bool
    """Take the sums, and what a mean divides by, over the batches of all processes of a distributed training. Value and
    gradient are then those of one process with the whole batch, as batch Dice (`per_sample=False`) needs it, and so is
    `counted` of a class. Every process must call the loss."""

    validate: bool
    """Check the values of targets, of weights and, with `activation="none"`, of predictions on other devices than the
    CPU too, at the price of a synchronization. On the CPU they are always checked, but not in a compiled loss."""


class TensorOptions(DenseOptions, total=False):
    """`DenseOptions` and the tensors beside prediction, target and mask that a loss takes as a function.

    A class takes the keys of these tensors instead.
    """

    voxel_weights: Tensor | None
    """A factor of each voxel, at least 0, `[B, *spatial]`. Like class weights, they also weigh in what `"mean"` divides
    by."""

    annotated: Tensor | None
    """Which classes were annotated in each sample, bool `[B, C]`. The others do not count there. With a softmax,
    `merge_unannotated=True` is needed."""


class DenseSettings(NamedTuple):
    """`TensorOptions` with their defaults, checked, and what a class adds to them."""

    owner: str
    """The loss as the user made it, which every error names."""
    record: dict[str, Any] | None = None
    """Where a loss writes how much it counted, and a compound loss its terms; None for nowhere."""
    shared: Any = None
    """The `DenseInputs` that a compound loss has read for all its terms."""
    voxel_weights: Tensor | None = None
    annotated: Tensor | None = None
    activation: Activation = "softmax"
    class_weights: ClassWeights | None = None
    ignore_index: int | None = None
    include_background: bool = True
    ignore_classes: tuple[int, ...] = ()
    reduction: Reduction = "mean"
    resize_mode: ResizeMode | None = None
    regions: tuple[tuple[int, ...], ...] | None = None
    merge_unannotated: bool = False
    deep_supervision_weights: Sequence[float] | str = "halved"
    across_processes: bool = False
    validate: bool = False
