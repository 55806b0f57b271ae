"""Any loss function, whatever its arguments are called, over a batch_dict."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from .loss_base import LossBase, PreprocessFunc, connected_zero, hand_on, how_much_counts


class LossWrapToDict(LossBase):
    """`weight * loss_module(argument=batch_dict[key], ...)`.

    Args:
        loss_module: a function or module that returns a scalar tensor. A module's parameters and buffers become this
            module's.
        loss_arg_to_batch_key: the batch_dict key of each argument of `loss_module`, by the argument's name.
        weight: the factor of the result; None is 1.
        preprocess_func: see `LossBase`. A batch filtered to no samples gives zero, connected to the graph.

    Raises:
        TypeError: an argument of the wrong type.
        NestedKeyError: the batch_dict lacks a key.

    Example:
        >>> import torch
        >>> loss = LossWrapToDict(
        ...     loss_module=torch.nn.GaussianNLLLoss(),
        ...     loss_arg_to_batch_key={"input": "model.mean", "target": "data.value", "var": "model.variance"},
        ... )
        >>> loss({"model.mean": torch.zeros(2), "data.value": torch.ones(2), "model.variance": torch.ones(2)})
        tensor(0.5000)
    """

    def __init__(
        self,
        *,
        loss_module: nn.Module | Callable[..., Tensor],
        loss_arg_to_batch_key: Mapping[str, str],
        weight: float | None = None,
        preprocess_func: PreprocessFunc | None = None,
    ) -> None:
        if isinstance(loss_module, type) or not callable(loss_module):
            hint = f" Give {loss_module.__name__}(...)." if isinstance(loss_module, type) else ""
            raise TypeError(f"LossWrapToDict(loss_module=) takes a function or a module, got {loss_module!r}.{hint}")
        if not isinstance(loss_arg_to_batch_key, Mapping) or not all(
            isinstance(one, str) for pair in loss_arg_to_batch_key.items() for one in pair
        ):
            raise TypeError(
                "LossWrapToDict(loss_arg_to_batch_key=) takes a dictionary from argument names to batch_dict keys, got"
                f" {loss_arg_to_batch_key!r}."
            )
        keys = dict(loss_arg_to_batch_key)
        super().__init__(reads=tuple(keys.values()), weight=weight, preprocess_func=preprocess_func)
        self.loss_module = loss_module
        self.loss_arg_to_batch_key = keys

    def compute(self, batch_dict: Mapping[str, Any]) -> Tensor:
        """The loss before `weight`."""
        arguments = {argument: batch_dict[key] for argument, key in self.loss_arg_to_batch_key.items()}
        batched = [one for one in arguments.values() if isinstance(one, Tensor) and one.ndim]
        if batched and all(len(one) == 0 for one in batched):
            self.counted = 0
            return connected_zero(arguments.values())  # a mean over no samples would be NaN
        try:
            loss = self.loss_module(**arguments)
        except Exception as error:
            keys = self.loss_arg_to_batch_key
            error.add_note(f"Raised in {type(self).__name__}(loss_arg_to_batch_key={keys}).")
            raise
        if hasattr(self.loss_module, "counted"):
            hand_on(self, self.loss_module)
        else:
            self.counted = how_much_counts(self.loss_module, batched[0], arguments.get("target")) if batched else None
        return loss
