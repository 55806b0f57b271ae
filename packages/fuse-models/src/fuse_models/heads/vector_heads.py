"""Heads that make one prediction for each sample. They differ in what they pool and in the names of arguments."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from ..argument_checks import check_all_positive, check_module_or_none, check_option, check_positive, check_rate
from ..conv_inputs import BatchDict, concatenate_channels, found, is_symbolic, read_conv_inputs
from ..layers.feature_maps import Pooling, global_pooling
from ..layers.optional_inputs import Substitute
from ..layers.perceptron_layers import perceptron_layers
from .base import DeclaredInputs, HeadBase, Mode, total_size


class HeadOfVectors(HeadBase):
    """The common implementation. Its arguments are described in `Head1D`."""

    num_outputs_argument = "num_outputs"
    dropout_rate_argument = "dropout_rate"

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
        optional_inputs: Mapping[str, Substitute] | None = None,
    ) -> None:
        super().__init__(head_name, mode, conv_inputs, append_features, optional_inputs)
        kind = type(self).__name__
        num_outputs = check_positive(num_outputs, f"{kind}({self.num_outputs_argument}=)")
        layers_description = check_all_positive(layers_description, f"{kind}(layers_description=)")
        append_layers_description = check_all_positive(append_layers_description, f"{kind}(append_layers_description=)")
        dropout_rate = check_rate(dropout_rate, f"{kind}({self.dropout_rate_argument}=)")
        append_dropout_rate = check_rate(append_dropout_rate, f"{kind}(append_dropout_rate=)")
        check_module_or_none(shared_classifier_head, f"{kind}(shared_classifier_head=)")
        self.pooling: Pooling | None = None
        self.pooled_dropout: nn.Module = nn.Identity()
        appended_size = total_size(self.vector_inputs)
        self.append_layers = perceptron_layers(
            appended_size, append_layers_description if appended_size else (), dropout_rate=append_dropout_rate
        )
        if appended_size and append_layers_description:
            appended_size = append_layers_description[-1]
        if shared_classifier_head is None:
            size = total_size(self.conv_inputs) + appended_size
            shared_classifier_head = perceptron_layers(size, layers_description, num_outputs, dropout_rate=dropout_rate)
        self.classifier = shared_classifier_head

    def forward(self, batch_dict: BatchDict) -> BatchDict:
        """The same batch_dict with the scores, `(batch, num_outputs)`, written to it."""
        vectors = []
        if self.conv_inputs:
            maps = read_conv_inputs(batch_dict, self.conv_inputs, self._reader)
            if self.pooling is not None:
                maps = [global_pooling(feature_map, self.pooling) for feature_map in maps]
            else:
                self._check_vectors(maps)
            names = (key for key, _ in self.conv_inputs)
            vectors.append(self.pooled_dropout(concatenate_channels(maps, names, self._reader)))
        if self.vector_inputs:
            vectors.append(self.append_layers(self.read_vectors(batch_dict, *vectors)))
        features = concatenate_channels(vectors, ("conv_inputs", "append_features"), self._reader)
        return self.write_scores(batch_dict, self.classifier(features))

    def _check_vectors(self, inputs: Sequence[Tensor]) -> None:
        for (key, _), vector in zip(self.conv_inputs, inputs, strict=True):
            if not is_symbolic(vector) and vector.ndim != 2:
                raise ValueError(
                    f"{self._reader} expects {key!r} to be vectors, of shape (batch, size), but {found(vector)}. Pool "
                    f"it in the backbone, or use a head that pools: HeadGlobalPoolingClassifier or Head3D."
                )


class Head1D(HeadOfVectors):
    """Classifies or regresses from vectors, such as those of a perceptron or of a backbone with pooling.

    Args:
        head_name: the last part of the written keys.
        mode: `"classification"` writes `model.logits.<head_name>` and, after a softmax over the classes,
            `model.output.<head_name>`; `"multilabel"` does so with a sigmoid, for labels that do not exclude one
            another; `"regression"` writes the values to `model.output.<head_name>`. All have the shape
            `(batch, num_outputs)`.
        conv_inputs: `(key, size)` of each vector, concatenated on the channel axis; None to use `append_features` only.
        num_outputs: the number of classes or of values.
        append_features: `(key, size)` of vectors to append, such as clinical values, of shape `(batch, size)`. They are
            converted to the precision of the head's weights.
        layers_description: the sizes of the hidden layers; empty for a linear head.
        append_layers_description: the sizes of layers for the appended features alone, before they are appended.
        append_dropout_rate: dropout rate after each of these layers.
        dropout_rate: dropout rate after each hidden layer.
        shared_classifier_head: a module `(batch, features)` to `(batch, num_outputs)` in place of the hidden and output
            layers, which other heads may use too. `num_outputs`, `layers_description` and `dropout_rate` are then not
            used.
        optional_inputs: the keys of `append_features` that a batch or a sample may lack, each with `"learned"` or
            `"zero"`: a vector that is trained, or zeros, take its place. A batch lacks it if the key is missing or
            holds None; a sample does where `<key>_present`, `(batch,)`, is False.

    Attributes:
        reads: the keys that the batch_dict must hold.
        optional_reads: the keys that it may hold: those of `optional_inputs` and their masks.
        writes: the keys that are written.
        prediction_kinds: the kind of each written key, for `ModelEnsemble`.

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


class Head3D(HeadOfVectors):
    """Classifies or regresses from feature maps of volumes, pooled to vectors, and from features of each sample.

    Arguments that are not listed are those of `Head1D`.

    Args:
        conv_inputs: `(key, channels)` of each feature map, `(batch, channels, *spatial)`. Each is pooled; then they are
            concatenated on the channel axis. None to use `append_features` only.
        dropout_rate: dropout rate of the pooled features.
        fused_dropout_rate: dropout rate after each hidden layer.
        pooling: `"max"` or `"avg"` over all locations.

    Example:
        >>> import torch
        >>> head = Head3D("age", "regression", [("model.backbone_features", 16)], num_outputs=1)
        >>> head({"model.backbone_features": torch.zeros(5, 16, 2, 4, 4)})["model.output.age"].shape
        torch.Size([5, 1])
    """

    dropout_rate_argument = "fused_dropout_rate"

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
        optional_inputs: Mapping[str, Substitute] | None = None,
    ) -> None:
        check_option(pooling, ("avg", "max"), "Head3D(pooling=)")
        dropout_rate = check_rate(dropout_rate, "Head3D(dropout_rate=)")
        super().__init__(
            head_name,
            mode,
            conv_inputs,
            num_outputs,
            append_features,
            layers_description,
            append_layers_description,
            append_dropout_rate,
            dropout_rate=fused_dropout_rate,
            shared_classifier_head=shared_classifier_head,
            optional_inputs=optional_inputs,
        )
        self.pooling = pooling
        if dropout_rate > 0:
            self.pooled_dropout = nn.Dropout(dropout_rate)


class HeadGlobalPoolingClassifier(HeadOfVectors):
    """Classifies or regresses from feature maps, pooled to vectors, and from features of each sample.

    Arguments that are not listed are those of `Head1D`.

    Args:
        conv_inputs: `(key, channels)` of each feature map, `(batch, channels, *spatial)`. Each is pooled; then they are
            concatenated on the channel axis. None to use `append_features` only.
        num_classes: the number of classes or of values.
        pooling: `"max"` or `"avg"` over all locations.

    Example:
        >>> import torch
        >>> inputs = {"conv_inputs": [("model.backbone_features", 16)], "append_features": [("data.age", 1)]}
        >>> head = HeadGlobalPoolingClassifier("cls", num_classes=3, **inputs)
        >>> batch = {"model.backbone_features": torch.zeros(2, 16, 7, 7), "data.age": torch.tensor([54, 61])}
        >>> head(batch)["model.output.cls"].shape
        torch.Size([2, 3])
    """

    num_outputs_argument = "num_classes"

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
        optional_inputs: Mapping[str, Substitute] | None = None,
    ) -> None:
        check_option(pooling, ("avg", "max"), "HeadGlobalPoolingClassifier(pooling=)")
        super().__init__(
            head_name,
            mode,
            conv_inputs,
            num_classes,
            append_features,
            layers_description,
            append_layers_description,
            append_dropout_rate,
            dropout_rate,
            shared_classifier_head,
            optional_inputs,
        )
        self.pooling = pooling
