"""Cross-entropy over a batch_dict."""

from torch import Tensor

from .cross_entropy import segmentation_cross_entropy
from .dense_options import DenseOptions
from .loss_dense import LossDense


class LossSegmentationCrossEntropy(LossDense):
    """`functional.segmentation_cross_entropy` of a prediction and a target of the batch_dict.

    It serves classifications (`[B, C]` and `[B]`) as well. All arguments are those of `LossDense`.

    Example:
        >>> import torch
        >>> loss = LossSegmentationCrossEntropy(pred="model.logits.seg", target="data.seg", ignore_index=255)
        >>> loss({"model.logits.seg": torch.zeros(1, 2, 3), "data.seg": torch.tensor([[0, 1, 255]])})
        tensor(0.6931)
    """

    def loss(self, logits: Tensor, target: Tensor, mask: Tensor | None, options: DenseOptions) -> Tensor:
        """The loss as a function of tensors."""
        return segmentation_cross_entropy(logits, target, mask=mask, **options)
