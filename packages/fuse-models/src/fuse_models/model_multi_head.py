"""A backbone and heads over a batch_dict."""

from collections.abc import MutableMapping, Sequence
from typing import Any, TypeVar

from torch import nn

from fuse_core import BACKBONE_FEATURES

from .argument_checks import check_name
from .conv_inputs import ConvInput, concatenate_channels, parse_conv_inputs, read_conv_inputs
from .heads.sequence import HeadSequence

BatchDict = TypeVar("BatchDict", bound=MutableMapping[str, Any])


class ModelMultiHead(nn.Module):
    """A backbone whose features any number of heads use.

    Args:
        backbone: any module; what it returns is written to `key_out_features`.
        heads: modules that take the batch_dict and return it with their outputs added, run in this order. Heads that
            declare their keys in `reads` and `writes` let the model declare its own.
        conv_inputs: keys, or pairs of a key and its number of channels, of tensors of shape (N, C, ...) that are
            concatenated on the channel axis into one argument of the backbone. Declared channels are checked.
        backbone_args: in place of `conv_inputs`, the keys (or pairs) of the backbone's positional arguments.
        key_out_features: the key of the features.

    Attributes:
        reads: the keys that the batch_dict must hold, those that heads read from outside included; None where a head
            declares neither `reads` nor `writes`.
        writes: the features and the heads' outputs; None likewise.

    Raises:
        NestedKeyError: the batch_dict lacks an input.
        TypeError: `backbone` or a head is no module.
        ValueError: both or neither of `conv_inputs` and `backbone_args` are given, two heads write the same key, or an
            input has other channels than declared.

    Example:
        >>> import torch
        >>> from fuse_core import NDict
        >>> from fuse_models import ModelWrapSeqToDict
        >>> backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> head = ModelWrapSeqToDict(
        ...     model=nn.Linear(8, 2), model_inputs=["model.backbone_features"], model_outputs=["model.logits.cls"]
        ... )
        >>> model = ModelMultiHead(backbone, [head], conv_inputs=[("data.image", 2), ("data.mask", 1)])
        >>> batch = model(NDict({"data.image": torch.rand(4, 2, 9, 9), "data.mask": torch.rand(4, 1, 9, 9)}))
        >>> batch["model.logits.cls"].shape
        torch.Size([4, 2])
        >>> model.reads, model.writes
        (('data.image', 'data.mask'), ('model.backbone_features', 'model.logits.cls'))
    """

    def __init__(
        self,
        backbone: nn.Module,
        heads: Sequence[nn.Module],
        conv_inputs: Sequence[ConvInput] | None = None,
        backbone_args: Sequence[ConvInput] | None = None,
        key_out_features: str = BACKBONE_FEATURES,
    ) -> None:
        super().__init__()
        if not isinstance(backbone, nn.Module):
            raise TypeError(f"ModelMultiHead(backbone=) takes a module, got {backbone!r}.")
        if (conv_inputs is None) == (backbone_args is None):
            given = "neither" if conv_inputs is None else "both"
            raise ValueError(
                f"ModelMultiHead takes either conv_inputs, which are concatenated on the channel axis, or "
                f"backbone_args, which are passed one by one, but {given} of them were given."
            )
        self.backbone = backbone
        self.heads = HeadSequence(heads, "ModelMultiHead")
        if conv_inputs is not None:
            self.inputs = parse_conv_inputs(conv_inputs, "ModelMultiHead(conv_inputs=)")
        elif backbone_args is not None:
            self.inputs = parse_conv_inputs(backbone_args, "ModelMultiHead(backbone_args=)")
        self.concatenates_inputs = conv_inputs is not None
        check_name(key_out_features, "ModelMultiHead(key_out_features=)")
        self.key_out_features = key_out_features
        self.reads, self.writes = self.heads.keys_behind(tuple(key for key, _ in self.inputs), (key_out_features,))

    def forward(self, batch_dict: BatchDict) -> BatchDict:
        """The batch_dict with the features and the heads' outputs written to it."""
        inputs = read_conv_inputs(batch_dict, self.inputs, "ModelMultiHead")
        if self.concatenates_inputs:
            inputs = [concatenate_channels(inputs, (key for key, _ in self.inputs), "ModelMultiHead")]
        batch_dict[self.key_out_features] = self.backbone(*inputs)
        result: BatchDict = self.heads(batch_dict)
        return result
