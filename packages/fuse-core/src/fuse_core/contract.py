"""Checks before any training that shapes, dtypes, devices and gradients fit from the batch to losses and metrics."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any, Literal

import torch
from torch import nn

from .collate import collate, number_of_samples
from .contract_batch import Shape, TensorSpec, batch_sizes, common_shape, described, make_batch, shape_text
from .contract_caches import fake_tensors_forgotten
from .contract_findings import Findings
from .contract_run import Run, run_components, undisturbed
from .ndict import NDict
from .tree_and_table import table
from .wiring import BATCH, Wiring, WiringError, unique_names

__all__ = ["Contract", "ContractError", "KeyContract", "TensorSpec", "check_contract"]


class ContractError(WiringError):
    """Components do not fit together. The message lists all problems, with component, keys, shapes and the fix.

    Attributes:
        certain: the problems that no working training has. Other ones may be meant, such as parameters without a loss.
        failures: the errors of components on fake tensors in train mode. A step on real tensors shows if they are real.

    Example:
        >>> def loss(batch_dict):
        ...     return batch_dict["data.image"].square()
        >>> try:
        ...     check_contract({"loss": loss}, {"data.image": TensorSpec((None, 4))})
        ... except ContractError as error:
        ...     print(error.problems[0])
        loss 'loss' returns a loss of shape (6, 4). Reduce it to a scalar, or write it to the batch if this is a model.
    """

    subject = "in how components fit together"

    def __init__(self, problems: Mapping[str, str] | Iterable[str], notes: Iterable[str] = ()) -> None:
        super().__init__(problems, notes)
        kinds = problems if isinstance(problems, Mapping) else {}
        self.certain, self.failures = (
            tuple(problem for problem, kind in kinds.items() if kind == wanted) for wanted in ("certain", "failure")
        )


@dataclass(frozen=True)
class KeyContract:
    """One key: its shape, in which "B" is the batch size and None means no tensor, and who writes and reads it."""

    shape: Shape | None
    dtype: str
    device: str
    writer: str
    readers: list[str]

    def __str__(self) -> str:
        return f"{shape_text(self.shape)} {self.dtype}".strip()


@dataclass(frozen=True)
class Contract:
    """The result of `check_contract`; `print` shows tables.

    Attributes:
        keys: for each key its shape, dtype, device, writer and readers.
        trained_by: for each component, for each of its trainable tensors, the losses that give it a gradient.
        notes: one sentence per check that was not possible and per output that nothing reads.

    Example:
        >>> def mean_loss(batch_dict):
        ...     return batch_dict["data.x"].mean()
        >>> contract = check_contract({"mean": mean_loss}, {"data.x": TensorSpec((None, 5))})
        >>> contract.keys["data.x"].shape, contract.keys["data.x"].readers
        (('B', 5), ["mean_loss 'mean'"])
    """

    keys: dict[str, KeyContract]
    trained_by: dict[str, dict[str, list[str]]]
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        rows = [
            (name, shape_text(key.shape), key.dtype, key.device, key.writer, ", ".join(key.readers) or "-")
            for name, key in self.keys.items()
        ]
        text = table(("key", "shape", "dtype", "device", "written by", "read by"), rows)
        trained = [
            (name, str(len(losses)), ", ".join(dict.fromkeys(chain(*losses.values()))) or "-")
            for name, losses in self.trained_by.items()
        ]
        if trained:
            text += "\n\n" + table(("component", "trainable tensors", "gradients from"), trained)
        return "\n".join([text, *(f"note: {note}" for note in self.notes)])

    def to_mermaid(self) -> str:
        """The flowchart of `Wiring.to_mermaid`, with shapes on the edges from writers to keys."""
        readers = {name: key.readers for name, key in self.keys.items() if key.readers}
        wiring = Wiring({name: key.writer for name, key in self.keys.items()}, readers)
        return wiring.to_mermaid({name: str(key) for name, key in self.keys.items()})

    def check_batch(self, batch_dict: Mapping[str, Any]) -> None:
        """Compare a real batch with the batch that was checked.

        Raises:
            ContractError: a tensor is missing, or its shape or dtype differs. The message names both.
        """
        batch = NDict(batch_dict)
        shapes = {name: key.shape for name, key in self.keys.items() if key.writer == BATCH and key.shape is not None}
        size = number_of_samples({name: batch.get(name) for name, shape in shapes.items() if shape[:1] == ("B",)})
        problems = []
        for name, shape in shapes.items():
            value, key = dict.get(batch, name), self.keys[name]
            expected = tuple(size if axis == "B" and size is not None else axis for axis in shape)
            if described(value, None) != f"{shape_text(expected)} {key.dtype}":
                found = described(value, size)
                problems.append(f"The contract was checked with {name!r} as {key}, but the batch holds {found}.")
        if problems:
            raise ContractError(problems)


def check_contract(
    components: Mapping[str, Any] | Iterable[Any],
    batch_spec: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    *,
    prediction_keys: Sequence[str] = (),
    frozen: Sequence[str] = (),
    only_in: Mapping[str, Literal["train", "eval"]] | None = None,
    real: bool = False,
    check_component: Callable[[str, Any, NDict], Iterable[str]] | None = None,
) -> Contract:
    """Run copies of the components on fake tensors, which have no memory, and report everything that does not fit.

    The components run in train mode and, with another batch size, in eval mode, and each loss runs backward. A
    component that returns a tensor is a loss. One with `update` and `compute` is a metric: it gets the batch, or zeros
    if it needs values. The components themselves are not changed; plain functions are not copied.

    A real batch is checked with its own size and with twice this size; only with its own if it holds one sample, or a
    value whose samples cannot be repeated, such as a packed sequence or a matrix of pairs of samples `(B, B)`.

    Args:
        components: the components in the order in which they run, by name or in a sequence.
        batch_spec: a real batch, or a sequence of samples, or a mapping of keys to `TensorSpec`. Values of other types
            are passed on unchanged.
        prediction_keys: keys that are read after the last component.
        frozen: components, or parts of them such as `"model.backbone"`, that no loss is meant to train.
        only_in: components that run in one mode only, with this mode.
        real: also run two real samples in eval mode. This finds values that are not finite, outputs of one sample that
            depend on the other sample, and mistakes in components that need values.
        check_component: a function of name, component and fake batch that returns more problems, one sentence each.

    Raises:
        ContractError: the components do not fit. The message lists all problems.

    Example:
        >>> class Model(nn.Linear):
        ...     reads, writes = ("data.table",), ("model.logits.cls",)
        ...
        ...     def forward(self, batch_dict):
        ...         batch_dict["model.logits.cls"] = super().forward(batch_dict["data.table"])
        >>> class Loss:
        ...     reads = ("model.logits.cls", "data.label")
        ...
        ...     def __call__(self, batch_dict):
        ...         return nn.functional.cross_entropy(*(batch_dict[key] for key in self.reads))
        >>> spec = {"data.table": TensorSpec((None, 64)), "data.label": TensorSpec((None,), torch.int64)}
        >>> print(check_contract({"mlp": Model(64, 10), "ce": Loss()}, spec))
        key               shape    dtype    device  written by   read by
        data.table        (B, 64)  float32  cpu     the batch    Model 'mlp'
        data.label        (B)      int64    cpu     the batch    Loss 'ce'
        model.logits.cls  (B, 10)  float32  cpu     Model 'mlp'  Loss 'ce'
        <BLANKLINE>
        component    trainable tensors  gradients from
        Model 'mlp'  2                  Loss 'ce'
    """
    for option, keys in (("prediction_keys", prediction_keys), ("frozen", frozen)):
        if isinstance(keys, str):
            raise TypeError(f"check_contract({option}=) takes a sequence, got the string {keys!r}. Use [{keys!r}].")
    named = dict(unique_names(components))
    short = components if isinstance(components, Mapping | nn.ModuleDict) else named
    short_names = dict(zip(named, short, strict=True))
    only_in = only_in or {}
    for name, given in only_in.items():
        if name not in short or given not in ("train", "eval"):
            raise ValueError(
                f"check_contract(only_in=) takes names of components with 'train' or 'eval', got {name!r}: {given!r}. "
                f"The names are {', '.join(map(repr, short))}."
            )
    if isinstance(batch_spec, Sequence):
        batch_spec = collate(batch_spec if len(batch_spec) > 1 else [*batch_spec] * 2)

    def check() -> tuple[dict[str, str], Contract]:  # its fake tensors end with it
        spec = NDict(batch_spec)
        runs = []
        for size, mode in zip(batch_sizes(spec), ("train", "eval"), strict=True):
            chosen = {name: one for name, one in named.items() if only_in.get(short_names[name], mode) == mode}
            runs.append(run_components(chosen, partial(make_batch, spec, torch.empty), size, mode))
        findings = Findings(named, spec, runs)
        findings.wiring(components)
        findings.steps()
        findings.batch_axes()
        findings.gradients(short_names, frozen)
        findings.unread_keys(prediction_keys)
        findings.each_component(check_component)
        if real:
            with undisturbed():
                findings.real_steps()
        keys = {} if findings.problems else _keys(named, runs)
        for step in chain(*(run.steps.values() for run in runs)):
            step.error = step.backward_error = None  # their tracebacks hold the steps, and so the fake tensors
        return findings.problems, Contract(keys, runs[0].trained_by if runs[0].losses else {}, findings.notes)

    with fake_tensors_forgotten():
        problems, contract = check()
    if problems:
        raise ContractError(problems, contract.notes)
    return contract


def _keys(names: Iterable[str], runs: Sequence[Run]) -> dict[str, KeyContract]:
    found = {}
    for key in dict.fromkeys((*runs[1].batch, *runs[0].batch)):
        holders = [run for run in runs if dict.__contains__(run.batch, key)]
        first, last = holders[0], holders[-1]
        value = dict.get(last.batch, key)
        steps = {name: [run.steps[name] for run in runs if name in run.steps] for name in names}
        writer = next((name for name in names if any(key in step.writes for step in steps[name])), BATCH)
        readers = [name for name in names if any(key in step.reads for step in steps[name])]
        dtype, device = (str(getattr(value, name, "")).removeprefix("torch.") for name in ("dtype", "device"))
        shape = common_shape(dict.get(first.batch, key), value, first.size, last.size)
        found[key] = KeyContract(shape, dtype or type(value).__name__, device, writer, readers)
    return found
