"""A head that classifies each location."""

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from ..argument_checks import check_all_positive, check_module_or_none, check_positive, check_rate
from ..conv_inputs import BatchDict, concatenate_channels, is_symbolic, read_conv_inputs
from ..layers.perceptron_layers import perceptron_layers
from .base import DeclaredInputs, HeadBase, total_size

MAX_POOLINGS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


class HeadDenseSegmentation(HeadBase):
    """Classifies each location of feature maps of images or volumes, of any spatial rank from 1 to 3.

    The layers are convolutions of kernel 1. They write `model.logits.<head_name>` and, after a softmax over the
    classes, `model.output.<head_name>`, both `(batch, num_classes, *spatial)`.

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
    ) -> None:
        if not conv_inputs:
            raise ValueError(
                f"HeadDenseSegmentation {head_name!r} has no feature map to classify. Give "
                f"conv_inputs=[(key, channels)]."
            )
        super().__init__(head_name, "classification", conv_inputs, vector_inputs=post_concat_inputs)
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
        if shared_classifier_head is None:
            features = total_size(self.conv_inputs) + total_size(self.vector_inputs)
            shared_classifier_head = _LocationClassifier(features, layers_description, num_classes, dropout_rate)
        self.classifier = shared_classifier_head

    def forward(self, batch_dict: BatchDict) -> BatchDict:
        """The same batch_dict with the scores of each location written to it."""
        maps = read_conv_inputs(batch_dict, self.conv_inputs, self._reader)
        features = concatenate_channels(maps, (key for key, _ in self.conv_inputs), self._reader)
        if is_symbolic(features) and not self.vector_inputs and self.maxpool_kernel is None:
            return self.write_scores(batch_dict, self.classifier(features))
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
        if self.vector_inputs:
            vectors = self.read_vectors(batch_dict)
            everywhere = vectors.reshape(*vectors.shape, *[1] * rank).expand(-1, -1, *features.shape[2:])
            names = ("conv_inputs", "post_concat_inputs")
            features = concatenate_channels([features, everywhere], names, self._reader)
        return self.write_scores(batch_dict, self.classifier(features))


class _LocationClassifier(nn.Module):
    """A perceptron over the channels of each location."""

    def __init__(self, in_channels: int, hidden: Sequence[int], num_classes: int, dropout_rate: float) -> None:
        super().__init__()
        pointwise = partial(nn.Conv1d, kernel_size=1)
        self.layers = perceptron_layers(
            in_channels, hidden, num_classes, dropout_rate=dropout_rate, pointwise=pointwise
        )

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, in_channels, *spatial)` to `(batch, num_classes, *spatial)`."""
        scores: Any = self.layers(x.flatten(start_dim=2))  # with a kernel of 1, locations have no neighbours
        return cast(Tensor, scores.unflatten(2, x.shape[2:]))
