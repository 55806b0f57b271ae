"""One backbone for two inputs, and heads that see the features of both."""

from collections.abc import MutableMapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fuse_core import BACKBONE_FEATURES

from .argument_checks import check_name
from .conv_inputs import ConvInput, concatenate_channels, parse_conv_inputs, read_conv_inputs
from .heads.sequence import HeadSequence

BatchDict = TypeVar("BatchDict", bound=MutableMapping[str, Any])


class ModelSiamese(nn.Module):
    """Two branches with the same weights, and heads that see the features of both.

    The branches go through the backbone in one pass, as one batch of twice the size, where their inputs have the same
    shape, and else one after the other. The result is the same but for layers that look across the batch: in
    training mode batch normalisation takes its statistics from both branches together in one pass, and from each by
    itself in two. With `batched=False` there are always two.

    Args:
        conv_inputs_0: the inputs of the first branch: keys, or pairs of a key and its number of channels, of tensors
            of shape (N, C, ...), concatenated on the channel axis.
        conv_inputs_1: those of the second branch.
        backbone: a module that returns one tensor with the batch first.
        heads: modules that take the batch_dict and return it with their outputs added, as in `ModelMultiHead`.
        key_out_features: the key of both branches' features, concatenated on the channel axis. Those of each branch
            are written to this key with `_0` and `_1` appended.
        batched: whether the branches go through the backbone together where their shapes allow it.

    Attributes:
        reads: as `ModelMultiHead.reads`.
        writes: as `ModelMultiHead.writes`.

    Raises:
        NestedKeyError: the batch_dict lacks an input.
        TypeError: `backbone` or a head is no module, or the backbone does not return a tensor.
        ValueError: two heads write the same key, an input has other channels than declared, or the features of the
            branches cannot be concatenated.

    Example:
        >>> import torch
        >>> from fuse_core import NDict
        >>> model = ModelSiamese([("data.before", 1)], [("data.after", 1)], nn.Conv2d(1, 4, 3), heads=[])
        >>> batch = model(NDict({"data.before": torch.rand(5, 1, 8, 8), "data.after": torch.rand(5, 1, 8, 8)}))
        >>> batch["model.backbone_features_1"].shape, batch["model.backbone_features"].shape
        (torch.Size([5, 4, 6, 6]), torch.Size([5, 8, 6, 6]))
    """

    def __init__(
        self,
        conv_inputs_0: Sequence[ConvInput],
        conv_inputs_1: Sequence[ConvInput],
        backbone: nn.Module,
        heads: Sequence[nn.Module],
        key_out_features: str = BACKBONE_FEATURES,
        batched: bool = True,
    ) -> None:
        super().__init__()
        if not isinstance(backbone, nn.Module):
            raise TypeError(f"ModelSiamese(backbone=) takes a module, got {backbone!r}.")
        self.inputs_0 = parse_conv_inputs(conv_inputs_0, "ModelSiamese(conv_inputs_0=)")
        self.inputs_1 = parse_conv_inputs(conv_inputs_1, "ModelSiamese(conv_inputs_1=)")
        self.backbone = backbone
        self.heads = HeadSequence(heads, "ModelSiamese")
        check_name(key_out_features, "ModelSiamese(key_out_features=)")
        self.key_out_features = key_out_features
        self.keys_of_branches = (f"{key_out_features}_0", f"{key_out_features}_1")
        self.batched = batched
        inputs = dict.fromkeys(key for key, _ in self.inputs_0 + self.inputs_1)
        self.reads, self.writes = self.heads.keys_behind(tuple(inputs), (key_out_features, *self.keys_of_branches))

    def forward(self, batch_dict: BatchDict) -> BatchDict:
        """The batch_dict with the features of both branches and the heads' outputs written to it."""
        branches = []
        for inputs in (self.inputs_0, self.inputs_1):
            tensors = read_conv_inputs(batch_dict, inputs, "ModelSiamese")
            branches.append(concatenate_channels(tensors, (key for key, _ in inputs), "ModelSiamese"))
        features = self._features(*branches)
        for key, branch_features in zip(self.keys_of_branches, features, strict=True):
            batch_dict[key] = branch_features
        batch_dict[self.key_out_features] = concatenate_channels(features, self.keys_of_branches, "ModelSiamese")
        result: BatchDict = self.heads(batch_dict)
        return result

    def _features(self, branch_0: Tensor, branch_1: Tensor) -> Sequence[Tensor]:
        if not self.batched or branch_0.shape != branch_1.shape or branch_0.dtype != branch_1.dtype:
            return [self.backbone(branch_0), self.backbone(branch_1)]
        features = self.backbone(torch.cat([branch_0, branch_1]))
        if not isinstance(features, Tensor) or features.shape[:1] != (2 * len(branch_0),):
            kind = f"shape {tuple(features.shape)}" if isinstance(features, Tensor) else type(features).__name__
            raise TypeError(
                f"ModelSiamese needs a backbone that returns one tensor with the batch, here of {2 * len(branch_0)}, "
                f"first, but it returned {kind}. Wrap the backbone in a module that returns the features alone."
            )
        return features.tensor_split(2)
