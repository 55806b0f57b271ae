"""A head that classifies each location."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from fuse_core import read_key

from ..argument_checks import check_all_positive, check_module_or_none, check_name, check_positive, check_rate
from ..conv_inputs import BatchDict, concatenate_channels, is_symbolic, read_conv_inputs
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
    ) -> None:
        if not conv_inputs:
            raise ValueError(
                f"HeadDenseSegmentation {head_name!r} has no feature map to classify. Give "
                f"conv_inputs=[(key, channels)]."
            )
        super().__init__(head_name, mode, conv_inputs, post_concat_inputs, optional_inputs)
        check_positive(num_classes, "HeadDenseSegmentation(num_classes=)")
        check_all_positive(layers_description, "HeadDenseSegmentation(layers_description=)")
        check_rate(dropout_rate, "HeadDenseSegmentation(dropout_rate=)")
        check_module_or_none(shared_classifier_head, "HeadDenseSegmentation(shared_classifier_head=)")
        if isinstance(maxpool_kernel, int):
            check_positive(maxpool_kernel, "HeadDenseSegmentation(maxpool_kernel=)")
        elif maxpool_kernel is not None:
            check_all_positive(maxpool_kernel, "HeadDenseSegmentation(maxpool_kernel=)")
            maxpool_kernel = tuple(maxpool_kernel)
        self.maxpool_kernel = maxpool_kernel
        if upsample_to is not None:
            check_name(upsample_to, "HeadDenseSegmentation(upsample_to=)")
            self.reads = tuple(dict.fromkeys((*self.reads, upsample_to)))
        self.upsample_to = upsample_to
        check_all_positive(deep_supervision, "HeadDenseSegmentation(deep_supervision=)")
        others = (post_concat_inputs, maxpool_kernel, shared_classifier_head)
        if deep_supervision and (len(self.conv_inputs) > 1 or any(other is not None for other in others)):
            raise ValueError(
                f"{self._reader}: deep_supervision works with one key in conv_inputs, and without post_concat_inputs, "
                f"maxpool_kernel and shared_classifier_head."
            )
        if shared_classifier_head is None:
            features = total_size(self.conv_inputs) + total_size(self.vector_inputs)
            shared_classifier_head = _LocationClassifier(features, layers_description, num_classes, dropout_rate)
        self.classifier = shared_classifier_head
        self.deep_classifiers = nn.ModuleList(
            _LocationClassifier(channels, layers_description, num_classes, dropout_rate)
            for channels in deep_supervision
        )

    def forward(self, batch_dict: BatchDict) -> BatchDict:
        """The same batch_dict with the scores of each location written to it."""
        if len(self.deep_classifiers):
            maps: Any = read_key(batch_dict, self.conv_inputs[0][0], self._reader)
            if isinstance(maps, list | tuple):
                return self.write_scores(batch_dict, self._scores_of_levels(batch_dict, maps))
        maps = read_conv_inputs(batch_dict, self.conv_inputs, self._reader)
        features = concatenate_channels(maps, (key for key, _ in self.conv_inputs), self._reader)
        if not is_symbolic(features) or self.vector_inputs or self.maxpool_kernel is not None:
            features = self._prepared(batch_dict, features)
        return self.write_scores(batch_dict, self._upsampled(batch_dict, self.classifier(features)))

    def _prepared(self, batch_dict: BatchDict, features: Tensor) -> Tensor:
        """The feature map, made smaller, and with the vectors at each location."""
        rank = features.ndim - 2
        kernel = self.maxpool_kernel
        if rank not in MAX_POOLINGS or (isinstance(kernel, tuple) and len(kernel) != rank):
            raise ValueError(
                f"{self._reader} takes feature maps of shape (batch, channels, *spatial) with 1 to 3 spatial axes, as "
                f"many as maxpool_kernel has, got {self.conv_inputs[0][0]!r} of shape {tuple(features.shape)} with "
                f"maxpool_kernel={kernel}."
            )
        if kernel is not None:
            features = MAX_POOLINGS[rank](features, kernel)
        if not self.vector_inputs:
            return features
        vectors = self.read_vectors(batch_dict, features)
        everywhere = vectors.reshape(*vectors.shape, *[1] * rank).expand(-1, -1, *features.shape[2:])
        return concatenate_channels([features, everywhere], ("conv_inputs", "post_concat_inputs"), self._reader)

    def _upsampled(self, batch_dict: BatchDict, scores: Tensor) -> Tensor:
        if self.upsample_to is None:
            return scores
        like = read_key(batch_dict, self.upsample_to, self._reader)
        if like.ndim != scores.ndim:
            raise ValueError(
                f"{self._reader} cannot upsample scores of shape {tuple(scores.shape)} to {self.upsample_to!r} of "
                f"shape {tuple(like.shape)}: the number of spatial axes differs."
            )
        return F.interpolate(scores, size=like.shape[2:], mode=LINEAR[scores.ndim - 2])

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


class _LocationClassifier(nn.Module):
    """A perceptron over the channels of each location."""

    def __init__(self, in_channels: int, hidden: Sequence[int], num_classes: int, dropout_rate: float) -> None:
        super().__init__()
        self.in_channels = in_channels
        pointwise = partial(nn.Conv1d, kernel_size=1)
        self.layers = perceptron_layers(
            in_channels, hidden, num_classes, dropout_rate=dropout_rate, pointwise=pointwise
        )

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, in_channels, *spatial)` to `(batch, num_classes, *spatial)`."""
        scores: Any = self.layers(x.flatten(start_dim=2))  # with a kernel of 1, locations have no neighbours
        return cast(Tensor, scores.unflatten(2, x.shape[2:]))
