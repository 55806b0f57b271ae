"""Checks before any training that shapes, dtypes, devices and gradients fit from the batch to losses and metrics."""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from numbers import Number
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .collate import collate, number_of_samples
from .contract_run import Run, Step, first_line, is_metric, needs_values, run_components, undisturbed
from .did_you_mean import nearest_keys
from .flat_keys import provides
from .indexing import has_batch_axis, take
from .key_names import LOSSES, logits_key, output_key
from .ndict import NDict
from .nested_key_error import NestedKeyError
from .tree_and_table import table
from .wiring import BATCH, Wiring, WiringError, check_wiring, unique_names

SIZES = (6, 14)  # batch sizes without a real batch: even, and unlikely as a number of classes or channels
HEADS = (logits_key(""), output_key(""))


@dataclass(frozen=True)
class TensorSpec:
    """The shape, dtype and device of a tensor in a batch; None stands for the batch axis.

    Example:
        >>> TensorSpec((None, 1, 32, 32))
        TensorSpec(shape=(None, 1, 32, 32), dtype=torch.float32, device='cpu')
        >>> label = TensorSpec((None,), torch.int64)
    """

    shape: tuple[int | None, ...]
    dtype: torch.dtype = torch.float32
    device: str | torch.device = "cpu"


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
        loss 'loss' returns a loss of shape (6, 4). Reduce it to a scalar.
    """

    subject = "in how components fit together"
    certain: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()


@dataclass(frozen=True)
class KeyContract:
    """One key: its shape, in which "B" is the batch size and None means no tensor, and who writes and reads it."""

    shape: tuple[int | str, ...] | None
    dtype: str
    device: str
    writer: str
    readers: list[str]

    def __str__(self) -> str:
        return f"{_text(self.shape)} {self.dtype}".strip()


@dataclass(frozen=True)
class Contract:
    """The result of `check_contract`; `print` shows tables.

    Attributes:
        keys: for each key its shape, dtype, device, writer and readers.
        trained_by: for each component, for each of its trainable tensors, the losses that give it a gradient.
        notes: one sentence per check that was not possible and per output that nothing reads.

    Example:
        >>> class Loss:
        ...     reads = ["data.x", "data.y"]
        ...
        ...     def __call__(self, batch_dict):
        ...         return nn.functional.mse_loss(batch_dict["data.x"], batch_dict["data.y"])
        >>> spec = {"data.x": TensorSpec((None, 5)), "data.y": TensorSpec((None, 5))}
        >>> contract = check_contract({"l2": Loss()}, spec)
        >>> contract.keys["data.x"].shape, contract.keys["data.x"].readers
        (('B', 5), ["Loss 'l2'"])
    """

    keys: dict[str, KeyContract]
    trained_by: dict[str, dict[str, list[str]]]
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        rows = [
            (name, _text(key.shape), key.dtype, key.device, key.writer, ", ".join(key.readers) or "-")
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
        """The flowchart of `Wiring.to_mermaid`, with shapes on the edges."""
        readers = {name: key.readers for name, key in self.keys.items() if key.readers}
        wiring = Wiring({name: key.writer for name, key in self.keys.items()}, readers)
        return wiring.to_mermaid({name: str(key) for name, key in self.keys.items()})

    def check_batch(self, batch_dict: Mapping[str, Any]) -> None:
        """Compare a real batch with the batch that was checked.

        Raises:
            ContractError: a tensor is missing, or its shape or dtype differs. The message names both.
        """
        batch = NDict(batch_dict)
        problems = []
        for name, key in self.keys.items():
            found = _described(dict.get(batch, name), number_of_samples(batch))
            if key.writer == BATCH and key.shape is not None and found != str(key):
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
    if it needs values. The components themselves are not changed.

    A real batch is checked with its own size and with twice this size; only with its own if it holds one sample, or a
    value whose samples cannot be repeated, such as a packed sequence.

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
    named = dict(unique_names(components))
    short_names = list(components) if isinstance(components, Mapping | nn.ModuleDict) else list(named)
    if isinstance(batch_spec, Sequence):
        batch_spec = collate(batch_spec if len(batch_spec) > 1 else [*batch_spec] * 2)
    spec = NDict(batch_spec)
    check = _Check(named, spec)
    try:
        check.notes += check_wiring(components, spec).notes
    except WiringError as error:
        check.problems, check.notes, check.is_incomplete = list(error.problems), list(error.notes), True
        check.certain += error.problems
    runs = []
    for size, mode, other in zip(_sizes(spec), ("train", "eval"), ("eval", "train"), strict=True):
        left_out = {name for name, short in zip(named, short_names, strict=True) if (only_in or {}).get(short) == other}
        chosen = {name: one for name, one in named.items() if name not in left_out}
        runs.append(run_components(chosen, partial(_batch, spec, torch.empty), size, train=mode == "train"))
    for run in runs:
        check.steps(run, runs)
    check.batch_axes(*runs)
    check.gradients(runs[0], dict(zip(named, short_names, strict=True)), frozen)
    check.unread_keys(runs, prediction_keys)
    for name, component in named.items():
        run = next(run for run in runs if name in run.steps)
        check.class_range(name, run)
        check.problems += check_component(name, component, run.batch) if check_component else ()
    if real:
        with undisturbed():
            check.real_steps(named)
    if check.problems:
        found = ContractError(dict.fromkeys(check.problems), check.notes)
        found.certain, found.failures = tuple(check.certain), tuple(check.failures)
        raise found
    return Contract(_keys(*runs), runs[0].trained_by if runs[0].losses else {}, check.notes)


class _Check:
    """Collects the problems that the runs show."""

    def __init__(self, components: dict[str, Any], spec: NDict) -> None:
        self.components, self.spec = components, spec
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.certain: list[str] = []  # see ContractError
        self.failures: list[str] = []
        self.done: set[str] = set()  # components whose failure is known
        self.untrained: set[str] = set()  # components with parameters that no loss trains
        self.is_incomplete = False  # a component did not run, so keys may be missing

    def steps(self, run: Run, runs: Sequence[Run]) -> None:
        """What each component does: errors, losses that are no scalars, changes and overwrites."""
        writers = dict.fromkeys(self.spec, BATCH)
        for name, step in run.steps.items():
            if name not in self.done:
                count = len(self.problems)
                self._step(name, step, run, writers, [one.steps[name] for one in runs if name in one.steps])
                self.done |= {name} if len(self.problems) > count else set()
            writers.update(dict.fromkeys(step.writes, name))

    def _step(self, name: str, step: Step, run: Run, writers: Mapping[str, str], steps: Sequence[Step]) -> None:
        component, declared = self.components[name], _declared(self.components[name], "writes")
        failures = self.failures if step is steps[0] else []  # a training step says nothing about eval mode
        if step.needs_values and is_metric(component) and name in run.copies:
            step = _run_on_zeros(name, component, run, {})
        if step.error is not None:
            self._failed(name, step, run, failures)
        if all(one.suspicious for one in steps):  # once could be by chance: as many classes as samples
            for kind, found in sorted(step.suspicious)[:1]:
                self.problems.append(f"{name} {found}. {self._reads(name, run)}")
                {"certain": self.certain, "failures": failures}.get(kind, []).append(self.problems[-1])
        for key in step.changed:
            self.problems.append(f"{name} changes {key!r} of {writers.get(key, BATCH)} in place. Change a copy of it.")
        for key in step.writes:
            if writers.get(key, BATCH) != BATCH and not any(repr(key) in problem for problem in self.problems):
                self.problems.append(f"{name} overwrites {key!r}, written by {writers[key]}. Rename one of them.")
        if isinstance(step.result, Tensor):
            if declared:
                self.problems.append(f"{name} returns a tensor. Write it to {declared[0]!r}, and return the batch.")
            elif step.result.ndim > 0:
                shape = tuple(step.result.shape)
                self.problems.append(f"{name} returns a loss of shape {shape}. Reduce it to a scalar.")
                self.certain.append(self.problems[-1])
        elif all(one.error is None for one in steps) and not is_metric(component):
            written = [key for one in steps for key in one.writes]
            absent = [key for key in declared if not provides(written, key)]
            self.problems += [f"{name} does not write {key!r}. Remove it from `writes`." for key in absent]
        if step.backward_error is not None:
            self.is_incomplete = True
            text = f"{name}: its backward fails: {first_line(step.backward_error)}"
            (self.notes if needs_values(step.backward_error) else self.problems).append(text)

    def _failed(self, name: str, step: Step, run: Run, failures: list[str]) -> None:
        self.done.add(name)
        message = first_line(step.error)
        if step.needs_values:
            self.notes.append(f"{name} was not checked, because it needs values: {message}")
        elif not (self.is_incomplete and isinstance(step.error, NestedKeyError)):
            reads = self._reads(name, run)
            self.problems.append(
                f"{name} fails for a batch of {run.size}: {message} {reads} Correct its keys or options."
            )
            failures.append(self.problems[-1])
        self.is_incomplete = True

    def _reads(self, name: str, run: Run) -> str:
        """What a component reads, with shapes and writers, as a sentence."""
        writers = {key: other for other, step in run.steps.items() for key in step.writes}
        keys = _declared(self.components[name], "reads") or sorted(run.steps[name].reads)
        values = {key: value for key in keys if isinstance(value := dict.get(run.batch, key), Tensor)}
        found = [f"{k!r} {_described(v, run.size)} from {writers.get(k, BATCH)}" for k, v in values.items()]
        return f"It reads {', '.join(found)}." if found else ""

    def batch_axes(self, first: Run, second: Run) -> None:
        for name, step in first.steps.items():
            for key, one in step.writes.items() if first.size != second.size else ():
                other: Any = dict.get(second.batch, key)
                shape = _shape(one, other, first.size, second.size)
                if shape and shape[0] == "?" and one.ndim == other.ndim:
                    per_sample, rest = divmod(len(one), first.size)
                    if rest == 0 and len(other) == per_sample * second.size:  # such as views or patches
                        shape = ("B", *shape[1:])
                if shape and (shape[0] != "B" or "?" in shape):
                    found = f"{tuple(one.shape)} for {first.size} samples and {tuple(other.shape)} for {second.size}"
                    self.problems.append(f"{name} writes {key!r} of shape {found}. Keep the samples on the first axis.")

    def gradients(self, run: Run, short_names: Mapping[str, str], frozen: Sequence[str]) -> None:
        for name, loss in run.losses.items():
            if run.trained_by and not loss.requires_grad:
                reads = self._reads(name, run)
                self.problems.append(f"{name} depends on no trainable parameter. {reads} Is what it reads detached?")
                if not self.is_incomplete and not any(other.requires_grad for other in run.losses.values()):
                    self.certain.append(self.problems[-1])
        for name, module in run.modules():
            parameters = {
                key: parameter.requires_grad
                for key, parameter in module.named_parameters()
                if not any(f"{short_names[name]}.{key}.".startswith(f"{part}.") for part in frozen)
            }
            off = [key for key, is_trainable in parameters.items() if not is_trainable]
            cut = [key for key, is_trainable in parameters.items() if is_trainable and not run.trained_by[name][key]]
            if off:
                fix = f"frozen=[{f'{short_names[name]}.{off[0]}'!r}, ...]"
                self.problems.append(f"{name}: {_some(off)} do not require a gradient. Train them, or pass {fix}.")
            if cut and run.losses and not self.is_incomplete:
                self.untrained.add(name)
                self.problems.append(f"{name}: no loss trains {_some(cut)}. Add a loss, do not detach, or freeze them.")

    def unread_keys(self, runs: Sequence[Run], prediction_keys: Sequence[str]) -> None:
        read = {key for run in runs for step in run.steps.values() for key in step.reads} | set(prediction_keys)
        read |= {key for component in self.components.values() for key in _declared(component, "reads")}
        used = {key.rpartition(".")[2] for key in read if key.startswith(HEADS)}
        for name, step in runs[1].steps.items():
            unread = [key for key in step.writes if not provides(read, key) and not key.startswith(f"{LOSSES}.")]
            lost = [key for key in unread if key.startswith(HEADS) and key.rpartition(".")[2] not in used]
            is_useless = name in self.untrained or len(unread) == len(step.writes)
            if lost and is_useless and not self.is_incomplete:
                self.problems.append(
                    f"{name} writes {_some(lost)}, which nothing reads. Add a loss, or remove the head."
                )
                self.certain += self.problems[-1:] if name in self.untrained else []
            elif unread:
                self.notes.append(f"{name} writes {_some(unread)}, which nothing reads.")
        declared = [key for one in self.components.values() for key in _declared(one, "writes")]
        is_open = any(getattr(one, "reads", None) is None for one in self.components.values())
        for key in prediction_keys:
            if key not in runs[1].batch and not (self.is_incomplete and (is_open or provides(declared, key))):
                near = ", ".join(map(repr, nearest_keys(key, runs[1].batch))) or "none"
                self.problems.append(
                    f"The prediction key {key!r} is not in the batch at the end. Nearest keys: {near}."
                )

    def class_range(self, name: str, run: Run) -> None:
        """Compare the class indices of a real batch with the number of scores per sample."""
        tensors = {k: v for k in run.steps[name].reads if isinstance(v := dict.get(run.batch, k), Tensor)}
        scores = [key for key, value in tensors.items() if value.is_floating_point() and key not in self.spec]
        targets = [key for key in tensors if isinstance(dict.get(self.spec, key), Tensor)]
        if len(scores) != 1 or len(targets) != 1 or self.spec[targets[0]].is_floating_point():
            return
        shape, target = tensors[scores[0]].shape, tensors[targets[0]].shape
        axis = 1 if shape[:1] + shape[2:] == target else -1
        if len(shape) == len(target) + 1 and (axis == 1 or shape[:-1] == target):
            classes, ignored = shape[axis], (255, getattr(self.components[name], "ignore_index", None))
            wrong = [
                one for one in self.spec[targets[0]].unique().tolist() if one >= classes > 1 and one not in ignored
            ]
            if wrong and self._fails_for_labels(name, run, targets[0]):
                found = f"class {wrong[0]} in {targets[0]!r}, but {scores[0]!r} holds {classes} classes"
                self.problems.append(f"{name} reads {found}. Correct the labels or the number of classes.")
                self.certain.append(self.problems[-1])

    def _fails_for_labels(self, name: str, run: Run, target: str) -> bool:
        """Whether a component fails with the real labels, but not with zeros. Numbers may be no class indices."""
        component = self.components[name]
        if name in run.copies and isinstance(component, nn.Module):  # a wrong index would end the use of a GPU
            component = copy.deepcopy(component).cpu()
        labels = _batch(NDict({target: self.spec[target]}), torch.zeros, run.size).cpu()
        zeros, given = (_run_on_zeros(name, component, run, one, "cpu") for one in (NDict(), labels))
        return given.error is not None and zeros.error is None

    def real_steps(self, components: Mapping[str, Any]) -> None:
        """Run real samples in eval mode, and then the first of them several times, with equal random numbers."""
        self.is_incomplete = bool(self.problems)
        first, second = _sizes(self.spec)
        size = first if first == second else 2
        batch = _batch(self.spec, torch.randn, size)
        same = {k: take(v, [0] * size) for k, v in batch.items() if has_batch_axis(v) and len(v) == size}
        run = run_components(components, lambda _: batch, size, train=False, fake=False)
        other = run_components(components, lambda _: batch | same, size, train=False, fake=False)
        for name, step in run.steps.items():
            values = {**step.writes, "its loss": step.result}
            bad = [key for key, value in values.items() if isinstance(value, Tensor) and not value.isfinite().all()]
            if bad:
                self.problems.append(
                    f"{name} gives values that are not finite: {_some(bad)}. Check its initialisation."
                )
            if step.error is not None and not any(problem.startswith(name) for problem in self.problems):
                self._failed(name, step, run, [])
            pairs = {key: (value, other.steps[name].writes.get(key)) for key, value in step.writes.items()}
            mixed = [key for key, pair in pairs.items() if not bad and _differ_in_first_sample(*pair)]
            if mixed:  # what later components read is mixed already
                fix = "Keep samples apart: which axis do softmax, mean or norm run over?"
                self.problems.append(f"{name}: a sample's {_some(mixed)} depend on the other samples. {fix}")
                break


def _differ_in_first_sample(one: Any, other: Any) -> bool:
    are_batched = all(isinstance(value, Tensor) and value.ndim and len(value) for value in (one, other))
    return are_batched and not torch.allclose(one[0].float(), other[0].float(), rtol=1e-2, atol=1e-4)


def _run_on_zeros(
    name: str, component: Any, run: Run, given: Mapping[str, Any], device: torch.device | str | None = None
) -> Step:
    """Run a component on zeros in place of fake tensors, and on what is given."""
    zeros = {  # of one number each in memory
        k: torch.zeros((), dtype=v.dtype, device=device or v.device).expand(v.shape)
        for k, v in run.batch.items()
        if isinstance(v, Tensor)
    }
    batch = run.batch | zeros | given
    return run_components({name: component}, lambda _: batch, run.size, train=False, fake=False).steps[name]


def _keys(*runs: Run) -> dict[str, KeyContract]:
    first, second = runs
    found = {}
    for key in dict.fromkeys((*second.batch, *first.batch)):
        steps = {name: step for run in runs for name, step in run.steps.items()}
        one, other = dict.get(first.batch, key), dict.get(second.batch, key)
        value = one if other is None else other
        writer = next((name for name, step in steps.items() if key in step.writes), BATCH)
        readers = [name for name in steps if any(name in run.steps and key in run.steps[name].reads for run in runs)]
        dtype, device = (str(getattr(value, name, "")).removeprefix("torch.") for name in ("dtype", "device"))
        sizes = (second if one is None else first).size, (first if other is None else second).size
        shape = _shape(value if one is None else one, value, *sizes)
        found[key] = KeyContract(shape, dtype or type(value).__name__, device, writer, readers)
    return found


def _declared(component: Any, attribute: str) -> Sequence[str]:
    return tuple(getattr(component, attribute, None) or ())


def _batch(spec: NDict, make: Callable[..., Tensor], size: int) -> NDict:
    """A batch of `size` samples: tensors made from specs, and the samples of real values, repeated."""
    count = number_of_samples({key: value for key, value in spec.items() if not isinstance(value, TensorSpec)})
    batch = NDict()
    for key, value in spec.items():
        if count and has_batch_axis(value) and len(value) == count:
            if isinstance(value, Tensor) and make is torch.empty:
                value = TensorSpec((None, *value.shape[1:]), value.dtype, value.device)
            else:
                value = take(value, [position % count for position in range(size)])
        if isinstance(value, TensorSpec):
            make_values = make if value.dtype.is_floating_point else torch.zeros
            shape = [size if axis is None else axis for axis in value.shape]
            value = make_values(shape, dtype=value.dtype, device=value.device)
        batch[key] = value
    return batch


def _sizes(spec: NDict) -> tuple[int, int]:
    """The two batch sizes; see `check_contract`."""
    real = {key: value for key, value in spec.items() if not isinstance(value, TensorSpec)}
    count = number_of_samples(real)
    if not count:
        return SIZES
    for value in real.values():
        is_single = value is None or isinstance(value, str | bytes | Number) or getattr(value, "ndim", None) == 0
        if not is_single and not (has_batch_axis(value) and len(value) == count):
            return count, count
    return count, count if count == 1 else 2 * count


def _shape(one: Any, other: Any, size: int, other_size: int) -> tuple[int | str, ...] | None:
    """The shape of a tensor with both batch sizes: B for the batch size, `?` for an axis that follows another rule."""
    if not (isinstance(one, Tensor) and isinstance(other, Tensor)):
        return None
    if one.ndim != other.ndim:
        return ("?",)
    return tuple(
        "B" if (a, b) == (size, other_size) and (a != b or axis == 0) else a if a == b else "?"
        for axis, (a, b) in enumerate(zip(one.shape, other.shape, strict=True))
    )


def _described(value: Any, size: int | None) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    shape = tuple("B" if axis == 0 and length == size else length for axis, length in enumerate(value.shape))
    return f"{_text(shape)} {str(value.dtype).removeprefix('torch.')}"


def _text(shape: tuple[int | str, ...] | None) -> str:
    return "" if shape is None else f"({', '.join(map(str, shape))})"


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:4])) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
