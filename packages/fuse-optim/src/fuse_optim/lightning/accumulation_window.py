"""The micro-batches whose gradients make up one optimizer step."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..rng_snapshot import RNGSnapshot


class MicroBatch:
    """One call of `training_step`, with what is needed to repeat it.

    The containers of its arguments are copied, because a training step may write into its batch; their tensors are not.
    `rng` is the state of the random generators before the call, if the repeated call shall draw the same numbers.

    Example:
        >>> batch = {"image": torch.zeros(2)}
        >>> micro_batch = MicroBatch((batch, 0), {})
        >>> batch["logits"] = torch.ones(2)
        >>> micro_batch.arguments()
        (({'image': tensor([0., 0.])}, 0), {})
    """

    loss: Tensor
    """The value that was backpropagated: divided by the number of micro-batches, detached, without loss scaling."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any], rng: RNGSnapshot | None = None) -> None:
        self._leaves, self._structure = pytree.tree_flatten((args, kwargs))
        self._versions = [_version(leaf) for leaf in self._leaves]
        self._rng = rng

    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the first call's arguments in new containers. A tensor changed in place is a RuntimeError."""
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
        """Within this context, the random numbers are those of the first call, if their state was kept."""
        return nullcontext() if self._rng is None else self._rng.replay()


class AccumulationWindow:
    """The micro-batches whose gradients are in `.grad`, in order."""

    def __init__(self) -> None:
        self.micro_batches: list[MicroBatch] = []
        self.current: MicroBatch | None = None
        """The latest micro-batch. It is added to `micro_batches` when its loss is backpropagated."""

    def add_gradients(self, loss: Tensor) -> None:
        """Note that the loss of the current micro-batch was backpropagated."""
        if self.current is not None:
            self.current.loss = loss.detach()
            self.micro_batches.append(self.current)

    def end_step(self) -> None:
        """Note that the optimizer has used the gradients. Releases all batches."""
        self.micro_batches.clear()
        self.current = None

    def loss(self) -> Tensor:
        """Return the loss of the whole step, a scalar: the sum of the micro-batches' losses."""
        return torch.stack([micro_batch.loss for micro_batch in self.micro_batches]).sum()


def _version(leaf: Any) -> int | None:
    """Return PyTorch's counter of changes in place."""
    return leaf._version if isinstance(leaf, Tensor) and not leaf.is_inference() else None
