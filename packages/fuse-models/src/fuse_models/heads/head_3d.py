"""A head for feature maps of volumes."""

from collections.abc import Sequence

from torch import nn

from ..layers.global_pooling import Pooling, check_pooling
from .base import DeclaredInputs, Mode
from .of_vectors import HeadOfVectors


class Head3D(HeadOfVectors):
    """Classifies or regresses from feature maps of volumes, pooled to vectors, and from features of each sample.

    Args:
        head_name: the last part of the keys that are written.
        mode: `"classification"` writes `model.logits.<head_name>` and, after a softmax over the classes,
            `model.output.<head_name>`; `"regression"` writes the values to `model.output.<head_name>`. All are of shape
            `(batch, num_outputs)`.
        conv_inputs: `(key, channels)` of each feature map, `(batch, channels, *spatial)`, pooled and concatenated on
            the channel axis; None to use `append_features` only.
        dropout_rate: of the dropout of the pooled features.
        num_outputs: the number of classes or of values.
        append_features: `(key, size)` of vectors to append, such as clinical values, of shape `(batch, size)`. They are
            converted to the precision of the head's weights.
        layers_description: the sizes of the hidden layers; empty for a linear head.
        append_layers_description: the sizes of layers that the appended features go through first.
        append_dropout_rate: of the dropout after each of these.
        fused_dropout_rate: of the dropout after each hidden layer.
        shared_classifier_head: a module `(batch, features)` to `(batch, num_outputs)` in place of the hidden and output
            layers, which other heads may use too; `num_outputs`, `layers_description` and `fused_dropout_rate` are its
            own business then.
        pooling: `"max"` or `"avg"` over all locations.

    Raises:
        NestedKeyError: the batch_dict lacks an input.
        ValueError: an argument is out of range, there are no inputs, or an input has other channels than declared.

    Example:
        >>> import torch
        >>> head = Head3D(
        ...     head_name="age", mode="regression", conv_inputs=[("model.backbone_features", 16)], num_outputs=1
        ... )
        >>> head({"model.backbone_features": torch.zeros(5, 16, 2, 4, 4)})["model.output.age"].shape
        torch.Size([5, 1])
    """

    def __init__(
        self,
        head_name: str = "head_0",
        mode: Mode = "classification",
        conv_inputs: DeclaredInputs | None = None,
        dropout_rate: float = 0.1,
        num_outputs: int = 2,
        append_features: DeclaredInputs | None = None,
        layers_description: Sequence[int] = (256,),
        append_layers_description: Sequence[int] = (),
        append_dropout_rate: float = 0.0,
        fused_dropout_rate: float = 0.0,
        shared_classifier_head: nn.Module | None = None,
        pooling: Pooling = "max",
    ) -> None:
        check_pooling(pooling, "Head3D(pooling=)", required=True)
        super().__init__(
            head_name=head_name,
            mode=mode,
            conv_inputs=conv_inputs,
            num_outputs=num_outputs,
            append_features=append_features,
            pooling=pooling,
            layers_description=layers_description,
            dropout_rate=fused_dropout_rate,
            pooled_dropout_rate=dropout_rate,
            append_layers_description=append_layers_description,
            append_dropout_rate=append_dropout_rate,
            shared_classifier_head=shared_classifier_head,
            dropout_rate_argument="fused_dropout_rate",
        )
