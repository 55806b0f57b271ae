"""The micro-batches whose gradients make up one optimizer step."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..rng_snapshot import RNGSnapshot


class MicroBatch:
    """One call of `training_step`, and what it takes to make it again.

    Args:
        args: its arguments. Their containers are copied, because a training step may write into the dict that it is
            given; their tensors are not.
        kwargs: its arguments given by name.
        rng: the state of the random generators before the call, if it is to have the same random numbers again.

    Example:
        >>> batch = {"image": torch.zeros(2)}
        >>> micro_batch = MicroBatch((batch, 0), {})
        >>> batch["logits"] = torch.ones(2)
        >>> micro_batch.arguments()
        (({'image': tensor([0., 0.])}, 0), {})
    """

    loss: Tensor
    """What was backpropagated: divided by the number of micro-batches, detached, not scaled for half precision."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any], rng: RNGSnapshot | None = None) -> None:
        self._leaves, self._structure = pytree.tree_flatten((args, kwargs))
        self._versions = [_version(leaf) for leaf in self._leaves]
        self._rng = rng

    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The positional and named arguments as they were, in new containers.

        Raises:
            RuntimeError: one of their tensors has been changed in place.
        """
        for leaf, version in zip(self._leaves, self._versions, strict=True):
            if _version(leaf) != version:
                raise RuntimeError(
                    f"training_step changed a tensor of its batch in place (shape {list(leaf.shape)}, {leaf.dtype}), "
                    "but the optimizer's next pass needs the same batch again. Work on a new tensor, batch / 255 "
                    "instead of batch.div_(255), or make the change in on_after_batch_transfer."
                )
        arguments: tuple[tuple[Any, ...], dict[str, Any]] = pytree.tree_unflatten(self._leaves, self._structure)
        return arguments

    def random_numbers(self) -> AbstractContextManager[None]:
        """A context with the random numbers of the first call, if their state was kept."""
        return nullcontext() if self._rng is None else self._rng.replay()


class AccumulationWindow:
    """The micro-batches whose gradients are in `.grad`, in their order."""

    def __init__(self) -> None:
        self.micro_batches: list[MicroBatch] = []
        self.current: MicroBatch | None = None
        """The latest micro-batch, which joins the others when its loss is backpropagated."""

    def start(self, micro_batch: MicroBatch) -> None:
        """`training_step` is about to be called."""
        self.current = micro_batch

    def add_gradients(self, loss: Tensor) -> None:
        """The loss of the current micro-batch has been backpropagated."""
        if self.current is not None:
            self.current.loss = loss.detach()
            self.micro_batches.append(self.current)

    def clear_gradients(self) -> None:
        """The gradients are set to zero, those of the current micro-batch yet to come."""
        self.micro_batches.clear()

    def end_step(self) -> None:
        """The gradients have been used. Lets go of all batches."""
        self.micro_batches.clear()
        self.current = None

    def loss(self) -> Tensor:
        """The sum of what was backpropagated, a scalar."""
        return torch.stack([micro_batch.loss for micro_batch in self.micro_batches]).sum()


def _version(leaf: Any) -> int | None:
    """Counts changes in place."""
    return leaf._version if isinstance(leaf, Tensor) and not leaf.is_inference() else None
