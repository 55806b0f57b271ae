"""The one implementation of all heads that predict once a sample."""

from collections.abc import Sequence

from torch import nn

from ..argument_checks import check_all_positive, check_module_or_none, check_positive, check_rate
from ..conv_inputs import concatenate_channels, read_conv_inputs
from ..layers.global_pooling import Pooling, global_pooling
from ..layers.perceptron_layers import perceptron_layers
from .base import BatchDict, DeclaredInputs, HeadBase, Mode, total_size


class HeadOfVectors(HeadBase):
    """Pools feature maps to vectors, appends features of each sample, and classifies or regresses.

    Args:
        head_name: see `HeadBase`.
        mode: see `HeadBase`.
        conv_inputs: see `HeadBase`; pooled one by one, so that their spatial shapes may differ.
        num_outputs: the number of classes or of values.
        append_features: `(key, size)` of each vector to append.
        pooling: `"avg"` or `"max"` over all locations; None where the inputs must be vectors already.
        layers_description: the sizes of the hidden layers.
        dropout_rate: after each hidden layer.
        pooled_dropout_rate: of the pooled vector.
        append_layers_description: the sizes of the layers that the appended features go through first.
        append_dropout_rate: after each of these.
        shared_classifier_head: a module `(batch, features)` to `(batch, outputs)` in place of the hidden and output
            layers.
    """

    def __init__(
        self,
        *,
        head_name: str,
        mode: Mode,
        conv_inputs: DeclaredInputs | None,
        num_outputs: int,
        append_features: DeclaredInputs | None,
        pooling: Pooling | None,
        layers_description: Sequence[int],
        dropout_rate: float,
        pooled_dropout_rate: float = 0.0,
        append_layers_description: Sequence[int],
        append_dropout_rate: float,
        shared_classifier_head: nn.Module | None,
        num_outputs_argument: str = "num_outputs",
        dropout_rate_argument: str = "dropout_rate",
    ) -> None:
        super().__init__(
            head_name=head_name,
            mode=mode,
            conv_inputs=conv_inputs,
            vector_inputs=append_features,
            vectors_argument="append_features",
        )
        kind = type(self).__name__
        check_positive(num_outputs, f"{kind}({num_outputs_argument}=)")
        check_all_positive(layers_description, f"{kind}(layers_description=)")
        check_all_positive(append_layers_description, f"{kind}(append_layers_description=)")
        check_rate(dropout_rate, f"{kind}({dropout_rate_argument}=)")
        check_rate(pooled_dropout_rate, f"{kind}(dropout_rate=)")
        check_rate(append_dropout_rate, f"{kind}(append_dropout_rate=)")
        check_module_or_none(shared_classifier_head, f"{kind}(shared_classifier_head=)")
        self.pooling = pooling
        self.pooled_dropout = nn.Dropout(pooled_dropout_rate) if pooled_dropout_rate > 0 else nn.Identity()
        appended_size = total_size(self.vector_inputs)
        self.append_layers = perceptron_layers(
            appended_size, append_layers_description if appended_size else (), dropout_rate=append_dropout_rate
        )
        if appended_size and append_layers_description:
            appended_size = append_layers_description[-1]
        if shared_classifier_head is None:
            features = total_size(self.conv_inputs) + appended_size
            shared_classifier_head = perceptron_layers(
                features, layers_description, num_outputs, dropout_rate=dropout_rate
            )
        self.classifier = shared_classifier_head

    def forward(self, batch_dict: BatchDict) -> BatchDict:
        """The same batch_dict with the scores, `(batch, num_outputs)`, written to it."""
        vectors = []
        if self.conv_inputs:
            maps = read_conv_inputs(batch_dict, self.conv_inputs, self._reader)
            if self.pooling is not None:
                maps = [global_pooling(feature_map, self.pooling) for feature_map in maps]
            else:
                for (key, _), vector in zip(self.conv_inputs, maps, strict=True):
                    if vector.ndim != 2:
                        raise ValueError(
                            f"{self._reader} expects {key!r} to be vectors, of shape (batch, size), but its shape is "
                            f"{tuple(vector.shape)}. Pool it in the backbone, or use a head that pools: "
                            f"HeadGlobalPoolingClassifier or Head3D."
                        )
            names = (key for key, _ in self.conv_inputs)
            vectors.append(self.pooled_dropout(concatenate_channels(maps, names, self._reader)))
        if self.vector_inputs:
            vectors.append(self.append_layers(self.read_vectors(batch_dict)))
        features = concatenate_channels(vectors, ("conv_inputs", "append_features"), self._reader)
        return self.write_scores(batch_dict, self.classifier(features))
