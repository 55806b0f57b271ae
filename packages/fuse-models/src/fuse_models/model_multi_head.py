"""A backbone and heads over a batch_dict."""

from collections.abc import Sequence

from torch import nn

from fuse_core import BACKBONE_FEATURES

from .conv_inputs import BatchDict, ConvInput, concatenate_channels, parse_conv_inputs, read_conv_inputs
from .model_with_heads import ModelWithHeads


class ModelMultiHead(ModelWithHeads):
    """A backbone whose features any number of heads use.

    Args:
        backbone: any module; its result is written to `key_out_features`.
        heads: modules that take the batch_dict and return it with their outputs added, run in this order. If all heads
            declare their keys in `reads` and `writes`, so does the model.
        conv_inputs: keys, or pairs of a key and its number of channels, of tensors of shape (N, C, ...) that are
            concatenated on the channel axis into one argument of the backbone. Declared channels are checked.
        backbone_args: in place of `conv_inputs`, the keys (or pairs) of the backbone's positional arguments.
        key_out_features: the key of the features.

    Attributes:
        heads: the heads, which may be appended, replaced or deleted later.
        reads: the keys that the batch_dict must hold, including those that heads read from outside; None if a head
            declares neither `reads` nor `writes`.
        writes: the keys of the features and of the heads' outputs; None likewise.

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
        argument = "backbone_args" if conv_inputs is None else "conv_inputs"
        inputs = parse_conv_inputs(conv_inputs or backbone_args or (), f"ModelMultiHead({argument}=)")
        self.concatenates_inputs = conv_inputs is not None
        self.backbone = backbone
        self._add_heads(heads, inputs, key_out_features)

    def forward(self, batch_dict: BatchDict) -> BatchDict:
        """The batch_dict with the features and the heads' outputs written to it."""
        name = type(self).__name__
        inputs = read_conv_inputs(batch_dict, self.inputs, name)
        if self.concatenates_inputs:
            inputs = [concatenate_channels(inputs, (key for key, _ in self.inputs), name)]
        return self._run_heads(batch_dict, self.backbone(*inputs))
