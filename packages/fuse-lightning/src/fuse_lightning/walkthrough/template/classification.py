"""The classification task: which digit is it? Blocks 2 to 4, the model, the losses, the metrics, and their keys.

The keys that flow, from the loader to the predictions:

    data.image [B, 1, H, W] ──> model ──> model.logits.digit [B, 10] ──> cross-entropy (with data.label [B]), accuracy
                                     └──> model.output.digit [B, 10], probabilities ──> predictions.csv
"""

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from fuse_core import logits_key, output_key
from fuse_lightning import MetricDefault
from fuse_losses import LossDefault
from fuse_models import ModelWrapSeqToDict

from .classification_data import IMAGE, LABEL, shift_randomly
from .classification_data import load_splits as load_splits
from .classification_network import LeNet
from .classification_report import evaluate as evaluate
from .classification_report import save_predictions as save_predictions
from .task import Splits

LOGITS = logits_key("digit")  # "model.logits.digit": what losses and metrics read
PROBABILITIES = output_key("digit")  # "model.output.digit": what people read

IMAGE_KEY, TARGET_KEY = IMAGE, LABEL
PREDICTION_KEYS: Sequence[str] = (PROBABILITIES, LABEL)
augment = shift_randomly

# The loss, not the accuracy, tells the best epoch: on a small validation set many epochs tie in accuracy.
BEST_EPOCH_SOURCE: Mapping[str, str] = {"monitor": "validation.losses.total_loss", "mode": "min"}
CURVES: Sequence[tuple[str, str]] = (("losses.total_loss", "cross-entropy"), ("metrics.accuracy", "accuracy"))


def make_model(splits: Splits) -> nn.Module:
    """The network between keys: reads the image, writes logits and probabilities.

    `ModelWrapSeqToDict` is for any PyTorch network, yours or a library's: name the keys of its inputs and outputs.
    """
    return ModelWrapSeqToDict(
        model=LeNet(image_size=splits.train.images.shape[-1]),
        model_inputs=[IMAGE],
        model_outputs=[LOGITS, PROBABILITIES],
        post_forward_processing_function=with_probabilities,
    )


def with_probabilities(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The logits, which the loss needs, and the probabilities, which people want to read."""
    return logits, logits.softmax(dim=1)


def make_losses() -> dict[str, nn.Module]:
    """The losses by name, which are added up and logged as `<mode>.losses.<name>`.

    `LossDefault` takes any function of a prediction and a target. Alternatives: `LossFocal(pred=LOGITS, target=LABEL,
    gamma=2.0)` where easy samples drown the hard ones; `class_weights="ipw"` of
    `LossSegmentationCrossEntropy`, which serves classifications too, where classes are rare. A second loss is a second
    entry, with `weight=` for its share.
    """
    return {"cross_entropy": LossDefault(pred=LOGITS, target=LABEL, callable=F.cross_entropy)}


def make_metrics() -> dict[str, nn.Module]:
    """The metrics by name, logged as `<mode>.metrics.<name>`.

    `MetricDefault` takes any metric of torchmetrics, which adds up over batches and processes. Alternatives: AUC as
    `MulticlassAUROC(num_classes=10)` with `pred=PROBABILITIES`; `average="macro"` where classes are rare.
    """
    accuracy = MulticlassAccuracy(num_classes=10, average="micro")
    return {"accuracy": MetricDefault(pred=LOGITS, target=LABEL, metric=accuracy)}
