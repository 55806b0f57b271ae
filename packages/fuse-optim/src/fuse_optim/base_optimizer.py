"""Make the base optimizer from a class, a function or an optimizer."""

import inspect
from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer


def make_base_optimizer(
    base_optimizer: Callable[..., Optimizer] | Optimizer,
    param_groups: list[dict[str, Any]],
    base_kwargs: dict[str, Any],
) -> Optimizer:
    """Make the base optimizer over `param_groups`.

    Args:
        base_optimizer: a class or function, called as `base_optimizer(param_groups, **base_kwargs)`, or an optimizer.
        param_groups: the groups. If `base_optimizer` is an optimizer, it must have the same parameters.
        base_kwargs: arguments of the class or function.

    Raises:
        TypeError: `base_optimizer` neither is nor makes an optimizer, or it is an optimizer and there are arguments for
            it.
        ValueError: its step needs a closure, or its parameters are not those in `param_groups`.
    """
    if isinstance(base_optimizer, Optimizer):
        if base_kwargs:
            raise TypeError(
                f"SAM got an optimizer that is already made, {type(base_optimizer).__name__}, and arguments for it: "
                f"{', '.join(base_kwargs)}. Pass them to the optimizer, or pass its class."
            )
        made = base_optimizer
    elif callable(base_optimizer):
        made = base_optimizer(param_groups, **base_kwargs)
    else:
        made = base_optimizer
    if not isinstance(made, Optimizer):
        raise TypeError(
            "SAM needs a base_optimizer that is an optimizer, its class, or a function of the parameters that returns "
            f"one. Got {base_optimizer!r}."
        )
    _reject_closure_users(made)
    ours = {id(param) for group in param_groups for param in group["params"]}
    theirs = {id(param) for group in made.param_groups for param in group["params"]}
    if ours != theirs:
        raise ValueError(
            f"SAM and its base optimizer must have the same parameters: SAM got {len(ours)}, {type(made).__name__} has "
            f"{len(theirs)}, and {len(ours & theirs)} are in both. Pass base_optimizer.param_groups as params."
        )
    return made


def require_own_groups(base_optimizer: Callable[..., Optimizer] | Optimizer, params: list[Any]) -> None:
    """Raise ValueError if parameter groups are given with an optimizer that is already made: it has its own groups."""
    if isinstance(base_optimizer, Optimizer):
        for one in params:
            if isinstance(one, dict) and not any(one is group for group in base_optimizer.param_groups):
                raise ValueError(
                    "SAM got an optimizer and parameter groups, but the groups are those of the optimizer. Set rho, "
                    "adaptive and adaptive_eta in base_optimizer.param_groups, and pass these groups, or only the "
                    "parameters."
                )


def _reject_closure_users(optimizer: Optimizer) -> None:
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    required = closure is not None and closure.default is inspect.Parameter.empty
    if required or getattr(optimizer, "calls_closure_repeatedly", False):
        name = type(optimizer).__name__
        raise ValueError(
            f"SAM needs a base optimizer that takes a step from gradients alone, but {name} evaluates a closure. "
            f"Use {name} without SAM, or a base optimizer such as SGD or AdamW."
        )
