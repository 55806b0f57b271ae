"""The problems that runs of components show; see `check_contract`."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .contract_batch import batch_sizes, common_shape, described, is_dense, make_batch
from .contract_run import Run, Step, first_line, is_metric, leaves, needs_values, run_components
from .did_you_mean import nearest_keys
from .flat_keys import plain, provides
from .indexing import has_batch_axis, take
from .key_names import LOSSES, logits_key, output_key
from .ndict import NDict
from .nested_key_error import NestedKeyError
from .wiring import BATCH

INDICES = {torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8}
READS = ("reads", "optional_reads")
HEADS = (logits_key(""), output_key(""))


class Findings:
    """Collects problems.

    Attributes:
        problems: sentences with their kinds: certain, failure or possible; see `ContractError`.
        notes: one sentence per check that was not possible and per output that nothing reads.
        is_incomplete: a component did not run, so keys may be missing.
    """

    def __init__(self, components: Mapping[str, Any], spec: NDict) -> None:
        self.components, self.spec = components, spec
        self.problems: dict[str, str] = {}
        self.notes: list[str] = []
        self.is_incomplete = False
        self._done: set[str] = set()  # components whose problems are known
        self._untrained: set[int] = set()  # ids of parameters that no loss trains

    def add(self, problem: str, kind: str = "possible") -> None:
        """Add a problem, or give it a kind again."""
        self.problems[problem] = kind

    def steps(self, run: Run, runs: Sequence[Run]) -> None:
        """What each component does: errors, losses that are no scalars, changes and overwrites."""
        writers = dict.fromkeys(self.spec, BATCH)
        for name, step in run.steps.items():
            writers = {key: writers[key] for key in writers if key in step.before or name not in run.copies}
            if name not in self._done:
                count = len(self.problems)
                self._step(name, run, writers, [one.steps[name] for one in runs if name in one.steps])
                self._done |= {name} if len(self.problems) > count else set()
            writers.update(dict.fromkeys(step.writes, name))

    def _step(self, name: str, run: Run, writers: Mapping[str, str], steps: Sequence[Step]) -> None:
        component, step = self.components[name], run.steps[name]
        written = declared_keys(component, "writes")
        failure = "failure" if step is steps[0] else "possible"  # a training step says nothing about eval mode
        if step.needs_values and is_metric(component) and name in run.copies:
            step = _run_on_zeros(name, component, run, {})
        if step.error is not None:
            self._failed(name, step, run, failure)
        if all(one.suspicious for one in steps):  # once could be by chance: as many classes as samples
            for kind, found in sorted(step.suspicious)[:1]:
                self.add(f"{name} {found}. {self._reads(name, run)}", failure if kind == "failure" else kind)
        for key in step.changed:
            self.add(f"{name} changes {key!r} of {writers.get(key, BATCH)} in place. Change a copy of it.")
        for key in step.writes:
            if writers.get(key, BATCH) != BATCH and not any(repr(key) in problem for problem in self.problems):
                self.add(f"{name} overwrites {key!r}, written by {writers[key]}. Rename one of them.")
        if isinstance(step.result, Tensor):
            if written and not provides(step.writes, written[0]):
                self.add(f"{name} returns a tensor. Write it to {written[0]!r}, and return the batch.")
            elif step.result.ndim > 0:
                shape = tuple(step.result.shape)
                fix = "Reduce it to a scalar, or write it to the batch if this is a model."
                self.add(f"{name} returns a loss of shape {shape}. {fix}", "certain")
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
            text = f"{name}: its backward fails: {first_line(step.backward_error)}"
            self.notes.append(text) if needs_values(step.backward_error) else self.add(text)

    def _failed(self, name: str, step: Step, run: Run, kind: str) -> None:
        self._done.add(name)
        message = first_line(step.error)
        if step.needs_values:
            self.notes.append(f"{name} was not checked, because it needs values: {message}")
        elif not (self.is_incomplete and isinstance(step.error, NestedKeyError)):
            message += "" if message.endswith((".", "!", "?")) else "."
            part = f"It fails in its part {step.failed_part}." if step.failed_part else ""
            sentences = filter(None, (message, part, self._reads(name, run), "Correct its keys or options."))
            self.add(f"{name} fails for a batch of {run.size}: {' '.join(sentences)}", kind)
        self.is_incomplete = True

    def _reads(self, name: str, run: Run) -> str:
        """The tensors that a component reads, with shapes and writers, as a sentence."""
        keys = declared_keys(self.components[name], "reads") or sorted(run.steps[name].reads)
        values = {key: value for key in keys if isinstance(value := run.steps[name].before.get(key), Tensor)}
        writers = run.writers_before(name)
        found = [f"{key!r} {described(one, run.size)} from {writers.get(key, BATCH)}" for key, one in values.items()]
        return f"It reads {', '.join(found)}." if found else ""

    def batch_axes(self, first: Run, second: Run) -> None:
        """Outputs whose first axis is not the batch axis, or whose other axes depend on the batch size."""
        for name, step in first.steps.items():
            for key, one in step.writes.items() if first.size != second.size else ():
                other: Any = dict.get(second.batch, key)
                shape = common_shape(one, other, first.size, second.size)
                if shape and shape[0] == "?" and one.ndim == other.ndim:
                    per_sample, rest = divmod(len(one), first.size)
                    if rest == 0 and len(other) == per_sample * second.size:  # such as views or patches
                        shape = ("B", *shape[1:])
                if shape and (shape[0] != "B" or "?" in shape):
                    found = f"{tuple(one.shape)} for {first.size} samples and {tuple(other.shape)} for {second.size}"
                    text = f"{name} writes {key!r} of shape {found}. Keep the samples on the first axis."
                    # Hidden states and paths of time may have the samples on another axis, predictions may not.
                    self.notes.append(text) if "B" in shape and not _head(key) else self.add(text)

    def gradients(self, run: Run, short_names: Mapping[str, str], frozen: Sequence[str]) -> None:
        """Losses without a gradient, and parameters that no loss trains."""
        for name, loss in run.losses.items():
            if run.trained_by and not loss.requires_grad:
                is_only = not self.is_incomplete and not any(other.requires_grad for other in run.losses.values())
                found = f"{name} depends on no trainable parameter. {self._reads(name, run)}"
                self.add(f"{found} Is what it reads detached?", "certain" if is_only else "possible")
        for name, module in run.modules():
            short = short_names[name]
            parameters = {
                key: parameter.requires_grad
                for key, parameter in module.named_parameters()
                if not any(f"{short}.{key}.".startswith(f"{part}.") for part in frozen)
            }
            off = [key for key, is_trainable in parameters.items() if not is_trainable]
            cut = [key for key, is_trainable in parameters.items() if is_trainable and not run.trained_by[name][key]]
            if off:
                fix = f"Train them, or pass frozen=[{f'{short}.{off[0]}'!r}, ...]."
                self.add(f"{name}: {_some(off)} do not require a gradient. {fix}")
            if cut and run.losses and not self.is_incomplete:
                self._untrained |= {id(one) for key, one in module.named_parameters() if key in cut}
                self.add(f"{name}: no loss trains {_some(cut)}. Add a loss, do not detach, or freeze them.")

    def unread_keys(self, runs: Sequence[Run], prediction_keys: Sequence[str]) -> None:
        """Outputs that nothing reads, and prediction keys that do not exist."""
        everything = self.components.values()
        read = {key for run in runs for step in run.steps.values() for key in step.reads} | set(prediction_keys)
        read |= {key for component in everything for what in READS for key in declared_keys(component, what)}
        used = {_head(key) for key in read}
        for name, step in runs[1].steps.items():
            unread = [key for key in step.writes if not provides(read, key) and not key.startswith(f"{LOSSES}.")]
            lost = [key for key in unread if _head(key) and _head(key) not in used]
            reached = [leaf for key in lost for leaf in leaves(dict.get(runs[0].batch, key))]
            is_untrained = any(id(leaf) in self._untrained for leaf in reached)
            is_useless = is_untrained or len(unread) == len(step.writes)
            if lost and is_useless and not self.is_incomplete:
                kind = "certain" if is_untrained else "possible"
                self.add(f"{name} writes {_some(lost)}, which nothing reads. Add a loss, or remove the head.", kind)
            elif unread:
                self.notes.append(f"{name} writes {_some(unread)}, which nothing reads.")
        declared = [key for component in everything for key in declared_keys(component, "writes")]
        is_open = any(getattr(component, "reads", None) is None for component in everything)
        for key in prediction_keys:
            if key not in runs[1].batch and not (self.is_incomplete and (is_open or provides(declared, key))):
                near = ", ".join(map(repr, nearest_keys(key, runs[1].batch))) or "none"
                self.add(f"The prediction key {key!r} is not in the batch at the end. Nearest keys: {near}.")

    def class_range(self, name: str, run: Run) -> None:
        """Compare the class indices of a real batch with the number of scores per sample."""
        tensors = {k: v for k in run.steps[name].reads if isinstance(v := dict.get(run.batch, k), Tensor)}
        scores = [key for key, value in tensors.items() if value.is_floating_point() and key not in self.spec]
        given = [key for key in tensors if isinstance(dict.get(self.spec, key), Tensor)]
        targets = [key for key in given if self.spec[key].dtype in INDICES]
        if len(scores) != 1 or len(targets) != 1:
            return
        shape, target = tensors[scores[0]].shape, tensors[targets[0]].shape
        axis = 1 if shape[:1] + shape[2:] == target else -1
        if len(shape) == len(target) + 1 and (axis == 1 or shape[:-1] == target):
            usual = (-100, 255, getattr(self.components[name], "ignore_index", None))  # for what is ignored
            labels = self.spec[targets[0]].unique().tolist()
            wrong = [label for label in labels if not 0 <= label < shape[axis] and label not in usual]
            if wrong and self._fails_for_labels(name, run, targets[0], given):
                writer = run.writers_before(name)[scores[0]]
                holds = f"{scores[0]!r} of {writer} holds {shape[axis]} class{'es' * (shape[axis] != 1)}"
                found = f"class {wrong[-1]} in {targets[0]!r}, but {holds}"
                self.add(f"{name} reads {found}. Correct the labels or the number of classes.", "certain")

    def _fails_for_labels(self, name: str, run: Run, target: str, given: Sequence[str]) -> bool:
        """Whether a component fails with the real labels, but not with zeros. Numbers may be no class indices."""
        component = self.components[name]
        if name in run.copies and isinstance(component, nn.Module):  # a wrong index would end the use of a GPU
            try:
                component = copy.deepcopy(component).cpu()
            except RuntimeError:  # a tensor with a gradient
                return False
        real = make_batch(NDict({key: self.spec[key] for key in given}), torch.zeros, run.size).cpu()
        zeros = real | {target: torch.zeros_like(real[target])}
        labelled, unlabelled = (_run_on_zeros(name, component, run, one, "cpu") for one in (real, zeros))
        return labelled.error is not None and unlabelled.error is None

    def real_steps(self) -> None:
        """Run real samples in eval mode, and then the last of them several times, with equal random numbers."""
        self.is_incomplete = bool(self.problems)
        first, second = batch_sizes(self.spec)
        size = first if first == second else 2
        batch = make_batch(self.spec, torch.rand, size)  # positive, as doses and probabilities are
        last = [size - 1] * size
        same = {k: take(v, last) for k, v in batch.items() if has_batch_axis(v) and len(v) == size}
        run = run_components(self.components, lambda _: batch, size, train=False, fake=False)
        other = run_components(self.components, lambda _: batch | same, size, train=False, fake=False)
        for name, step in run.steps.items():
            values = {**step.writes, "its loss": step.result}
            dense = {key: value for key, value in values.items() if is_dense(value)}
            bad = [key for key, value in dense.items() if not value.isfinite().all()]
            if bad:
                self.add(f"{name} gives values that are not finite: {_some(bad)}. Check its initialisation.")
            if step.error is not None and not any(problem.startswith(name) for problem in self.problems):
                self._failed(name, step, run, "possible")
            if step.error is None:
                self.notes = [note for note in self.notes if not note.startswith(f"{name} was not checked")]
            pairs = {key: (value, other.steps[name].writes.get(key)) for key, value in step.writes.items()}
            mixed = [key for key, pair in pairs.items() if not bad and _differ_in_last_sample(*pair)]
            if mixed:  # what later components read is mixed already
                fix = "Keep samples apart: which axis do softmax, mean or norm run over?"
                self.add(f"{name}: a sample's {_some(mixed)} depend on the other samples. {fix}")
                break


def declared_keys(component: Any, attribute: str) -> Sequence[str]:
    """The keys in `reads` or `writes`; none if they are not declared."""
    return tuple(map(plain, getattr(component, attribute, None) or ()))


def _head(key: str) -> str | None:
    return key.rpartition(".")[2] if f"{key}.".startswith(HEADS) else None


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:4])) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _differ_in_last_sample(one: Any, other: Any) -> bool:
    if not all(is_dense(value) and value.ndim and len(value) for value in (one, other)):
        return False
    dtype = torch.complex128 if one.is_complex() else torch.float64
    last, other_last = one[-1].to(dtype), other[-1].to(dtype)
    return last.shape == other_last.shape and not torch.allclose(last, other_last, rtol=1e-2, atol=1e-4)


def _run_on_zeros(
    name: str, component: Any, run: Run, given: Mapping[str, Any], device: torch.device | str | None = None
) -> Step:
    """Run a component on zeros in place of fake tensors, and on what is given."""
    zeros = {  # of one number each in memory
        k: torch.zeros((), dtype=v.dtype, device=device or v.device).expand(v.shape)
        for k, v in run.batch.items()
        if is_dense(v)
    }
    batch = run.batch | zeros | given
    return run_components({name: component}, lambda _: batch, run.size, train=False, fake=False).steps[name]
