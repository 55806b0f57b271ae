"""The problems that runs of components show; see `check_contract`."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from traceback import walk_tb
from typing import Any

import torch
from torch import Tensor, nn

from .contract_batch import common_shape, described, is_dense, make_batch
from .contract_run import Run, Step, is_metric, leaves, needs_values, run_components
from .did_you_mean import nearest_keys
from .flat_keys import plain, provides
from .indexing import has_batch_axis, take
from .key_names import LOSSES, logits_key, output_key
from .ndict import NDict
from .nested_key_error import NestedKeyError
from .wiring import BATCH, WiringError, check_wiring

_INDICES = {torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8}
_HEADS = (logits_key(""), output_key(""))


class Findings:
    """Collects problems.

    Attributes:
        problems: sentences with their kinds: certain, failure or possible; see `ContractError`.
        notes: one sentence per check that was not possible and per output that nothing reads.
        is_incomplete: a component did not run, so keys may be missing.
    """

    def __init__(self, components: Mapping[str, Any], spec: NDict, runs: Sequence[Run]) -> None:
        self.components, self.spec, self.runs = components, spec, runs
        self.problems: dict[str, str] = {}
        self.notes: list[str] = []
        self.is_incomplete = False
        self._done: set[str] = set()  # components whose problems are known
        self._untrained: set[int] = set()  # ids of parameters that no loss trains

    def add(self, problem: str, kind: str = "possible") -> None:
        """Add a problem, or give it a kind again."""
        self.problems[problem] = kind

    def wiring(self, components: Mapping[str, Any] | Iterable[Any]) -> None:
        """What `check_wiring` finds."""
        try:
            self.notes += check_wiring(components, self.spec).notes
        except WiringError as error:
            self.problems = dict.fromkeys(error.problems, "certain")
            self.notes, self.is_incomplete = list(error.notes), True

    def steps(self) -> None:
        """What each component does: errors, losses that are no scalars, changes and overwrites."""
        for run in self.runs:
            for name in run.steps:
                count = len(self.problems)
                if name not in self._done:
                    self._step(name, run)
                if len(self.problems) > count:
                    self._done.add(name)

    def _step(self, name: str, run: Run) -> None:
        component, step = self.components[name], run.steps[name]
        steps = [one.steps[name] for one in self.runs if name in one.steps]
        written, writers = declared_keys(component, "writes"), run.writers_before(name)
        if step.needs_values and is_metric(step.component):
            step = _run_on_zeros(name, component, run, {})
        if step.error is not None:
            kind = "failure" if run is self.runs[0] else "possible"  # a training step says nothing about eval mode
            self._failed(name, step, run, kind)
        if all(one.suspicious for one in steps):  # once could be by chance: as many classes as samples
            for kind, found in sorted(step.suspicious)[:1]:
                self.add(f"{name} {found}. {self._reads(name, run)}", kind)
        for key in step.changed:
            self.add(f"{name} changes {key!r} of {writers.get(key, BATCH)} in place. Change a copy of it.")
        for key in step.writes:
            if key in step.before and key in writers and not any(repr(key) in one for one in self.problems):
                self.add(f"{name} overwrites {key!r}, written by {writers[key]}. Rename one of them.")
        if isinstance(step.result, Tensor):
            if written and not provides(step.writes, written[0]):
                self.add(f"{name} returns a tensor. Write it to {written[0]!r}, and return the batch.")
            elif step.result.ndim > 0:
                shape = tuple(step.result.shape)
                fix = "Reduce it to a scalar, or write it to the batch if this is a model."
                kind = "certain" if run is self.runs[0] else "possible"
                self.add(f"{name} returns a loss of shape {shape}. {fix}", kind)
        elif all(one.error is None for one in steps) and not is_metric(component):
            there = [key for one in steps for key in one.writes]
            for key in written:
                if not provides(there, key) and key not in run.batch:  # a cast may return the same tensor
                    self.add(f"{name} does not write {key!r}. Remove it from `writes`.")
            if step.result is not None and not isinstance(step.result, Mapping):
                self.add(f"{name} returns a {type(step.result).__name__}. Return a scalar tensor, or the batch.")
            elif step is steps[0] and not there and not written and declared_keys(component, "reads"):
                self.notes.append(f"{name} returns nothing and writes nothing. Is it a loss without a `return`?")
        if step.backward_error is not None:
            self.is_incomplete = True
            text = f"{name}: its backward fails: {_first_line(step.backward_error)}"
            self.notes.append(text) if needs_values(step.backward_error) else self.add(text)

    def _failed(self, name: str, step: Step, run: Run, kind: str) -> None:
        self._done.add(name)
        message = _first_line(step.error)
        if step.needs_values:
            self.notes.append(f"{name} was not checked, because it needs values: {message}")
        elif not (self.is_incomplete and isinstance(step.error, NestedKeyError)):
            message += "" if message.endswith((".", "!", "?")) else "."
            part = _failed_part(step)
            message += f" It fails in its part {part}." if part else ""
            sentences = filter(None, (message, self._reads(name, run), "Correct its keys or options."))
            self.add(f"{name} fails for a batch of {run.size}: {' '.join(sentences)}", kind)
        self.is_incomplete = True

    def _reads(self, name: str, run: Run) -> str:
        """The tensors that a component reads, with shapes and writers, as a sentence."""
        keys = declared_keys(self.components[name], "reads") or sorted(run.steps[name].reads)
        values = {key: value for key in keys if isinstance(value := run.steps[name].before.get(key), Tensor)}
        writers = run.writers_before(name)
        found = [f"{key!r} {described(one, run.size)} from {writers.get(key, BATCH)}" for key, one in values.items()]
        return f"It reads {', '.join(found)}." if found else ""

    def batch_axes(self) -> None:
        """Outputs whose first axis is not the batch axis, or whose other axes grow with the batch size."""
        first, second = self.runs
        if first.size == second.size:
            return
        for name, step in first.steps.items():
            for key, one in step.writes.items():
                other: Any = dict.get(second.batch, key)
                shape = common_shape(one, other, first.size, second.size)
                if not shape:
                    continue
                keeps_samples = _keeps_samples(one, other, first.size, second.size)
                if keeps_samples and not _grows(one, other, first.size, second.size):
                    continue  # the other axes may differ: the second run is in eval mode
                found = f"{tuple(one.shape)} for {first.size} samples and {tuple(other.shape)} for {second.size}"
                text = f"{name} writes {key!r} of shape {found}. Keep the samples on the first axis."
                # Hidden states and paths of time may have the samples on another axis, prototypes and anchors may have
                # none, predictions may not.
                is_meant = ("B" in shape or one.shape == other.shape) and not _head(key)
                if keeps_samples:  # eval mode may have twice the resolution of training
                    is_meant = second.size == 2 * first.size
                self.notes.append(text) if is_meant else self.add(text)

    def gradients(self, short_names: Mapping[str, str], frozen: Sequence[str]) -> None:
        """Losses without a gradient, and parameters that no loss trains."""
        run = self.runs[0]
        for name, loss in run.losses.items():
            if run.trained_by and not loss.requires_grad:
                is_only = not self.is_incomplete and not any(other.requires_grad for other in run.losses.values())
                found = f"{name} depends on no trainable parameter. {self._reads(name, run)}"
                self.add(f"{found} Is what it reads detached?", "certain" if is_only else "possible")
        for name, model in run.models():
            short = short_names[name]
            parameters = {
                key: parameter
                for key, parameter in model.named_parameters()
                if not any(f"{short}.{key}.".startswith(f"{part}.") for part in frozen)
            }
            off = [key for key, one in parameters.items() if not one.requires_grad]
            if off:
                fix = f"Train them, or pass frozen=[{f'{short}.{off[0]}'!r}, ...]."
                self.add(f"{name}: {_some(off)} do not require a gradient. {fix}")
            cut = [key for key, one in parameters.items() if one.requires_grad and not run.trained_by[name][key]]
            if cut and run.losses and not self.is_incomplete:
                self._untrained.update(id(parameters[key]) for key in cut)
                self.add(f"{name}: no loss trains {_some(cut)}. Add a loss, do not detach, or freeze them.")

    def unread_keys(self, prediction_keys: Sequence[str]) -> None:
        """Outputs that nothing reads, and prediction keys that do not exist."""
        first, second = self.runs
        declared = [key for one in self.components.values() for key in declared_keys(one, "reads", "optional_reads")]
        used = {key for run in self.runs for step in run.steps.values() for key in step.reads}
        read = {*used, *declared, *prediction_keys}
        heads = set(map(_head, read))
        undeclared = {name for name, one in self.components.items() if getattr(one, "reads", None) is None}
        for name, step in second.steps.items():
            unread = [key for key in step.writes if not provides(read, key) and not key.startswith(f"{LOSSES}.")]
            lost = [key for key in unread if _head(key) and _head(key) not in heads]
            reached = {id(leaf) for key in lost for leaf in leaves(dict.get(first.batch, key))}
            is_untrained = not self._untrained.isdisjoint(reached)
            if lost and not self.is_incomplete and (is_untrained or len(unread) == len(step.writes)):
                is_certain = is_untrained and undeclared <= {name}  # others may read it in a later step
                kind = "certain" if is_certain else "possible"
                self.add(f"{name} writes {_some(lost)}, which nothing reads. Add a loss, or remove the head.", kind)
            elif unread:
                self.notes.append(f"{name} writes {_some(unread)}, which nothing reads.")
        writes = [key for one in self.components.values() for key in declared_keys(one, "writes")]
        for key in prediction_keys:
            if key not in second.batch and not (self.is_incomplete and (undeclared or provides(writes, key))):
                near = ", ".join(map(repr, nearest_keys(key, second.batch))) or "none"
                self.add(f"The prediction key {key!r} is not in the batch at the end. Nearest keys: {near}.")

    def each_component(self, check_component: Callable[[str, Any, NDict], Iterable[str]] | None) -> None:
        """Class indices that are out of range, and what `check_component` finds."""
        for name, component in self.components.items():
            run = next(run for run in self.runs if name in run.steps)
            self._class_range(name, run)
            for problem in check_component(name, component, run.batch) if check_component else ():
                self.add(problem)

    def _class_range(self, name: str, run: Run) -> None:
        """Compare the class indices of a real batch with the number of scores per sample."""
        tensors = {key: v for key in run.steps[name].reads if isinstance(v := dict.get(run.batch, key), Tensor)}
        scores = [key for key, value in tensors.items() if value.is_floating_point() and key not in self.spec]
        given = {key: self.spec[key] for key in tensors if isinstance(dict.get(self.spec, key), Tensor)}
        targets = [key for key, value in given.items() if value.dtype in _INDICES]
        if len(scores) != 1 or len(targets) != 1:
            return
        (score,), (target,) = scores, targets
        shape, rest = tensors[score].shape, tensors[target].shape
        axis = 1 if shape[:1] + shape[2:] == rest else -1
        if len(shape) != len(rest) + 1 or (axis == -1 and shape[:-1] != rest):
            return
        classes, ignored = shape[axis], (-100, 255, getattr(self.components[name], "ignore_index", None))
        labels = given[target].unique().tolist()
        wrong = [label for label in labels if not 0 <= label < classes and label not in ignored]
        if not wrong:
            return
        # Numbers may be no class indices. A wrong index would end the use of a GPU, so this runs on the CPU.
        # With all that the batch holds: a mask may leave labels out.
        tensors_of_batch = NDict((key, v) for key, v in self.spec.items() if isinstance(v, Tensor))
        real = make_batch(tensors_of_batch, torch.zeros, run.size).cpu()
        zeros = real | {target: torch.zeros_like(real[target])}
        labeled, unlabeled = (_run_on_zeros(name, self.components[name], run, one, "cpu") for one in (real, zeros))
        if labeled.error is not None and unlabeled.error is None:
            holds = f"{score!r} of {run.writers_before(name)[score]} holds {classes} class{'es' * (classes != 1)}"
            fix = "Correct the labels or the number of classes."
            self.add(f"{name} reads class {wrong[-1]} in {target!r}, but {holds}. {fix}", "certain")

    def real_steps(self) -> None:
        """Run real samples in eval mode, and then the last of them several times, with equal random numbers."""
        self.is_incomplete = bool(self.problems)
        first, second = self.runs
        can_repeat = first.size != second.size
        size = 2 if can_repeat else first.size
        batch = make_batch(self.spec, torch.rand, size)  # positive, as doses and probabilities are
        last = [size - 1] * size
        same = {key: take(v, last) for key, v in batch.items() if has_batch_axis(v) and len(v) == size}
        components = {name: self.components[name] for name in second.steps}  # without those of train mode
        run = run_components(components, lambda _: batch, size, "real")
        other = run_components(components, lambda _: batch | same, size, "real") if can_repeat else run
        for name, step in run.steps.items():
            read = _not_finite({key: step.before[key] for key in step.reads})
            bad = _not_finite({**step.writes, "its loss": step.result})
            if bad:
                fix = f"It reads such values: {_some(read)}." if read else "Check its initialization."
                self.add(f"{name} gives values that are not finite: {_some(bad)}. {fix}")
            self.notes = [note for note in self.notes if not note.startswith(f"{name} was not checked")]
            if step.error is not None and not any(problem.startswith(name) for problem in self.problems):
                self._failed(name, step, run, "possible")
            others = other.steps[name].writes
            mixed = [key for key, value in step.writes.items() if self._is_mixed(key, value, others.get(key))]
            if mixed and not bad:  # what later components read is mixed already
                fix = "Keep samples apart: which axis do softmax, mean or norm run over?"
                self.add(f"{name}: a sample's {_some(mixed)} depend on the other samples. {fix}")
                break

    def _is_mixed(self, key: str, one: Any, other: Any) -> bool:
        """Whether two outputs differ in the last sample."""
        first, second = self.runs
        in_train, in_eval = (dict.get(run.batch, key) for run in self.runs)
        shape = common_shape(in_train, in_eval, first.size, second.size) or ()
        if shape.count("B") > 1 or not (is_dense(one) and is_dense(other)):  # pairs of samples
            return False
        axis = shape.index("B") if "B" in shape else 0
        if not all(value.ndim > axis and value.shape[axis] for value in (one, other)):
            return False
        dtype = torch.complex128 if one.is_complex() else torch.float64
        last, other_last = (value.select(axis, -1).to(dtype) for value in (one, other))
        return last.shape == other_last.shape and not torch.allclose(last, other_last, rtol=1e-3, atol=1e-5)


def declared_keys(component: Any, *attributes: str) -> tuple[str, ...]:
    """The keys in `reads`, `writes` or others; none if they are not declared."""
    return tuple(plain(key) for attribute in attributes for key in getattr(component, attribute, None) or ())


def _failed_part(step: Step) -> str:
    """The innermost module of a component in which it failed."""
    parts = step.component.named_modules() if isinstance(step.component, nn.Module) else ()
    names = {id(part): f"{path!r} ({type(part).__name__})" for path, part in parts if path}
    found = ""
    for frame, _ in walk_tb(step.error.__traceback__ if step.error else None):
        found = names.get(id(frame.f_locals.get("self")), found)
    return found


def _first_line(error: BaseException | None) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def _head(key: str) -> str | None:
    return key.rpartition(".")[2] if f"{key}.".startswith(_HEADS) else None


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:4])) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _keeps_samples(one: Tensor, other: Tensor, size: int, other_size: int) -> bool:
    """Whether the first axis holds one entry per sample, or several, such as views or patches."""
    both_have_axes = one.ndim > 0 and other.ndim > 0
    return both_have_axes and len(one) % size == 0 and len(one) * other_size == len(other) * size


def _grows(one: Tensor, other: Tensor, size: int, other_size: int) -> bool:
    """Whether an axis after the first grows with the batch size; pairs of samples, of shape (B, B), may."""
    axes = zip(one.shape[1:], other.shape[1:], strict=False)
    return any(axis > size and axis % size == 0 and axis * other_size == last * size for axis, last in axes)


def _not_finite(values: Mapping[str, Any]) -> list[str]:
    return [key for key, value in values.items() if is_dense(value) and not value.isfinite().all()]


def _run_on_zeros(name: str, component: Any, run: Run, given: Mapping[str, Any], device: str | None = None) -> Step:
    """Run a component on zeros in place of fake tensors, and on what is given; on `device`, if it is not None."""
    zeros = {  # of one number each in memory
        key: torch.zeros((), dtype=value.dtype, device=device or value.device).expand(value.shape)
        for key, value in run.batch.items()
        if is_dense(value)
    }
    batch = run.batch | zeros | given
    return run_components({name: component}, lambda _: batch, run.size, "real", device).steps[name]
