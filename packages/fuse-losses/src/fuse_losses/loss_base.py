"""What every loss over a batch_dict shares."""

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fuse_core import NDict, NestedKeyError, read_key

from ._dense.option_checks import check_number

PreprocessFunc = Callable[[Any], Mapping[str, Any]]


class LossBase(nn.Module):
    """A loss that takes a batch_dict and returns a scalar tensor. Write your own by defining `compute`.

    Calling the loss runs `preprocess_func`, then `compute`, then multiplies by `weight`. Neither the batch_dict nor
    its tensors are changed. Where `compute` reads a key of `reads` that is missing, the error names the loss.

    Args:
        reads: the keys that `compute` reads.
        weight: the factor of the result, a finite number; None is 1.
        preprocess_func: is given a shallow copy of the batch_dict and returns the batch_dict that the loss sees, to
            filter samples or to derive a target for instance. It may write to the copy and drop keys from it, but
            must not change a tensor in place.

    Example:
        >>> import torch
        >>> class MeanLogit(LossBase):
        ...     def compute(self, batch_dict):
        ...         return batch_dict["model.logits.cls"].mean()
        >>> MeanLogit(reads=["model.logits.cls"], weight=0.5)({"model.logits.cls": torch.tensor([1.0, 3.0])})
        tensor(1.)
    """

    def __init__(
        self,
        *,
        reads: tuple[str, ...] | list[str] = (),
        weight: float | None = None,
        preprocess_func: PreprocessFunc | None = None,
    ) -> None:
        super().__init__()
        if (type(self).compute, type(self).forward) == (LossBase.compute, LossBase.forward):
            raise TypeError(f"{type(self).__name__} defines no compute(batch_dict), which returns the loss.")
        if isinstance(reads, str):
            raise TypeError(f"{type(self).__name__}(reads=) takes a sequence of keys, got {reads!r}. Use [{reads!r}].")
        self.reads = tuple(reads)
        if not all(isinstance(key, str) for key in self.reads):
            raise TypeError(f"{type(self).__name__} reads keys that are strings, got {list(self.reads)}.")
        if weight is not None:
            hint = " For a factor of each class use class_weights." if isinstance(weight, Tensor) else ""
            weight = check_number(type(self).__name__, "weight", weight, at_least=-math.inf, hint=hint)
        if preprocess_func is not None and not callable(preprocess_func):
            raise TypeError(f"{type(self).__name__}(preprocess_func=) takes a function, got {preprocess_func!r}.")
        self.writes: tuple[str, ...] = ()
        self.weight = 1.0 if weight is None else weight
        self.preprocess_func = preprocess_func
        self.counted: Tensor | int | None = None
        """How much the value of the last call is a mean over: samples, voxels, or the sum of their weights.

        0 means that nothing counted, None that the number is unknown. A loss of your own sets it in `compute`, for
        instance to `mask.sum()`.
        """

    terms: dict[str, Tensor]
    """The detached value of each term of the last call, by its name, where the loss is a sum of several."""

    def compute(self, batch_dict: Mapping[str, Any]) -> Tensor:
        """The loss before `weight`, a scalar tensor. A subclass defines it, or `forward` in its place."""
        raise NotImplementedError(f"{type(self).__name__} defines no compute(batch_dict).")

    def forward(self, batch_dict: Mapping[str, Any]) -> Tensor:
        """The weighted loss, a scalar tensor that is part of the graph."""
        if not isinstance(batch_dict, Mapping) and not hasattr(batch_dict, "keys"):
            raise TypeError(
                f"{type(self).__name__} takes a dictionary{' that holds ' * bool(self.reads)}"
                f"{', '.join(map(repr, self.reads))}, got {type(batch_dict).__name__}."
            )
        if self.preprocess_func is not None:
            copied = batch_dict.copy() if isinstance(batch_dict, NDict) else NDict(batch_dict)
            batch_dict = self.preprocess_func(copied)
            if not hasattr(batch_dict, "keys"):
                raise TypeError(
                    f"{type(self).__name__}(preprocess_func=) returns a batch_dict, got {type(batch_dict).__name__}."
                    " End the function with `return batch_dict`."
                )
        try:
            loss = self.compute(batch_dict)
        except KeyError as error:
            if not (isinstance(error, NestedKeyError) and error.reader):  # else a loss within this one is named already
                asked = error.args[0] if error.args else None
                for key in self.reads:
                    if key == asked or f'"{key}"' in str(asked):  # a TensorDict gives the key within a sentence
                        read_key(batch_dict, key, type(self).__name__)
            raise
        return loss if self.weight == 1.0 else loss * self.weight


def hand_on(loss: LossBase, inner: Any) -> None:
    """Give a loss the `counted`, and the `terms` if there are any, of the loss that it wraps and has called."""
    loss.counted = getattr(inner, "counted", None)
    if hasattr(inner, "terms"):
        loss.terms = inner.terms


def how_much_counts(loss: Any, pred: Tensor, target: Any) -> Tensor | int | None:
    """How much a mean is over that a loss function computed, for functions that do not tell it in `counted`.

    These are the samples. With an `ignore_index`, as torch's cross-entropy has it, they are the targets that are not
    ignored, or the sum of their class weights.

    Args:
        loss: the function or module, which may be a `functools.partial`.
        pred: a tensor of the prediction. Its first axis is the samples.
        target: the ground truth.
    """
    function, options = (loss.func, loss.keywords) if isinstance(loss, partial) else (loss, {})
    if isinstance(loss, nn.Module):
        ignore_index, weights = getattr(loss, "ignore_index", None), getattr(loss, "weight", None)
    else:
        default = -100 if function is functional.cross_entropy or function is functional.nll_loss else None
        ignore_index, weights = options.get("ignore_index", default), options.get("weight")
    if not isinstance(ignore_index, int) or not isinstance(target, Tensor) or target.is_floating_point():
        return len(pred) if pred.ndim else None
    valid = target != ignore_index
    if not isinstance(weights, Tensor):
        return valid.sum()
    return torch.where(valid, weights.detach()[torch.where(valid, target, 0)], 0).sum()


def connected_zero(tensors: Iterable[Any]) -> Tensor:
    """The scalar 0 as a function of the tensors that require a gradient, which is 0 for all of them.

    Whatever they hold, infinite or NaN, is not looked at.

    Args:
        tensors: values of any type; those that are no floating-point tensors are left out.

    Returns:
        A scalar of the first tensor's device, or the CPU, and of its type but at least float32.

    Example:
        >>> weight = torch.tensor([float("inf")], requires_grad=True)
        >>> connected_zero([weight]).backward()
        >>> weight.grad
        tensor([0.])
    """
    floating = [one for one in tensors if isinstance(one, Tensor) and one.is_floating_point()]
    connected = [
        (one.narrow(0, 0, 0) if one.ndim else one.reshape(1)[:0]).sum() for one in floating if one.requires_grad
    ]
    if not connected:
        zero = floating[0].new_zeros(()) if floating else torch.zeros(())
        return zero.to(torch.promote_types(zero.dtype, torch.float32))
    total = connected[0].to(torch.promote_types(connected[0].dtype, torch.float32))
    for one in connected[1:]:
        total = total + one.to(total.device, total.dtype)
    return total


def tensors_of(value: Any) -> list[Tensor]:
    """All tensors of a batch_dict, or of one of its values, those within dictionaries, lists and tuples included."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    if not isinstance(value, (list, tuple)):
        return []
    return [tensor for one in value for tensor in tensors_of(one)]
