"""A head for vectors."""

from collections.abc import Sequence

from torch import nn

from .base import DeclaredInputs, Mode
from .of_vectors import HeadOfVectors


class Head1D(HeadOfVectors):
    """Classifies or regresses from vectors, such as those of a backbone with pooling or of a perceptron.

    Args:
        head_name: the last part of the keys that are written.
        mode: `"classification"` writes `model.logits.<head_name>` and, after a softmax over the classes,
            `model.output.<head_name>`; `"regression"` writes the values to `model.output.<head_name>`. All are of shape
            `(batch, num_outputs)`.
        conv_inputs: `(key, size)` of each vector, concatenated on the channel axis; None to use `append_features` only.
        num_outputs: the number of classes or of values.
        append_features: `(key, size)` of vectors to append, such as clinical values, of shape `(batch, size)`. They are
            converted to the precision of the head's weights.
        layers_description: the sizes of the hidden layers; empty for a linear head.
        append_layers_description: the sizes of layers that the appended features go through first.
        append_dropout_rate: of the dropout after each of these.
        dropout_rate: of the dropout after each hidden layer.
        shared_classifier_head: a module `(batch, features)` to `(batch, num_outputs)` in place of the hidden and output
            layers, which other heads may use too; `num_outputs`, `layers_description` and `dropout_rate` are its own
            business then.

    Raises:
        NestedKeyError: the batch_dict lacks an input.
        ValueError: an argument is out of range, there are no inputs, or an input has another size than declared.

    Example:
        >>> import torch
        >>> head = Head1D(head_name="risk", conv_inputs=[("model.backbone_features", 16)], num_outputs=3)
        >>> batch = head({"model.backbone_features": torch.zeros(5, 16)})
        >>> batch["model.logits.risk"].shape, batch["model.output.risk"].sum(dim=1).allclose(torch.ones(5))
        (torch.Size([5, 3]), True)
    """

    def __init__(
        self,
        head_name: str = "head_0",
        mode: Mode = "classification",
        conv_inputs: DeclaredInputs | None = None,
        num_outputs: int = 2,
        append_features: DeclaredInputs | None = None,
        layers_description: Sequence[int] = (256,),
        append_layers_description: Sequence[int] = (),
        append_dropout_rate: float = 0.0,
        dropout_rate: float = 0.1,
        shared_classifier_head: nn.Module | None = None,
    ) -> None:
        super().__init__(
            head_name=head_name,
            mode=mode,
            conv_inputs=conv_inputs,
            num_outputs=num_outputs,
            append_features=append_features,
            pooling=None,
            layers_description=layers_description,
            dropout_rate=dropout_rate,
            append_layers_description=append_layers_description,
            append_dropout_rate=append_dropout_rate,
            shared_classifier_head=shared_classifier_head,
        )
