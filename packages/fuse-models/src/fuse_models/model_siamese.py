"""One backbone for two inputs, and heads that see the features of both."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fuse_core import BACKBONE_FEATURES

from .conv_inputs import BatchDict, ConvInput, concatenate_channels, is_symbolic, parse_conv_inputs, read_conv_inputs
from .model_with_heads import ModelWithHeads


class ModelSiamese(ModelWithHeads):
    """Two branches with the same weights, and heads that see the features of both.

    If the inputs of both branches have the same shape, they go through the backbone in one pass, as one batch of twice
    the size; otherwise in two passes. The results are the same, except for layers that look across the batch: in
    training mode, batch normalization uses the statistics of both branches together in one pass, and of each branch
    alone in two. `batched=False` always takes two passes.

    Args:
        conv_inputs_0: the inputs of the first branch: keys, or pairs of a key and its number of channels, of tensors
            of shape (N, C, ...), concatenated on the channel axis.
        conv_inputs_1: the inputs of the second branch.
        backbone: a module that returns one tensor with the batch first.
        heads: modules that take the batch_dict and return it with their outputs added, as in `ModelMultiHead`.
        key_out_features: the key of both branches' features, concatenated on the channel axis. The features of each
            branch are written to this key followed by `_0` or `_1`.
        batched: whether the branches go through the backbone together if their shapes allow it.

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
        self.batched = batched
        self._add_heads(heads, self.inputs_0 + self.inputs_1, key_out_features, more_features=("_0", "_1"))

    def forward(self, batch_dict: BatchDict) -> BatchDict:
        """The batch_dict with the features of both branches and the heads' outputs written to it."""
        name = type(self).__name__
        branches = []
        for inputs in (self.inputs_0, self.inputs_1):
            tensors = read_conv_inputs(batch_dict, inputs, name)
            branches.append(concatenate_channels(tensors, (key for key, _ in inputs), name))
        features = self._features(*branches)
        for key, branch_features in zip(self._more_features, features, strict=True):
            batch_dict[key] = branch_features
        return self._run_heads(batch_dict, concatenate_channels(features, self._more_features, name))

    def _features(self, branch_0: Tensor, branch_1: Tensor) -> Sequence[Tensor]:
        if is_symbolic(branch_0):  # in eval mode, the results are the same; in training, shapes are taken for equal
            in_one_pass = self.training
        else:
            in_one_pass = branch_0.shape == branch_1.shape and branch_0.dtype == branch_1.dtype
        if not self.batched or not in_one_pass:
            return [self.backbone(branch_0), self.backbone(branch_1)]
        features = self.backbone(torch.cat([branch_0, branch_1]))
        number = branch_0.shape[0]  # not len(), which torch.export would take for a constant
        is_whole = isinstance(features, Tensor) and features.shape[:1] == (2 * number,)
        if not is_whole and not is_symbolic(features):
            kind = f"shape {tuple(features.shape)}" if isinstance(features, Tensor) else type(features).__name__
            raise TypeError(
                f"{type(self).__name__} needs a backbone that returns one tensor with the batch, here of {2 * number}, "
                f"first, but it returned {kind}. Wrap the backbone in a module that returns only the features."
            )
        return features[:number], features[number:]
