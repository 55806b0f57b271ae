"""The classification task: which digit is it? Blocks 2 to 4, the model, the losses, the metrics, and their keys.

The keys that flow, from the loader to the predictions:

    data.image [B, 1, H, W] ──> backbone ──> model.backbone_features [B, 128, H/2, W/2] ──> head
    head ──> model.logits.digit [B, 10] ──> cross-entropy and accuracy, with data.label [B]
    head ──> model.output.digit [B, 10], probabilities ──> predictions.csv
"""

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import nn
from torchmetrics.classification import MulticlassAccuracy

from fuse_core import BACKBONE_FEATURES, logits_key, output_key
from fuse_lightning import MetricDefault
from fuse_losses import LossDefault
from fuse_models import HeadGlobalPoolingClassifier, ModelMultiHead

# `load_splits as load_splits`: this file offers it too, as task.py asks of a task.
from .classification_data import IMAGE, LABEL, shift_randomly
from .classification_data import load_splits as load_splits
from .classification_network import SmallBackbone
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
    """A backbone and a head, each told by keys what it reads and where it writes.

    `ModelMultiHead` gives the images to the backbone and keeps its features under `model.backbone_features`, for any
    number of heads. A second head (the writer's age, a score to regress) is a second entry of `heads`, trained by a
    second loss. A head joins other data of the sample, such as clinical values, with `append_features=[("data.age",
    1)]`; images of several kinds are joined in `conv_inputs=[("data.t1", 1), ("data.t2", 1)]`.

    Alternatives: `BackboneResnet(in_channels=1, weights=...)` of fuse_models, pretrained or not, for larger images; any
    network of yours or a library's as the backbone, or whole, with its own keys, in `ModelWrapSeqToDict`, which the
    segmentation task uses.
    """
    backbone = SmallBackbone(in_channels=splits.train.images.shape[1])
    head = HeadGlobalPoolingClassifier(
        head_name="digit",  # it writes model.logits.digit and model.output.digit
        conv_inputs=[(BACKBONE_FEATURES, backbone.feature_depth)],
        num_classes=10,
        pooling="max",
        layers_description=(64,),  # one hidden layer
        dropout_rate=0.3,
    )
    return ModelMultiHead(backbone, [head], conv_inputs=[(IMAGE, splits.train.images.shape[1])])


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
