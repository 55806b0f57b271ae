"""The segmentation task: which pixel belongs to which digit? Blocks 2 to 4: model, losses and metrics, with their keys.

The keys, from the loader to the predictions:

    data.image [B, 1, H, W] ──> model ──> model.logits.digits [B, 11, H, W] and model.output.digits [B, H, W]
    model.logits.digits ──> Dice loss and cross-entropy, with data.mask [B, H, W]
    model.output.digits, the likeliest class of each pixel ──> Dice by class, with data.mask
    model.output.digits ──> predicted_masks.npz, predictions.csv
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from fuse_core import logits_key, output_key
from fuse_lightning import MetricDefault
from fuse_losses import LossCompound
from fuse_models import ModelWrapSeqToDict

# `load_splits as load_splits` exports it from here too: task.py asks for it.
from .dice_by_class import DiceByClass
from .segmentation_data import CLASSES as CLASSES
from .segmentation_data import IMAGE, MASK, add_noise
from .segmentation_data import load_splits as load_splits
from .segmentation_network import UNet
from .segmentation_report import evaluate as evaluate
from .segmentation_report import save_predictions as save_predictions
from .task import Splits

LOGITS = logits_key("digits")
PREDICTED_MASK = output_key("digits")

IMAGE_KEY, TARGET_KEY = IMAGE, MASK
PREDICTION_KEYS: Sequence[str] = (PREDICTED_MASK, MASK)
augment = add_noise

# The metric decides which epoch is best: it is what the report shows, and it is rarely equal in two epochs.
BEST_EPOCH_SOURCE: Mapping[str, str] = {"monitor": "validation.metrics.dice.mean", "mode": "max"}
CURVES: Sequence[tuple[str, str]] = (
    ("losses.total_loss", "Dice loss + cross-entropy"),
    ("metrics.dice.mean", "mean Dice of the digits"),
)


def make_model(splits: Splits) -> nn.Module:
    """The network, wrapped: it reads the image, and writes the logits and the most likely class of each pixel.

    `ModelWrapSeqToDict` wraps any PyTorch network: give the keys of its inputs and of its outputs.

    Alternatives: any other segmentation network, from MONAI or segmentation-models-pytorch for instance. A network for
    3D images is wrapped in the same way; images are then [B, C, D, H, W].
    """
    return ModelWrapSeqToDict(
        model=UNet(in_channels=splits.train.images.shape[1], num_classes=len(CLASSES)),
        model_inputs=[IMAGE],
        model_outputs=[LOGITS, PREDICTED_MASK],
        post_forward_processing_function=with_mask,
    )


def with_mask(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The logits, for the losses, and the most likely class of each pixel."""
    return logits, logits.argmax(dim=1)


def make_losses() -> dict[str, nn.Module]:
    """The sum of Dice loss and cross-entropy. Dice does not depend on a class's size; cross-entropy is smooth.

    `LossCompound` computes both in one pass over the logits, and each is logged by its name.

    Alternatives: the term `tversky`, whose `alpha` and `beta` weigh false positives against false negatives; `focal`
    instead of cross-entropy for small structures; `ignore_index=` for pixels without ground truth; a number instead of
    1.0 to weigh a term.
    """
    # Nine of ten pixels are background, and easy to predict. Leaving it out makes the digits count.
    terms: dict[str, Any] = {"dice": {"weight": 1.0, "include_background": False}, "cross_entropy": 1.0}
    return {"segmentation": LossCompound(pred=LOGITS, target=MASK, terms=terms)}


def make_metrics() -> dict[str, nn.Module]:
    """The Dice of each class and their mean, logged as `<mode>.metrics.dice.<class>` and `<mode>.metrics.dice.mean`.

    Alternatives: `JaccardIndex` of torchmetrics; a surface distance of MONAI in a `torchmetrics.Metric` of your own.
    """
    return {"dice": MetricDefault(pred=PREDICTED_MASK, target=MASK, metric=DiceByClass(CLASSES))}
