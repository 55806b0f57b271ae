"""All members of an ensemble in one vectorised pass over their stacked parameters."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap


def can_be_stacked(members: Iterable[nn.Module]) -> bool:
    """Whether a pass over stacked parameters does what the members would do, given that their architectures are equal.

    It does not in training mode, in which layers write to buffers, and not with hooks, which would see all members'
    tensors at once, or none.
    """
    return all(
        not (module.training or module._forward_hooks or module._forward_pre_hooks)
        for member in members
        for module in member.modules()
    )


def run_stacked(
    members: Iterable[nn.Module], run: Callable[[Callable[..., Any]], tuple[Tensor, ...]]
) -> tuple[Tensor, ...]:
    """What `run(member)` gives for each member, stacked on a new first axis.

    The parameters are stacked anew in each call, so that they are those that the members have now, and gradients reach
    the members. `torch.func.stack_module_state` would detach them.

    Args:
        members: modules of the same architecture.
        run: is given a function that stands for a member, calls it and returns tensors.
    """
    states = [{**dict(member.named_parameters()), **dict(member.named_buffers())} for member in members]
    first = next(iter(members))
    stacked = {name: torch.stack([state[name] for state in states]) for name in states[0]}

    def run_one(state: Any) -> Any:  # torch 2.6 cannot compile a function within one whose types have parameters
        return run(lambda *args: functional_call(first, state, args))

    results: tuple[Tensor, ...] = vmap(run_one, randomness="different")(stacked)
    return results
