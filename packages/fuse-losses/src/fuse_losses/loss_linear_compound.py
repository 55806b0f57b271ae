"""A compound loss over a batch_dict that holds the last layer of a segmentation."""

from typing import Any, Unpack

from torch import Tensor, nn

from .functional.linear_compound import check_linear_compound, linear_compound
from .loss_compound import CompoundArguments, LossCompound


class LossLinearCompound(LossCompound):
    """`functional.linear_compound_loss`: the last layer and its loss together, without the logits.

    The prediction is the feature map before the layer. The layer belongs to the model: the loss uses its weight and
    bias, but does not register them. Where the logits are needed, in evaluation for instance, the model computes them.

    Args:
        layer: the last layer, `nn.Linear` or a convolution with a kernel of 1, such as that of a segmentation head.
        **arguments: those of `LossCompound`; `pred` is the key of the features, `[B, F, *spatial]`.

    Raises:
        TypeError: a layer of another type.
        ValueError: a convolution with another kernel, a stride, a padding or groups, or an option that needs the
            logits: `merge_unannotated`, `deep_supervision_weights`, `activation="none"`.

    Example:
        >>> import torch
        >>> layer = torch.nn.Conv2d(8, 3, kernel_size=1)
        >>> loss = LossLinearCompound(layer=layer, terms={"cross_entropy": 1.0, "dice": 1.0})
        >>> loss(torch.randn(2, 8, 4, 4), torch.randint(3, (2, 4, 4))).backward()
        >>> layer.weight.grad.shape
        torch.Size([3, 8, 1, 1])
    """

    def __init__(self, *, layer: nn.Module, **arguments: Unpack[CompoundArguments]) -> None:
        super().__init__(**arguments)
        check_linear_compound(type(self).__name__, self.options)
        if not isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            raise TypeError(
                f"LossLinearCompound(layer=) takes an nn.Linear or a convolution, got {type(layer).__name__}."
            )
        if not isinstance(layer, nn.Linear):
            unpadded = isinstance(layer.padding, str) or set(layer.padding) <= {0}  # 'same' is 0 for a kernel of 1
            plain = {*layer.kernel_size, *layer.stride, layer.groups} == {1} and unpadded
            if not plain:
                raise ValueError(
                    f"LossLinearCompound(layer=) takes a convolution with a kernel of 1 and nothing else, got {layer}."
                )
        self._may_be_probabilities = False  # it is given features
        self._layer = (layer,)  # in a tuple, so that its parameters stay the model's

    def _call(self, logits: Any, target: Tensor, options: dict[str, Any]) -> Tensor:
        (layer,) = self._layer
        mask = options.pop("mask", None)
        return linear_compound(logits, layer.weight, layer.bias, target, mask, options)
