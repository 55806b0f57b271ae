"""Run a module again without changing its state."""

import copy
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

# What nn.Module keeps for its own use: parameters, buffers, submodules, hooks, the training mode.
_MACHINERY = frozenset(vars(nn.Module()))
_CONTAINERS = frozenset({Counter, OrderedDict, defaultdict, deque, dict, list, set})


@contextmanager
def preserved_state(root: nn.Module) -> Iterator[None]:
    """Within this context, a module's state does not change; gradients do.

    The module and its submodules work on copies of their buffers, tensor attributes, lists, dicts and sets. Afterwards
    every attribute is the same object as before. So running statistics, power iterations, queues, torchmetrics' states,
    counters and lists of outputs do not change. Modules in plain lists and dicts are included. Parameters are not
    copied. Of containers only the outermost level is copied: a tensor in a list that is changed in place stays changed.
    The copies need as much memory as the buffers.

    Args:
        root: the module.

    Example:
        >>> import torch
        >>> norm = nn.BatchNorm1d(2)
        >>> with preserved_state(norm):
        ...     output = norm(torch.randn(4, 2))
        >>> norm.running_mean, norm.num_batches_tracked
        (tensor([0., 0.]), tensor(0))
    """
    copies: dict[int, Tensor] = {}  # a tensor that two modules share must have one copy
    kept_buffers: list[tuple[nn.Module, str, Tensor | None]] = []
    kept: list[tuple[dict[str, Any], dict[str, Any]]] = []
    modules = list(root.modules())
    known = {id(module) for module in modules}
    try:
        for module in modules:  # grows in the loop
            for name, buffer in list(module._buffers.items()):
                kept_buffers.append((module, name, buffer))
                module._buffers[name] = _copy(buffer, copies)
            attributes = vars(module)
            before = {name: value for name, value in attributes.items() if name not in _MACHINERY}
            kept.append((attributes, before))
            for name, value in before.items():
                found = [element for element in _elements(value) if isinstance(element, nn.Module)]
                inner = [inner for element in found for inner in element.modules() if id(inner) not in known]
                modules.extend(inner)
                known.update(map(id, inner))
                attributes[name] = _copy(value, copies)
        yield
    finally:
        for module, name, buffer in kept_buffers:
            module._buffers[name] = buffer
        for attributes, before in kept:
            for name in [name for name in attributes if name not in before and name not in _MACHINERY]:
                del attributes[name]
            attributes.update(before)


def _elements(value: Any) -> list[Any]:
    if type(value) not in _CONTAINERS:
        return []
    return list(value.values()) if isinstance(value, dict) else list(value)


def _copy(value: Any, copies: dict[int, Tensor]) -> Any:
    # A tensor that needs a gradient is a parameter elsewhere, or was computed from one.
    if isinstance(value, Tensor) and not value.requires_grad and not is_lazy(value):
        if id(value) not in copies:
            copies[id(value)] = value.clone()
        return copies[id(value)]
    return copy.copy(value) if type(value) in _CONTAINERS else value
