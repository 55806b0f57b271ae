"""The classification task: which digit is it? Blocks 2 to 4: model, losses and metrics, with their keys.

The keys, from the loader to the predictions:

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

# `load_splits as load_splits` exports it from here too: task.py asks for it.
from .classification_data import DIGITS, IMAGE, LABEL, shift_randomly
from .classification_data import load_splits as load_splits
from .classification_network import SmallBackbone
from .classification_report import evaluate as evaluate
from .classification_report import save_predictions as save_predictions
from .task import Splits

LOGITS = logits_key("digit")  # "model.logits.digit": for losses and metrics
PROBABILITIES = output_key("digit")  # "model.output.digit": for people

IMAGE_KEY, TARGET_KEY = IMAGE, LABEL
CLASSES: Sequence[str] = DIGITS
PREDICTION_KEYS: Sequence[str] = (PROBABILITIES, LABEL)
augment = shift_randomly

# The loss decides which epoch is best. On a small validation set, many epochs have the same accuracy.
BEST_EPOCH_SOURCE: Mapping[str, str] = {"monitor": "validation.losses.total_loss", "mode": "min"}
CURVES: Sequence[tuple[str, str]] = (("losses.total_loss", "cross-entropy"), ("metrics.accuracy", "accuracy"))


def make_model(splits: Splits) -> nn.Module:
    """A backbone and a head. Keys say what each of them reads and writes.

    `ModelMultiHead` passes the images to the backbone and writes its features to `model.backbone_features`, which any
    number of heads can read. A second head (for the writer's age, for instance) is a second entry of `heads`, and needs
    a second loss. `append_features=[("data.age", 1)]` adds other data of the sample to a head's features.
    `conv_inputs=[("data.t1", 1), ("data.t2", 1)]` concatenates several images.

    Alternatives: for larger images, `BackboneResnet(in_channels=1, weights=...)` of fuse_models, pretrained or not.
    Any network can be the backbone; or wrap a whole network with `ModelWrapSeqToDict`, as the segmentation task does.
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
    """The losses by name. Their sum is minimized, and each is logged as `<mode>.losses.<name>`.

    `LossDefault` takes any function of a prediction and a target. Alternatives: `LossFocal(pred=LOGITS, target=LABEL,
    gamma=2.0)` if most samples are easy; `LossSegmentationCrossEntropy(class_weights="ipw")` if some classes are rare
    (it also works for classification). A second loss is a second entry; `weight=` scales it.
    """
    return {"cross_entropy": LossDefault(pred=LOGITS, target=LABEL, callable=F.cross_entropy)}


def make_metrics() -> dict[str, nn.Module]:
    """The metrics by name, logged as `<mode>.metrics.<name>`.

    `MetricDefault` takes any metric of torchmetrics. Alternatives: `MulticlassAUROC(num_classes=10)` with
    `pred=PROBABILITIES`; `average="macro"` if some classes are rare.
    """
    accuracy = MulticlassAccuracy(num_classes=10, average="micro")
    return {"accuracy": MetricDefault(pred=LOGITS, target=LABEL, metric=accuracy)}
