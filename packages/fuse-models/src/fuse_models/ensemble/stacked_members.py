"""All members of an ensemble in one vectorised pass over their stacked parameters."""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap


def can_be_stacked(members: Iterable[nn.Module]) -> bool:
    """Whether a pass over stacked parameters does what the members would do, given that their architectures are equal.

    It does not in training mode, in which layers write to buffers, and not with hooks, which would see all members'
    tensors at once, or none.
    """
    return all(
        not (
            module.training
            or module._forward_hooks
            or module._forward_pre_hooks
            or module._backward_hooks
            or module._backward_pre_hooks
        )
        for member in members
        for module in member.modules()
    )


def run_stacked(
    members: Iterable[nn.Module],
    run: Callable[[Callable[..., Any]], tuple[Tensor, ...]],
    randomness: Literal["different", "error"] = "different",
) -> tuple[Tensor, ...]:
    """What `run(member)` gives for each member, stacked on a new first axis.

    The parameters are stacked anew in each call, so that they are those that the members have now, and gradients reach
    the members. `torch.func.stack_module_state` would detach them.

    Args:
        members: modules of the same architecture.
        run: is given a function that stands for a member, calls it and returns tensors.
        randomness: whether members that draw random numbers draw each their own, or are an error.
    """
    states = [_state(member) for member in members]
    first = next(iter(members))
    stacked = {name: torch.stack([state[name] for state in states]) for name in states[0]}

    def run_one(state: Any) -> Any:  # torch 2.6 cannot compile a function within one whose types have parameters
        return run(lambda *args: functional_call(first, state, args, tie_weights=False))

    results: tuple[Tensor, ...] = vmap(run_one, randomness=randomness)(stacked)
    return results


def _state(member: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers under one name for each place that holds them.

    That is: once for a module which others share, and twice for a parameter that two modules hold. What
    `functional_call(tie_weights=True)` does with the names of a shared module leaves the stacked tensors in it.
    """
    return {
        f"{path}.{name}" if path else name: tensor
        for path, module in member.named_modules()
        for named in (module._parameters, module._buffers)
        for name, tensor in named.items()
        if tensor is not None
    }
