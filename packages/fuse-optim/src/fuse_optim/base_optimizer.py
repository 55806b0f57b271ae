"""Make the base optimizer from a class, a function or an optimizer."""

import inspect
import re
from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer


def make_base_optimizer(
    owner: str,
    base_optimizer: Callable[..., Optimizer] | Optimizer,
    param_groups: list[dict[str, Any]],
    base_kwargs: dict[str, Any],
) -> Optimizer:
    """Make the base optimizer over `param_groups`, or check that an optimizer has these parameters.

    Raises:
        TypeError: `base_optimizer` neither is nor makes an optimizer, or it is one and there are arguments for it.
        ValueError: its step needs more than gradients, or its parameters are not those in `param_groups`.
    """
    made: Any = base_optimizer
    if isinstance(base_optimizer, Optimizer):
        if base_kwargs:
            raise TypeError(
                f"{owner} got an optimizer that is already made, {type(base_optimizer).__name__}, and arguments for "
                f"it: {', '.join(base_kwargs)}. Pass them to the optimizer, or pass its class."
            )
    elif callable(base_optimizer):
        made = base_optimizer(param_groups, **base_kwargs)
    if not isinstance(made, Optimizer):
        raise TypeError(
            f"{owner} needs a base_optimizer that is an optimizer, its class, or a function of the parameters that "
            f"returns one. Got {base_optimizer!r}."
        )
    name = type(made).__name__
    if needed := _needs_beside_gradients(made):
        raise ValueError(
            f"{owner} needs a base optimizer that takes a step from gradients alone, but {name} {needed}. Use {name} "
            f"without {owner}, or a base optimizer such as SGD or AdamW."
        )
    ours = {id(param) for group in param_groups for param in group["params"]}
    theirs = {id(param) for group in made.param_groups for param in group["params"]}
    if ours != theirs:
        raise ValueError(
            f"{owner} and its base optimizer must have the same parameters: {owner} got {len(ours)}, {name} has "
            f"{len(theirs)}, and {len(ours & theirs)} are in both. Pass base_optimizer.param_groups as params."
        )
    return made


def require_own_groups(owner: str, base_optimizer: Any, params: list[Any]) -> None:
    """Raise ValueError if parameter groups are given with an optimizer that is already made: it has its own groups."""
    if not isinstance(base_optimizer, Optimizer):
        return
    own = [group["params"] for group in base_optimizer.param_groups]
    for one in params:
        if isinstance(one, dict) and not any(one["params"] is group for group in own):
            raise ValueError(
                f"{owner} got an optimizer and parameter groups, but the groups are those of the optimizer. Set rho, "
                "adaptive and adaptive_eta in base_optimizer.param_groups, and pass these groups, or only the "
                "parameters."
            )


def _needs_beside_gradients(optimizer: Optimizer) -> str | None:
    """Say what a step needs beside gradients, also of an optimizer that it wraps; None if it needs nothing."""
    if any(hasattr(optimizer, name) for name in ("first_step", "perturb_weights")):  # as SAM is usually written
        return "perturbs the weights itself"
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    required = closure is not None and closure.default is inspect.Parameter.empty
    source = _source_of_step(type(optimizer))
    if required or re.search(_REQUIRES_CLOSURE, source):
        return "evaluates a closure"
    if getattr(optimizer, "calls_closure_repeatedly", False):
        return "evaluates a closure repeatedly"
    if "autograd.grad(" in source:
        return "differentiates the gradients again, which restoring the weights in place makes impossible"
    for inner in with_wrapped(optimizer)[1:]:
        if needed := _needs_beside_gradients(inner):
            return f"wraps {type(inner).__name__}, which {needed}"
    return None


def with_wrapped(optimizer: Optimizer) -> list[Optimizer]:
    """The optimizer and those that it wraps, as Lookahead does, outermost first."""
    wrapped = [inner for inner in vars(optimizer).values() if isinstance(inner, Optimizer) and inner is not optimizer]
    return [optimizer, *[one for inner in wrapped for one in with_wrapped(inner)]]


_REQUIRES_CLOSURE = r"(closure is None|not closure)[^:\n]*:\s*raise|assert closure(?! is None)"


def _source_of_step(optimizer_class: type[Optimizer]) -> str:
    """Return the source of `step` and of the methods that it calls, inherited ones too; empty where there is none."""
    sources: dict[str, str] = {}
    pending = ["step"]
    while pending:
        name = pending.pop()
        if name in sources:
            continue
        sources[name] = ""
        for owner in optimizer_class.__mro__:
            method = inspect.unwrap(getattr(owner, name)) if name in vars(owner) else None
            if not inspect.isroutine(method):
                continue
            try:
                source = inspect.getsource(method)
            except (OSError, TypeError):  # compiled, or typed in at a prompt
                break
            sources[name] += source
            if f"super().{name}(" not in source:
                break
        pending += re.findall(r"self\.(\w+)\(", sources[name])
    return "\n".join(sources.values())
