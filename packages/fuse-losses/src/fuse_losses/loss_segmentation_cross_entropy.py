"""Cross-entropy over a batch_dict."""

from typing import Unpack

from .functional.cross_entropy import CrossEntropyOptions, segmentation_cross_entropy
from .loss_dense import DenseArguments, LossDense


class SegmentationCrossEntropyArguments(DenseArguments, CrossEntropyOptions, total=False):
    """The keyword arguments of `LossSegmentationCrossEntropy`."""


class LossSegmentationCrossEntropy(LossDense):
    """`functional.segmentation_cross_entropy` of a prediction and a target of the batch_dict.

    It serves classifications (`[B, C]` and `[B]`) as well.

    Args:
        **arguments: those of `LossDense` and the options of `functional.segmentation_cross_entropy`.

    Example:
        >>> import torch
        >>> loss = LossSegmentationCrossEntropy(pred="model.logits.seg", target="data.seg", ignore_index=255)
        >>> loss({"model.logits.seg": torch.zeros(1, 2, 3), "data.seg": torch.tensor([[0, 1, 255]])})
        tensor(0.6931)
    """

    function = staticmethod(segmentation_cross_entropy)

    def __init__(self, **arguments: Unpack[SegmentationCrossEntropyArguments]) -> None:
        super().__init__(**arguments)
