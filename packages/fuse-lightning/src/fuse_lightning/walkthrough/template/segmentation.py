"""The segmentation task: which pixel belongs to which digit? Blocks 2 to 4, the model, losses, metrics, and their keys.

The keys that flow, from the loader to the predictions:

    data.image [B, 1, H, W] ──> model ──> model.logits.digits [B, 11, H, W] and model.output.digits [B, H, W]
    model.logits.digits ──> Dice loss and cross-entropy, with data.mask [B, H, W]
    model.output.digits, the likeliest class of each pixel ──> Dice by class, with data.mask
    model.output.digits ──> predicted_masks.npz, predictions.csv
"""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from fuse_core import logits_key, output_key
from fuse_lightning import MetricDefault
from fuse_losses import LossDice, LossSegmentationCrossEntropy
from fuse_models import ModelWrapSeqToDict

# `load_splits as load_splits`: this file offers it too, as task.py asks of a task.
from .dice_by_class import DiceByClass
from .segmentation_data import CLASSES, IMAGE, MASK, add_noise
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

# Here the metric tells the best epoch: it is what is reported, and with so many pixels epochs do not tie.
BEST_EPOCH_SOURCE: Mapping[str, str] = {"monitor": "validation.metrics.dice.mean", "mode": "max"}
CURVES: Sequence[tuple[str, str]] = (
    ("losses.total_loss", "Dice loss + cross-entropy"),
    ("metrics.dice.mean", "mean Dice of the digits"),
)


def make_model(splits: Splits) -> nn.Module:
    """The network between keys: reads the image, writes logits and the likeliest class of each pixel.

    `ModelWrapSeqToDict` is for any PyTorch network: name the keys of its inputs and of its outputs.

    Alternatives: any segmentation network (MONAI's, segmentation-models-pytorch's) in place of the U-Net; for 3D
    images the same with [B, C, D, H, W] throughout.
    """
    return ModelWrapSeqToDict(
        model=UNet(in_channels=splits.train.images.shape[1], num_classes=len(CLASSES)),
        model_inputs=[IMAGE],
        model_outputs=[LOGITS, PREDICTED_MASK],
        post_forward_processing_function=with_mask,
    )


def with_mask(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The logits, which the losses need, and the likeliest class of each pixel."""
    return logits, logits.argmax(dim=1)


def make_losses() -> dict[str, nn.Module]:
    """Dice and cross-entropy, added up: the one counts overlap, whatever a class's size; the other is smooth.

    Alternatives: `LossTversky` with `alpha` and `beta` to weigh false positives against misses; `LossFocal` in place of
    cross-entropy for small structures; `ignore_index=` for pixels without ground truth; `weight=` for a loss's share.
    """
    return {
        # Nine of ten pixels are background, easily right: left out, so that the digits count.
        "dice": LossDice(pred=LOGITS, target=MASK, include_background=False),
        "cross_entropy": LossSegmentationCrossEntropy(pred=LOGITS, target=MASK),
    }


def make_metrics() -> dict[str, nn.Module]:
    """The Dice of each class and their mean, logged as `<mode>.metrics.dice.<class>` and `<mode>.metrics.dice.mean`.

    Alternatives: torchmetrics' `JaccardIndex`; MONAI's metrics of surfaces, such as the Hausdorff distance, in a
    `torchmetrics.Metric` like this one.
    """
    return {"dice": MetricDefault(pred=PREDICTED_MASK, target=MASK, metric=DiceByClass(CLASSES))}
