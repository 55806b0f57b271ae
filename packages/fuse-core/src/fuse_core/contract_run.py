"""Runs copies of components once, on fake or on real tensors, and records what they read, write and train."""

import copy
import logging
import random
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses import fake_tensor
from torch.nn.parameter import is_lazy

from .contract_caches import ContractMode
from .contract_operations import WatchOperations
from .flat_keys import plain
from .ndict import NDict

_NEED_VALUES = (
    fake_tensor.DataDependentOutputException,
    fake_tensor.DynamicOutputShapeException,
    fake_tensor.UnsupportedOperatorException,
    fake_tensor.UnsupportedFakeTensorException,
)
# What torch says if a program asks a fake tensor for its memory, or mixes it with a real one.
_NEEDS_MEMORY = re.compile(
    r"\.numpy\(\) is not supported|data pointer|Numpy is not available|only supports real tensors|not allocated yet"
    r"|[Ff]ake ?[Tt]ensor|NestedTensor"
)


@dataclass
class Step:
    """What one component did in one run."""

    component: Any = None  # the copy that ran; None if there is none
    reads: set[str] = field(default_factory=set)
    writes: dict[str, Any] = field(default_factory=dict)
    before: dict[str, Any] = field(default_factory=dict)  # the batch that it got
    result: Any = None
    error: Exception | None = None
    backward_error: Exception | None = None
    needs_values: bool = False
    changed: list[str] = field(default_factory=list)  # keys changed in place
    suspicious: list[tuple[str, str]] = field(default_factory=list)  # see WatchOperations.found


@dataclass
class Run:
    """The steps of one run by component, the batch after it, and the losses that train each parameter."""

    size: int
    batch: NDict
    steps: dict[str, Step] = field(default_factory=dict)
    trained_by: dict[str, dict[str, list[str]]] = field(default_factory=dict)

    @property
    def losses(self) -> dict[str, Tensor]:
        """The tensors that components returned, by component."""
        return {name: step.result for name, step in self.steps.items() if isinstance(step.result, Tensor)}

    def writers_before(self, reader: str) -> dict[str, str]:
        """The component that wrote each key last before a component ran."""
        earlier = takewhile(lambda step: step[0] != reader, self.steps.items())
        return {key: name for name, step in earlier for key in step.writes}

    def models(self) -> Iterator[tuple[str, nn.Module]]:
        """The modules that are neither losses nor metrics."""
        for name, step in self.steps.items():
            module = step.component
            if isinstance(module, nn.Module) and not isinstance(step.result, Tensor) and not is_metric(module):
                yield name, module


class _RecordingBatch(NDict):
    """A batch that records the keys that are read."""

    __slots__ = ("keys_read",)

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.keys_read: set[str] = set()
        super().__init__(values)

    def __getitem__(self, key: str) -> Any:
        self.keys_read.add(plain(key) if isinstance(key, str) else key)
        return super().__getitem__(key)

    def __iter__(self) -> Iterator[str]:
        return super().__iter__()  # with a method of its own, `dict(batch)` asks for each value above

    def items(self) -> Any:
        self.keys_read.update(self)
        return super().items()

    def values(self) -> Any:
        self.keys_read.update(self)
        return super().values()


def is_metric(component: Any) -> bool:
    """Whether a component is a metric, which is updated instead of called."""
    return callable(getattr(component, "update", None)) and callable(getattr(component, "compute", None))


def needs_values(error: Exception) -> bool:
    """Whether an error comes of running on fake tensors only."""
    if isinstance(error, _NEED_VALUES):
        return True
    is_device = "found two different devices" in str(error)  # torch 2.6 names fake tensors there
    return not is_device and not isinstance(error, ValueError) and bool(_NEEDS_MEMORY.search(str(error)))


def run_components(
    components: Mapping[str, Any], make_batch: Callable[[int], NDict], size: int, mode: str, device: str | None = None
) -> Run:
    """Run copies of the components in turn on a batch of `size` samples.

    Args:
        components: the components by name.
        make_batch: a function of the batch size.
        size: the batch size.
        mode: `"train"` (forward, and the backward of each loss) or `"eval"` on fake tensors, or `"real"`: eval mode on
            real tensors.
        device: where copies of modules are moved.
    """
    fake: Any = nullcontext() if mode == "real" else ContractMode(allow_non_fake_inputs=True)
    with undisturbed():
        with fake:
            run = Run(size, _RecordingBatch(make_batch(size)))
        memo: dict[int, Any] = {}
        for name, component in components.items():
            try:
                _check_can_be_copied(component)
                with nullcontext() if mode == "real" else fake_tensor.FakeCopyMode(fake):
                    copied = copy.deepcopy(component, memo)
            except Exception as error:  # a component may hold anything, such as a file or a lock
                run.steps[name] = Step(error=error, needs_values=True)
                continue
            if isinstance(copied, nn.Module):
                copied.train(mode == "train")
                copied = copied if device is None else copied.to(device)
            with fake, torch.set_grad_enabled(mode == "train"):
                run.steps[name] = _run_one(copied, run.batch, size)
        if mode == "train":
            with fake, torch.enable_grad():
                _record_gradients(run)
    return run


@contextmanager
def undisturbed() -> Iterator[None]:
    """No warnings, nothing compiled, and the states of random number generators as before."""
    states = random.getstate(), np.random.get_state()
    log = logging.getLogger(fake_tensor.__name__)  # it prints each error, which the contract reports
    eager = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
    with eager, torch.random.fork_rng(devices=[]), mock.patch.object(log, "disabled", True), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


def _check_can_be_copied(component: Any) -> None:
    if not isinstance(component, nn.Module):
        return
    if any(map(is_lazy, (*component.parameters(), *component.buffers()))):
        raise TypeError("it has lazy parameters, which have no shape before the first batch")
    if any(isinstance(part, torch.jit.ScriptModule) for part in component.modules()):
        raise TypeError("it is scripted or traced by torch.jit, whose parameters are not Python's")


def _run_one(component: Any, batch: Any, size: int) -> Step:
    before = dict(batch)
    step = Step(component, before=before)
    versions = {key: _version(value) for key, value in before.items() if isinstance(value, Tensor)}
    batch.keys_read.clear()
    try:
        with WatchOperations(size) as operations:
            step.suspicious = operations.found
            if is_metric(component):
                component.update(batch)  # whatever it returns is not used
            else:
                step.result = component(batch)
            if isinstance(step.result, Mapping) and step.result is not batch:
                batch.update(step.result)
    except Exception as error:  # a component may raise anything
        step.error, step.needs_values = error, needs_values(error)
    step.reads = {key for key in batch.keys_read if key in before}
    step.writes = {key: value for key, value in batch.items() if key not in before or value is not before[key]}
    step.changed = [key for key, version in versions.items() if _version(before[key]) != version]
    return step


def _version(tensor: Tensor) -> int | None:
    """The number of changes in place; tensors of `torch.inference_mode` do not count them."""
    return None if tensor.is_inference() else tensor._version


def _record_gradients(run: Run) -> None:
    parameters = [
        (name, key, parameter)
        for name, model in run.models()
        for key, parameter in model.named_parameters()
        if parameter.requires_grad
    ]
    for name, key, _ in parameters:
        run.trained_by.setdefault(name, {})[key] = []
    for loss, value in run.losses.items():
        if value.ndim == 0 and value.requires_grad:
            before = [(leaf, leaf.grad) for leaf in leaves(value)]
            try:  # not autograd.grad, which reentrant checkpointing refuses
                value.backward(retain_graph=True)  # type: ignore[no-untyped-call]
            except Exception as error:
                run.steps[loss].backward_error = error
            for name, key, parameter in parameters:
                run.trained_by[name][key] += [loss] if parameter.grad is not None else []
            for *_, parameter in parameters:  # afterwards: components may share parameters
                parameter.grad = None
            for leaf, gradient in before:  # a function, which is not copied, may use parameters of the program
                leaf.grad = gradient


def leaves(value: Any) -> list[Tensor]:
    """The tensors that get a gradient from a backward pass of `value`."""
    found = new = {node for node in [getattr(value, "grad_fn", None)] if node is not None}
    while new:
        new = {one for last in new for one, _ in last.next_functions if one is not None} - found
        found = found | new
    return [one.variable for one in found if hasattr(one, "variable")]
