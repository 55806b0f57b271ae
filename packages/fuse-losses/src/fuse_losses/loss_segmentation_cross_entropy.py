"""Cross-entropy over a batch_dict."""

from typing import Unpack

from ._dense.options import DenseOptions
from .functional.cross_entropy import segmentation_cross_entropy
from .loss_dense import DenseArguments, LossDense


class SegmentationCrossEntropyArguments(DenseArguments, DenseOptions, total=False):
    """The keyword arguments of `LossSegmentationCrossEntropy` beside its keys."""


class LossSegmentationCrossEntropy(LossDense):
    """`functional.segmentation_cross_entropy` of a prediction and a target of the batch_dict.

    It serves classifications (`[B, C]` and `[B]`) as well.

    Args:
        pred: the key of the prediction.
        target: the key of the ground truth.
        **arguments: those of `LossDense` and `DenseOptions`.

    Example:
        >>> import torch
        >>> loss = LossSegmentationCrossEntropy(pred="model.logits.seg", target="data.seg", ignore_index=255)
        >>> loss({"model.logits.seg": torch.zeros(1, 2, 3), "data.seg": torch.tensor([[0, 1, 255]])})
        tensor(0.6931)
    """

    function = staticmethod(segmentation_cross_entropy)

    def __init__(self, *, pred: str, target: str, **arguments: Unpack[SegmentationCrossEntropyArguments]) -> None:
        super().__init__(pred=pred, target=target, **arguments)
