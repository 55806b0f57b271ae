"""A head that classifies each location."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from fuse_core import read_key

from ..argument_checks import check_all_positive, check_module_or_none, check_name, check_positive, check_rate
from ..conv_inputs import BatchDict, concatenate_channels, read_conv_inputs
from ..layers.optional_inputs import Substitute
from ..layers.perceptron_layers import perceptron_layers
from .base import DeclaredInputs, HeadBase, Mode, total_size

LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}
MAX_POOLINGS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


class HeadDenseSegmentation(HeadBase):
    """Classifies or regresses at each location of feature maps of images or volumes, of any spatial rank from 1 to 3.

    The layers are convolutions of kernel 1. They write `model.logits.<head_name>` and, after a softmax over the
    classes, `model.output.<head_name>`, both `(batch, num_classes, *spatial)`; for other modes see `Head1D`.

    Args:
        head_name: the last part of the written keys.
        conv_inputs: `(key, channels)` of each feature map, `(batch, channels, *spatial)`, concatenated on the channel
            axis.
        num_classes: the number of classes.
        post_concat_inputs: `(key, size)` of vectors, `(batch, size)`, that are appended to the features of every
            location. They are converted to the precision of the head's weights.
        maxpool_kernel: kernel size of a max pooling of the feature maps before the layers, one number for all axes or
            one for each; None for no pooling.
        layers_description: the sizes of the hidden layers; empty for a linear head.
        dropout_rate: dropout rate after each hidden layer.
        shared_classifier_head: a module `(batch, features, *spatial)` to `(batch, num_classes, *spatial)` in place of
            the hidden and output layers, which other heads may use too. `num_classes`, `layers_description` and
            `dropout_rate` are then not used.
        mode: `"classification"`, `"multilabel"` or `"regression"`, see `Head1D`.
        upsample_to: the key of a tensor, such as `"data.image"`, to whose spatial size the scores are interpolated
            (linearly), before the activation.
        deep_supervision: for a backbone that returns in training a list of maps, finest first: the channels of all maps
            but the first, whose channels `conv_inputs` declares. Each map has layers of its own, and lists of scores
            are written, finest first. `upsample_to` is for the finest alone.
        optional_inputs: the keys of `post_concat_inputs` that may be missing, see `Head1D`.
        features_key: a key to which the features before the last layer are written. In training mode the head then
            writes nothing else: fuse-losses' `LossLinearCompound(layer=head.last_layer, pred=features_key)` computes
            layer and loss together, so that the scores never exist whole. In eval mode the scores are written too.

    Attributes:
        last_layer: the last convolution; None with `shared_classifier_head`.

    Raises:
        NestedKeyError: the batch_dict lacks an input.
        ValueError: an argument is out of range, there are no `conv_inputs`, or an input has another shape than
            declared.

    Example:
        >>> import torch
        >>> head = HeadDenseSegmentation(
        ...     head_name="lesion",
        ...     conv_inputs=[("model.backbone_features", 16)],
        ...     post_concat_inputs=[("data.clinical", 4)],
        ... )
        >>> batch = {"model.backbone_features": torch.zeros(2, 16, 3, 8, 8), "data.clinical": torch.zeros(2, 4)}
        >>> head(batch)["model.output.lesion"].shape
        torch.Size([2, 2, 3, 8, 8])
    """

    vectors_argument = "post_concat_inputs"

    def __init__(
        self,
        head_name: str = "head_0",
        conv_inputs: DeclaredInputs | None = None,
        num_classes: int = 2,
        post_concat_inputs: DeclaredInputs | None = None,
        maxpool_kernel: int | Sequence[int] | None = None,
        layers_description: Sequence[int] = (256,),
        dropout_rate: float = 0.1,
        shared_classifier_head: nn.Module | None = None,
        mode: Mode = "classification",
        upsample_to: str | None = None,
        deep_supervision: Sequence[int] = (),
        optional_inputs: Mapping[str, Substitute] | None = None,
        features_key: str | None = None,
    ) -> None:
        if not conv_inputs:
            raise ValueError(
                f"HeadDenseSegmentation {head_name!r} has no feature map to classify. Give "
                f"conv_inputs=[(key, channels)]."
            )
        super().__init__(head_name, mode, conv_inputs, post_concat_inputs, optional_inputs)
        num_classes = check_positive(num_classes, "HeadDenseSegmentation(num_classes=)")
        layers_description = check_all_positive(layers_description, "HeadDenseSegmentation(layers_description=)")
        dropout_rate = check_rate(dropout_rate, "HeadDenseSegmentation(dropout_rate=)")
        check_module_or_none(shared_classifier_head, "HeadDenseSegmentation(shared_classifier_head=)")
        if isinstance(maxpool_kernel, Iterable):
            maxpool_kernel = check_all_positive(maxpool_kernel, "HeadDenseSegmentation(maxpool_kernel=)")
        elif maxpool_kernel is not None:
            maxpool_kernel = check_positive(maxpool_kernel, "HeadDenseSegmentation(maxpool_kernel=)")
        self.maxpool_kernel = maxpool_kernel
        if upsample_to is not None:
            upsample_to = check_name(upsample_to, "HeadDenseSegmentation(upsample_to=)")
        self.upsample_to = upsample_to
        deep_supervision = check_all_positive(deep_supervision, "HeadDenseSegmentation(deep_supervision=)")
        others = (post_concat_inputs, maxpool_kernel, shared_classifier_head)
        if deep_supervision and (len(self.conv_inputs) > 1 or any(other is not None for other in others)):
            raise ValueError(
                f"{self._reader}: deep_supervision works with one key in conv_inputs, and without post_concat_inputs, "
                f"maxpool_kernel and shared_classifier_head."
            )
        if features_key is not None:
            features_key = check_name(features_key, "HeadDenseSegmentation(features_key=)")
            if any(option is not None for option in (upsample_to, shared_classifier_head)) or deep_supervision:
                raise ValueError(
                    f"{self._reader}: features_key works without deep_supervision, upsample_to and "
                    f"shared_classifier_head."
                )
        self.features_key = features_key
        if shared_classifier_head is None:
            features = total_size(self.conv_inputs) + total_size(self.vector_inputs)
            shared_classifier_head = LocationClassifier(features, layers_description, num_classes, dropout_rate)
        self.classifier = shared_classifier_head
        self.deep_classifiers = nn.ModuleList(
            LocationClassifier(channels, layers_description, num_classes, dropout_rate) for channels in deep_supervision
        )

    @property
    def last_layer(self) -> nn.Conv1d | None:
        """The convolution that makes the scores, with a weight of shape (num_classes, features, 1)."""
        if not isinstance(self.classifier, LocationClassifier):
            return None
        return cast(nn.Conv1d, self.classifier.layers[-1])

    @property
    def reads(self) -> tuple[str, ...]:
        """The keys that the batch_dict must hold."""
        return tuple(dict.fromkeys((*super().reads, *([self.upsample_to] if self.upsample_to else []))))

    @property
    def writes(self) -> tuple[str, ...]:
        """The keys that are written; in training mode with `features_key`, only that one is."""
        return (*super().writes, *([self.features_key] if self.features_key else []))

    def forward(self, batch_dict: BatchDict) -> BatchDict:
        """The same batch_dict with the scores of each location written to it."""
        if len(self.deep_classifiers):
            maps: Any = read_key(batch_dict, self.conv_inputs[0][0], self._reader)
            if isinstance(maps, (list, tuple)):
                return self.write_scores(batch_dict, self._scores_of_levels(batch_dict, maps))
        maps = read_conv_inputs(batch_dict, self.conv_inputs, self._reader)
        features = concatenate_channels(maps, (key for key, _ in self.conv_inputs), self._reader)
        features = _max_pooled(features, self.maxpool_kernel, self._reader, self.conv_inputs[0][0])
        if self.vector_inputs:
            features = _with_vectors(features, self.read_vectors(batch_dict, features), self._reader)
        if self.features_key is None:
            return self.write_scores(batch_dict, self._upsampled(batch_dict, self.classifier(features)))
        classifier: Any = self.classifier
        batch_dict[self.features_key] = features = classifier.hidden(features)
        return batch_dict if self.training else self.write_scores(batch_dict, classifier.scores(features))

    def _upsampled(self, batch_dict: BatchDict, scores: Tensor) -> Tensor:
        if self.upsample_to is None:
            return scores
        like = read_key(batch_dict, self.upsample_to, self._reader)
        return _interpolated(scores, like, self._reader, self.upsample_to)

    def _scores_of_levels(self, batch_dict: BatchDict, maps: Sequence[Tensor]) -> list[Tensor]:
        classifiers = [self.classifier, *self.deep_classifiers]
        declared = [self.conv_inputs[0][1], *(classifier.in_channels for classifier in self.deep_classifiers)]
        found = [feature_map.shape[1] for feature_map in maps]
        if found != declared:
            raise ValueError(
                f"{self._reader} expects {self.conv_inputs[0][0]!r} to be a list of maps with {declared} channels, "
                f"finest first, but they have {found}. Declare them in conv_inputs and deep_supervision."
            )
        scores = [classifier(feature_map) for classifier, feature_map in zip(classifiers, maps, strict=True)]
        return [self._upsampled(batch_dict, scores[0]), *scores[1:]]


class LocationClassifier(nn.Module):
    """A perceptron over the channels of each location."""

    def __init__(self, in_channels: int, hidden: Sequence[int], num_classes: int, dropout_rate: float) -> None:
        super().__init__()
        self.in_channels = in_channels
        pointwise = partial(nn.Conv1d, kernel_size=1)  # with a kernel of 1, locations have no neighbors
        self.layers = perceptron_layers(
            in_channels, hidden, num_classes, dropout_rate=dropout_rate, pointwise=pointwise
        )

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, in_channels, *spatial)` to `(batch, num_classes, *spatial)`."""
        return _at_each_location(self.layers, x)

    def hidden(self, x: Tensor) -> Tensor:
        """The features before the last layer, `(batch, features, *spatial)`."""
        return _at_each_location(list(self.layers)[:-1], x)

    def scores(self, x: Tensor) -> Tensor:
        """The last layer's result from these features, `(batch, num_classes, *spatial)`."""
        return _at_each_location([self.layers[-1]], x)


def _at_each_location(layers: Iterable[nn.Module], x: Tensor) -> Tensor:
    result: Any = x.flatten(start_dim=2)
    for layer in layers:
        result = layer(result)
    return cast(Tensor, result.unflatten(2, x.shape[2:]))


@torch.fx.wrap
def _max_pooled(features: Tensor, kernel: int | tuple[int, ...] | None, reader: str, key: str) -> Tensor:
    rank = features.ndim - 2
    if rank not in MAX_POOLINGS or (isinstance(kernel, tuple) and len(kernel) != rank):
        raise ValueError(
            f"{reader} takes feature maps of shape (batch, channels, *spatial) with 1 to 3 spatial axes, as many as "
            f"maxpool_kernel has, got {key!r} of shape {tuple(features.shape)} with maxpool_kernel={kernel}."
        )
    return features if kernel is None else MAX_POOLINGS[rank](features, kernel)


@torch.fx.wrap
def _with_vectors(features: Tensor, vectors: Tensor, reader: str) -> Tensor:
    """The feature map with the vectors appended at each location."""
    everywhere = vectors.reshape(*vectors.shape, *[1] * (features.ndim - 2)).expand(-1, -1, *features.shape[2:])
    return concatenate_channels([features, everywhere], ("conv_inputs", "post_concat_inputs"), reader)


@torch.fx.wrap
def _interpolated(scores: Tensor, like: Tensor, reader: str, key: str) -> Tensor:
    if like.ndim != scores.ndim:
        raise ValueError(
            f"{reader} cannot upsample scores of shape {tuple(scores.shape)} to {key!r} of shape {tuple(like.shape)}: "
            f"the number of spatial axes differs."
        )
    return F.interpolate(scores, size=like.shape[2:], mode=LINEAR[scores.ndim - 2])
