"""A head for feature maps of images."""

from collections.abc import Sequence

from torch import nn

from ..layers.global_pooling import Pooling, check_pooling
from .base import DeclaredInputs, Mode
from .of_vectors import HeadOfVectors


class HeadGlobalPoolingClassifier(HeadOfVectors):
    """Classifies or regresses from feature maps, pooled to vectors, and from features of each sample.

    Args:
        head_name: the last part of the keys that are written.
        conv_inputs: `(key, channels)` of each feature map, `(batch, channels, *spatial)`, pooled and concatenated on
            the channel axis; None to use `append_features` only.
        num_classes: the number of classes or of values.
        append_features: `(key, size)` of vectors to append, such as clinical values, of shape `(batch, size)`. They are
            converted to the precision of the head's weights.
        pooling: `"max"` or `"avg"` over all locations.
        layers_description: the sizes of the hidden layers; empty for a linear head.
        append_layers_description: the sizes of layers that the appended features go through first.
        dropout_rate: of the dropout after each hidden layer.
        append_dropout_rate: of the dropout after each of the appended features' layers.
        shared_classifier_head: a module `(batch, features)` to `(batch, num_classes)` in place of the hidden and output
            layers, which other heads may use too; `num_classes`, `layers_description` and `dropout_rate` are its own
            business then.
        mode: `"classification"` writes `model.logits.<head_name>` and, after a softmax over the classes,
            `model.output.<head_name>`; `"regression"` writes the values to `model.output.<head_name>`. All are of shape
            `(batch, num_classes)`.

    Raises:
        NestedKeyError: the batch_dict lacks an input.
        ValueError: an argument is out of range, there are no inputs, or an input has other channels than declared.

    Example:
        >>> import torch
        >>> head = HeadGlobalPoolingClassifier(
        ...     head_name="cls",
        ...     conv_inputs=[("model.backbone_features", 16)],
        ...     append_features=[("data.age", 1)],
        ...     num_classes=3,
        ... )
        >>> batch = {"model.backbone_features": torch.zeros(2, 16, 7, 7), "data.age": torch.tensor([54, 61])}
        >>> head(batch)["model.output.cls"].shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        head_name: str = "head_0",
        conv_inputs: DeclaredInputs | None = None,
        num_classes: int = 2,
        append_features: DeclaredInputs | None = None,
        pooling: Pooling = "max",
        layers_description: Sequence[int] = (256,),
        append_layers_description: Sequence[int] = (),
        dropout_rate: float = 0.1,
        append_dropout_rate: float = 0.0,
        shared_classifier_head: nn.Module | None = None,
        mode: Mode = "classification",
    ) -> None:
        check_pooling(pooling, "HeadGlobalPoolingClassifier(pooling=)", required=True)
        super().__init__(
            head_name=head_name,
            mode=mode,
            conv_inputs=conv_inputs,
            num_outputs=num_classes,
            append_features=append_features,
            pooling=pooling,
            layers_description=layers_description,
            dropout_rate=dropout_rate,
            append_layers_description=append_layers_description,
            append_dropout_rate=append_dropout_rate,
            shared_classifier_head=shared_classifier_head,
            num_outputs_argument="num_classes",
        )
