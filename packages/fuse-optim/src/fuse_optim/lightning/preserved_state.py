"""Run a module again without changing its state."""

import copy
import enum
import inspect
import types
import warnings
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.data import DataLoader, Dataset

# What Lightning and nn.Module keep for themselves: parameters, buffers, submodules, hooks, the trainer.
_MACHINERY = frozenset(vars(pl.LightningModule())) | {"_hparams", "_hparams_initial"}
_SEQUENCES = frozenset({list, deque, tuple})
_MAPPINGS = frozenset({dict, OrderedDict, defaultdict, Counter})
_SHARED = (  # not changed by a training step, or not part of the module's state
    *(str, bytes, int, float, complex, bool, type(None), type, enum.Enum, torch.dtype, torch.device, torch.Size),
    *(types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType, inspect.Signature),
    *(nn.Module, pl.Trainer, pl.LightningDataModule, pl.Callback, Logger, Dataset, DataLoader, torch.optim.Optimizer),
)


@contextmanager
def preserved_state(root: nn.Module, warned: set[str] | None = None) -> Iterator[None]:
    """Within this context, a module's state does not change; gradients do.

    The module and its submodules work on copies of their buffers and attributes. Afterwards every attribute is the same
    object as before. So running statistics, queues, torchmetrics' states, counters, NumPy arrays, nested lists and
    objects such as a meter do not change. `torch.Generator`s get their state back. Modules in plain lists and dicts are
    included. The copies need as much memory as the buffers and attributes.

    Not copied are parameters, data sets, data loaders, loggers, the trainer, and tensors in lists and dicts, because
    lists of outputs may grow long. If such a tensor, or a parameter that no optimizer has, is changed in place, or if
    an attribute cannot be copied, such as an iterator, a warning names it.

    Args:
        root: the module.
        warned: the attributes that were named before. New ones are added.

    Warns:
        UserWarning: an attribute cannot be copied, so its changes remain.
    """
    copies = _Copies()
    kept_buffers: list[tuple[nn.Module, str, Tensor | None]] = []
    kept: list[tuple[dict[str, Any], dict[str, Any]]] = []
    modules = list(root.modules())
    optimized: set[int] = set()
    if (trainer := vars(root).get("_trainer")) is not None:  # objects of the module may hold these
        copies.share(trainer, *trainer.optimizers, *trainer.callbacks, *trainer.loggers)
        optimized = {id(p) for one in trainer.optimizers for group in one.param_groups for p in group["params"]}
    for name, parameter in root.named_parameters():  # such as those of a momentum encoder
        if id(parameter) not in optimized:
            copies.watch(parameter, f"{type(root).__name__}.{name.partition('.')[0]}")
    try:
        for module in modules:
            copies.share(module, *module._parameters.values())
        for module in modules:  # grows in the loop
            for name, buffer in list(module._buffers.items()):
                kept_buffers.append((module, name, buffer))
                module._buffers[name] = copies.of_attribute(buffer, name)
            if isinstance(module, torch.jit.ScriptModule):  # whose attributes are not Python's
                continue
            attributes = vars(module)
            before = {name: value for name, value in attributes.items() if name not in _MACHINERY}
            kept.append((attributes, before))
            for name, value in before.items():
                attributes[name] = copies.of_attribute(value, f"{type(module).__name__}.{name}")
            while copies.found:
                for inner in copies.found.pop().modules():
                    if id(inner) not in copies.memo:
                        copies.share(inner, *inner._parameters.values())
                        modules.append(inner)
        yield
    finally:
        for module, name, buffer in kept_buffers:
            module._buffers[name] = buffer
        for attributes, before in kept:
            for name in [name for name in attributes if name not in before and name not in _MACHINERY]:
                del attributes[name]
            attributes.update(before)
        copies.restore()
    copies.warn(set() if warned is None else warned)


def own_generators(root: nn.Module) -> list[torch.Generator]:
    """Find the `torch.Generator`s that a module or its submodules hold as attributes."""
    values = (value for module in root.modules() for value in vars(module).values())
    return [value for value in values if isinstance(value, torch.Generator)]


class _Copies:
    """Copies of attributes. What two attributes share is copied once."""

    def __init__(self) -> None:
        self.memo: dict[int, Any] = {}  # as of copy.deepcopy
        self.found: list[nn.Module] = []  # modules in attributes
        self._generators: list[tuple[torch.Generator, Tensor]] = []
        self._versions: list[tuple[str, Tensor, int]] = []  # of parameters, and of tensors in containers
        self._data: list[tuple[nn.Parameter, Tensor]] = []  # of parameters
        self._failed: dict[str, str] = {}

    def share(self, *objects: Any) -> None:
        """Copy nothing of these objects."""
        self.memo.update((id(one), one) for one in objects)

    def watch(self, parameter: nn.Parameter, name: str) -> None:
        """Restore the parameter if its `data` is replaced, and notice if it is changed in place."""
        self._watch(parameter, name)
        if not is_lazy(parameter):
            self._data.append((parameter, parameter.data))

    def _watch(self, tensor: Tensor, name: str) -> None:
        if not is_lazy(tensor) and not tensor.is_inference():
            self._versions.append((name, tensor, tensor._version))

    def of_attribute(self, value: Any, name: str) -> Any:
        # A tensor that needs a gradient is a parameter elsewhere, or was computed from one.
        if isinstance(value, Tensor) and not value.requires_grad and not is_lazy(value):
            if id(value) not in self.memo:
                self.memo[id(value)] = value.clone()
            return self.memo[id(value)]
        return self._copy(value, name)

    def _copy(self, value: Any, name: str) -> Any:
        if isinstance(value, nn.Module):
            self.found.append(value)
        if isinstance(value, _SHARED):
            return value
        if id(value) in self.memo:
            return self.memo[id(value)]
        if isinstance(value, Tensor):
            self._watch(value, name)
            return value
        if isinstance(value, torch.Generator):
            self._generators.append((value, value.get_state()))
            return value
        kind = type(value)
        if kind is tuple:
            return tuple(self._copy(element, name) for element in value)
        if kind in _SEQUENCES or kind in _MAPPINGS or kind is set:
            copied = self.memo[id(value)] = copy.copy(value)  # before its elements: they may hold it
            if kind is set:
                self.found += [element for element in value if isinstance(element, nn.Module)]
            else:
                for key, element in value.items() if kind in _MAPPINGS else enumerate(value):
                    copied[key] = self._copy(element, name)
            return copied
        try:
            return copy.deepcopy(value, self.memo)
        except Exception as error:  # any class may refuse in its own way
            self._failed[name] = f"{kind.__name__}, {error}"
            self.memo[id(value)] = value
            return value

    def restore(self) -> None:
        """Restore what works on originals: generators, and parameters whose `data` was replaced."""
        for parameter, data in self._data:
            if parameter.data_ptr() != data.data_ptr():
                parameter.data = data
        for generator, state in self._generators:
            generator.set_state(state)

    def warn(self, warned: set[str]) -> None:
        for name, tensor, version in self._versions:
            if tensor._version != version:
                self._failed[name] = "a tensor was changed in place"
        for name in self._failed.keys() - warned:
            warnings.warn(
                f"The optimizer's second pass may have changed {name} once more: it cannot be copied "
                f"({self._failed[name]}). Change it only where the callback's repeated_pass is False.",
                stacklevel=2,
            )
        warned.update(self._failed)
