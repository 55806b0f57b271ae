"""Block 4 of the segmentation task, a metric of your own: the Dice of each class."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric


class DiceByClass(Metric):
    r"""The Dice of each class, over all pixels since the last reset, and their mean without the background.

    .. math::
        Dice_c = \frac{2 \, |P_c \cap T_c|}{|P_c| + |T_c|}

    where :math:`P_c` are the pixels predicted as class :math:`c` and :math:`T_c` the pixels of class :math:`c`. A class
    without any of both is NaN, and the mean leaves it out.

    `MetricDefault` takes any `torchmetrics.Metric`. To write one: add states and say how processes combine them, define
    `update` for a batch, and define `compute`. If `compute` returns a dict, its entries are logged as
    `<mode>.metrics.<metric>.<name>`.

    Args:
        classes: the classes' names; the first is the background.

    Shape:
        `update` takes the predicted and the true classes as integers of the same shape; 0 is the background.

    Example:
        >>> metric = DiceByClass(["background", "lesion"])
        >>> metric.update(torch.tensor([[0, 1, 1, 0]]), torch.tensor([[0, 0, 1, 0]]))
        >>> metric.compute()
        {'mean': tensor(0.6667), 'background': tensor(0.8000), 'lesion': tensor(0.6667)}
    """

    full_state_update = False
    intersection: Tensor
    predicted: Tensor
    true: Tensor

    def __init__(self, classes: Sequence[str]) -> None:
        super().__init__()
        self.classes = tuple(classes)
        for name in ("intersection", "predicted", "true"):
            self.add_state(name, torch.zeros(len(self.classes), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add one batch."""
        # A sum for each class needs no synchronization with the device; bincount would.
        for index in range(len(self.classes)):
            predicted, true = prediction == index, target == index
            self.intersection[index] += (predicted & true).sum()
            self.predicted[index] += predicted.sum()
            self.true[index] += true.sum()

    def compute(self) -> dict[str, Tensor]:
        """The mean, and the Dice of each class."""
        dice = 2 * self.intersection / (self.predicted + self.true)
        return {"mean": dice[1:].nanmean(), **dict(zip(self.classes, dice, strict=True))}
