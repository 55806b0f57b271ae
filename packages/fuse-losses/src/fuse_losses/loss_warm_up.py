"""A loss that starts to count after a number of training iterations."""

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from fuse_core import GLOBAL_STEP, read_key

from ._dense.option_checks import check_bool, check_choice, check_int
from .loss_base import LossBase, PreprocessFunc, connected_zero, hand_on, tensors_of

Ramp = Literal["linear", "cosine"]


class _KnownCount(NamedTuple):
    """What the buffer `forwards` held when it was last seen: Python need not wait for the device to read it again."""

    forwards: Tensor
    version: int
    number: int


class LossWarmUp(LossBase):
    """Zero for the first training iterations, then another loss.

    The zero is on the prediction's device and part of the graph: backward passes run, and distributed training finds a
    gradient, of zero, for every parameter.

    An iteration is an optimizer step where the batch_dict says which one it is (`global_step`): gradient accumulation,
    a second pass of SAM and a resumed run then count right. Otherwise it is a forward in training mode, counted in the
    buffer `forwards`. In evaluation mode the loss is what it is in training at that time.

    `counted` and `terms` are those of the other loss. While that loss is not computed, `counted` is None.

    Args:
        loss: the other loss, a `LossBase` or a module that takes a batch_dict and returns a scalar tensor.
        nof_iterations: for how many iterations it is zero.
        ramp: how it grows afterwards: None is at once, `"linear"` and `"cosine"` over `ramp_iterations`.
        ramp_iterations: how long it grows; the last of them has the full loss. None is `nof_iterations`.
        compute_while_zero: compute the other loss while it does not count: its errors show from the first step on, and
            the first steps need the memory of later ones.
        weight: the factor of the result; None is 1.
        preprocess_func: see `LossBase`.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: a value out of range.
        NestedKeyError: the batch_dict lacks a key that `loss` reads.

    Example:
        >>> from fuse_losses import LossDefault
        >>> loss = LossDefault(pred="model.logits.cls", target="data.label", callable=torch.nn.functional.cross_entropy)
        >>> warm_up = LossWarmUp(loss=loss, nof_iterations=100)
        >>> batch = {"model.logits.cls": torch.zeros(2, 2), "data.label": torch.tensor([0, 1])}
        >>> warm_up({**batch, "global_step": 99}), warm_up({**batch, "global_step": 100})
        (tensor(0.), tensor(0.6931))
    """

    forwards: Tensor

    def __init__(
        self,
        loss: nn.Module,
        nof_iterations: int,
        *,
        ramp: Ramp | None = None,
        ramp_iterations: int | None = None,
        compute_while_zero: bool = False,
        weight: float | None = None,
        preprocess_func: PreprocessFunc | None = None,
    ) -> None:
        if not isinstance(loss, nn.Module):
            raise TypeError(f"LossWarmUp(loss=) takes a loss, a module that is given a batch_dict, got {loss!r}.")
        if getattr(loss, "pred", "") is None:  # else an error, but only after the warm-up
            raise TypeError(f"LossWarmUp(loss=) takes a loss with keys, got {loss!r}. Give it pred= and target=.")
        nof_iterations = check_int("LossWarmUp", "nof_iterations", nof_iterations, at_least=0)
        check_bool("LossWarmUp", "compute_while_zero", compute_while_zero)
        if ramp is not None:
            check_choice("LossWarmUp", "ramp", ramp, get_args(Ramp), "None")
        if ramp_iterations is not None:
            ramp_iterations = check_int("LossWarmUp", "ramp_iterations", ramp_iterations, at_least=1)
            if ramp is None:
                raise ValueError("LossWarmUp(ramp_iterations=) goes with ramp='linear' or 'cosine', got no ramp.")
        super().__init__(reads=getattr(loss, "reads", ()), weight=weight, preprocess_func=preprocess_func)
        self.loss = loss
        self.nof_iterations = nof_iterations
        self.ramp = ramp
        self.ramp_iterations = ramp_iterations or max(1, nof_iterations)
        self.compute_while_zero = compute_while_zero
        self.register_buffer("forwards", torch.zeros((), dtype=torch.int64))
        self._known_count = _KnownCount(self.forwards, _version(self.forwards), 0)

    def compute(self, batch_dict: Mapping[str, Any]) -> Tensor:
        """The loss before `weight`."""
        if GLOBAL_STEP in batch_dict:
            iteration = int(batch_dict[GLOBAL_STEP])
        elif torch.compiler.is_compiling():
            return self._compiled(batch_dict)
        else:
            iteration = self._counted()
        factor = self.factor(iteration)
        if factor == 0 and not self.compute_while_zero:
            self.counted = None
            if hasattr(self, "terms"):
                self.terms = {}
            return self._zero(batch_dict)
        loss: Tensor = self.loss(batch_dict)
        hand_on(self, self.loss)
        if factor == 0:
            return connected_zero([loss, *self.loss.parameters()])
        return loss if factor == 1 else loss * factor

    def factor(self, iteration: int) -> float:
        """What the loss is multiplied by in an iteration, counted from 0."""
        since = iteration - self.nof_iterations
        if since < 0:
            return 0.0
        if self.ramp is None or since + 1 >= self.ramp_iterations:
            return 1.0
        progress = (since + 1) / self.ramp_iterations
        return progress if self.ramp == "linear" else (1 - math.cos(math.pi * progress)) / 2

    def _counted(self) -> int:
        """The number of forwards in training mode before this one."""
        known = self._known_count
        unchanged = known.forwards is self.forwards and known.version == _version(self.forwards)
        iteration = known.number if unchanged else int(self.forwards)
        if self.training:
            self.forwards += 1
        self._known_count = _KnownCount(self.forwards, _version(self.forwards), iteration + self.training)
        return iteration

    def _compiled(self, batch_dict: Mapping[str, Any]) -> Tensor:
        """The loss by arithmetic on the buffer: in a graph the number of forwards cannot be a choice of Python's."""
        progress = (self.forwards - self.nof_iterations + 1) / (1 if self.ramp is None else self.ramp_iterations)
        progress = progress.clamp(0, 1)
        factor = (1 - torch.cos(math.pi * progress)) / 2 if self.ramp == "cosine" else progress
        if self.training:
            self.forwards = self.forwards + 1  # not in place: the backward pass may look at the old number
        loss: Tensor = self.loss(batch_dict)
        hand_on(self, self.loss)
        return torch.where(factor > 0, loss * factor, 0.0)

    def _zero(self, batch_dict: Mapping[str, Any]) -> Tensor:
        read: list[Any] = []
        if getattr(self.loss, "preprocess_func", None) is None:  # else only that function knows what it reads
            read = [read_key(batch_dict, key, type(self.loss).__name__) for key in self.reads]
        tensors = tensors_of(read)
        if not any(one.requires_grad for one in tensors):
            tensors += tensors_of(batch_dict)
        return connected_zero([*tensors, *self.loss.parameters()])


def _version(forwards: Tensor) -> int:
    """How often torch saw a tensor change in place."""
    return 0 if forwards.is_inference() else forwards._version
