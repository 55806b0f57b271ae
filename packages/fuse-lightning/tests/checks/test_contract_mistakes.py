"""Mistakes made by rule in programs of the walkthrough, the READMEs and the pages: what does the contract find?

All are made if FUSE_DEEP_TESTS is 1, as `nox -t matrix` sets it; else every sixteenth. `pytest -s` prints the table.
"""

import ast
import copy
import os
import re
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.classification import BinaryAUROC, MulticlassAccuracy

from fuse_core import ContractError, NDict, check_contract
from fuse_lightning import MetricDefault
from fuse_lightning.walkthrough.template import classification, segmentation
from fuse_losses import LossDefault
from fuse_models import Head1D, ModelMultiHead

EVERY = 1 if os.environ.get("FUSE_DEEP_TESTS") == "1" else 16
ROOT = Path(__file__).parents[4]

# ----------------------------------------------------------------------------------------------- programs without fault


def example(text):
    """The names of the first example of the READMEs and pages with this text; loops and assertions are left out."""
    for path in [*ROOT.glob("packages/*/README.md"), *sorted(ROOT.glob("docs/how-to/*.md"))]:
        for code in re.findall(r"^```python\n(.+?)^```", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
            if text in code:
                return run_example(code, str(path))
    return pytest.skip("the pages with examples are only in the repository")


def run_example(code, path):
    names = {"__name__": "example"}
    for statement in ast.parse(code).body:
        if not isinstance(statement, ast.For | ast.Assert | ast.With | ast.Try | ast.Expr):
            with suppress(NameError):  # made in a loop
                exec(compile(ast.Module([statement], []), path, "exec"), names)
    return SimpleNamespace(**names)


def cross_entropy(pred, target):
    return LossDefault(pred=pred, target=target, callable=F.cross_entropy)


def images(channels, *size, count=4):
    return torch.randn(count, channels, *size)


def walkthrough(task, targets):
    splits = SimpleNamespace(train=SimpleNamespace(images=np.zeros((4, 1, 16, 24), "float32")))
    components = {"model": task.make_model(splits), **task.make_losses()}
    components |= {f"{name} metric": metric for name, metric in task.make_metrics().items()}
    return components, {task.IMAGE_KEY: images(1, 16, 24), task.TARGET_KEY: targets}


def digits():
    return walkthrough(classification, torch.tensor([0, 9, 3, 1]))


def segmented_digits():
    return walkthrough(segmentation, torch.arange(4 * 16 * 24).reshape(4, 16, 24) % 11)


def example_of_core():
    program = example("class Net(nn.Module)")
    components = program.components
    components["net"].cls = nn.Linear(8, 10)
    labels = {"data.label": torch.tensor([0, 9, 3, 1]), "data.age": torch.randn(4, 1)}
    return components, {"data.image": images(1, 16, 20)} | labels


def example_of_losses():
    program = example("canvas = torch.zeros")
    model = example("network = torch.nn.Sequential(torch.nn.Flatten()").ModelWrapSeqToDict(
        model=program.network, model_inputs=["data.image"], model_outputs=["model.logits"]
    )
    spec = {"data.image": images(1, 16, 24), "data.segmentation": torch.arange(4 * 16 * 24).reshape(4, 16, 24) % 2}
    return {"network": model, "compound": program.loss}, spec


def example_of_models():
    program = example("BackboneResnet3D(")
    risk = LossDefault(pred="model.output.risk", target="data.risk", callable=F.mse_loss)
    accuracy = MetricDefault(pred="model.output.lesion", target="data.label", metric=MulticlassAccuracy(num_classes=2))
    lesion = cross_entropy("model.logits.lesion", "data.label")
    components = {"model": program.model, "lesion": lesion, "risk": risk, "accuracy": accuracy}
    labels = {"data.label": torch.tensor([0, 1, 1, 0]), "data.risk": torch.randn(4, 1)}
    return components, {"data.image": images(1, 32, 34, 36), "data.clinical": torch.randn(4, 3)} | labels


def example_of_pairs():
    program = example("siamese = ModelSiamese")
    spec = {"data.before": images(1, 32, 40), "data.after": images(1, 32, 40), "data.label": torch.tensor([0, 1, 1, 0])}
    return {"siamese": program.siamese, "ce": cross_entropy("model.logits.change", "data.label")}, spec


def example_of_lightning():
    module = example("module = LightningModuleDefault").module
    spec = {"data.features": torch.randn(4, 5), "data.label": torch.tensor([0, 1, 1, 0])}
    return {"model": module.model, **dict(module.losses.named_children())}, spec


class MaskedError(nn.Module):
    """A loss of the samples that have a label."""

    reads = ("model.output.age", "data.age", "data.has_age")

    def forward(self, batch_dict):
        pred, target, mask = (batch_dict[key] for key in self.reads)
        return ((pred - target).square() * mask).sum() / mask.sum().clamp(min=1)


def several_tasks():
    features = [("model.backbone_features", 16)]
    heads = [
        Head1D("cls", "classification", features, num_outputs=5, layers_description=(8,)),
        Head1D("age", "regression", features, num_outputs=1, layers_description=()),
        Head1D("old", "classification", features, num_outputs=1, layers_description=()),
    ]
    backbone = nn.Sequential(nn.Linear(12, 16), nn.LayerNorm(16), nn.GELU())
    components = {
        "model": ModelMultiHead(backbone, heads, conv_inputs=[("data.table", 12)]),
        "cls": cross_entropy("model.logits.cls", "data.label"),
        "age": MaskedError(),
        "old": LossDefault(
            pred="model.logits.old", target="data.old", callable=nn.BCEWithLogitsLoss(pos_weight=torch.ones(1))
        ),
        "auc": MetricDefault(pred="model.output.old", target="data.old", metric=BinaryAUROC()),
    }
    ones = torch.ones(4, 1)
    labels = {"data.label": torch.tensor([0, 4, 3, 1]), "data.age": ones, "data.has_age": ones, "data.old": ones}
    return components, {"data.table": torch.randn(4, 12)} | labels


# Each is a function that returns components and a real batch whose labels hold the highest class.
PROGRAMS = (
    digits,
    segmented_digits,
    example_of_core,
    example_of_losses,
    example_of_models,
    example_of_pairs,
    example_of_lightning,
    several_tasks,
)

# ---------------------------------------------------------------------------------------------------- rules of mistakes


@dataclass
class Mistake:
    """What is wrong in which component, and a function of components and batch that makes it."""

    kind: str
    component: str
    what: str
    make: Callable


def parts(component):
    return dict(component.named_modules()) if isinstance(component, nn.Module) else {"": component}


def in_part(name, path, change, *arguments):
    return lambda components, _: change(parts(components[name])[path], *arguments)


def spoil(component, change):
    """Make a component pass its input, and itself as a function, through `change`."""
    kind = type(component)
    method = "forward" if isinstance(component, nn.Module) else "__call__"

    def call(self, one, *others):
        return change(one, lambda value: getattr(kind, method)(self, value, *others))

    component.__class__ = type(kind.__name__, (kind,), {method: call})


def spoil_output(component, key, change):
    def of_batch(batch_dict, run):
        result = run(batch_dict)
        written = result if isinstance(result, dict) else batch_dict
        value = written[key]
        written[key] = [change(value[0]), *value[1:]] if isinstance(value, list) else change(value)
        return result

    spoil(component, of_batch)


def change_input(component, key):
    def of_batch(batch_dict, run):
        batch_dict[key].mul_(2)
        return run(batch_dict)

    spoil(component, of_batch)


def resize(layer, axis, change):
    for tensors in (layer._parameters, layer._buffers):
        for name, one in tensors.items():
            if one is not None and one.ndim > axis:
                new = one.new_zeros([change(size) if i == axis else size for i, size in enumerate(one.shape)])
                tensors[name] = nn.Parameter(new) if isinstance(one, nn.Parameter) else new


def holds(value, key):
    if isinstance(value, list | tuple):
        return any(holds(one, key) for one in value)
    if type(value) is dict:
        return any(holds(one, key) for one in (*value, *value.values()))
    return isinstance(value, str) and value == key


def renamed(value, old, new):
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(renamed(one, old, new) for one in value))
    if isinstance(value, list | tuple):
        return type(value)(renamed(one, old, new) for one in value)
    if type(value) is dict:
        return {renamed(name, old, new): renamed(one, old, new) for name, one in value.items()}
    return new if isinstance(value, str) and value == old else value


def rename(part, key, change):
    for attribute, value in list(vars(part).items()):
        if not attribute.startswith(("_modules", "_parameters", "_buffers")) and holds(value, key):
            setattr(part, attribute, renamed(value, key, change(key)))


def one_less(size):
    return size - 1 if size > 1 else size + 1


def twice(size):
    return 2 * size


def one_more(size):
    return size + 1


KEYS = {
    "a letter lost": lambda key: key[:-1],
    "two letters swapped": lambda key: key[:-2] + key[-1] + key[-2],
    "another branch": lambda key: ("data" if key.startswith("model") else "model") + key[key.index(".") :],
}
OUTPUTS = {
    "detached": torch.Tensor.detach,
    "mean over the batch": lambda value: value.mean(0),
    "first sample only": lambda value: value[:1],
    "one more axis": lambda value: value.unsqueeze(1),
    "batch and channels swapped": lambda value: value.transpose(0, 1),
    "batch in the channels": lambda value: value.reshape(1, -1, *value.shape[2:]),
}
LOSS_VALUES = {
    "detached": torch.Tensor.detach,
    "not reduced": lambda loss: loss.expand(3),
    "a constant": torch.zeros_like,
}
TYPES = {True: (torch.uint8, torch.float64, torch.int64), False: (torch.float32, torch.int32, torch.bool)}


def mistakes(components, batch):
    metrics = {name for name, one in components.items() if isinstance(one, MetricDefault)}
    models = {name for name, one in components.items() if getattr(one, "writes", None)}
    losses = {name: one for name, one in components.items() if name not in metrics | models}
    everything = [part for component in components.values() for part in parts(component).values()]
    keys = dict.fromkeys(key for part in everything for key in getattr(part, "reads", ()))
    read = {key for name, component in components.items() if name not in metrics for key in component.reads}
    for name, component in components.items():
        for path, part in parts(component).items():
            for key in keys:
                if any(holds(value, key) for value in vars(part).values()):
                    for rule, change in KEYS.items():
                        yield Mistake("key", name, f"{path} {key}: {rule}", in_part(name, path, rename, key, change))
            if name in models:
                yield from mistakes_in_layer(name, path, part)
            elif isinstance(part, Metric) and getattr(part, "num_classes", None):
                for change in (one_less, one_more) if part.num_classes > 2 else (one_more,):
                    number = change(part.num_classes)
                    make = in_part(name, path, setattr, "num_classes", number)
                    yield Mistake("number", name, f"{number} classes", make)
            for weights, one in getattr(part, "_buffers", {}).items() if name in losses else ():
                if one is not None and one.ndim == 1:
                    yield Mistake("number", name, f"{weights}, one more", in_part(name, path, resize, 0, one_more))
        if name in models:
            for key in component.writes:
                for rule, change in OUTPUTS.items() if key in read else ():
                    make = in_part(name, "", spoil_output, key, change)
                    yield Mistake("output", name, f"{key}: {rule}", make)
            for key in component.reads:
                yield Mistake("in place", name, key, in_part(name, "", change_input, key))
            yield Mistake(
                "overwrite", name, "a second time", lambda all_, _, name=name: copy_before(all_, name, losses)
            )
    for name in losses:
        if len(losses) > 1 or not metrics:  # a metric reads the predictions as well
            yield Mistake("drop", name, "a loss", lambda all_, _, name=name: all_.pop(name))
        yield Mistake("order", name, "first", lambda all_, _, name=name: move_to_the_end(all_, set(all_) - {name}))
        for rule, change in LOSS_VALUES.items():
            make = in_part(name, "", spoil, lambda batch_dict, run, change=change: change(run(batch_dict)))
            yield Mistake("loss value", name, rule, make)
    targets = {key for loss in losses.values() for key in loss.reads if key in batch}
    for key, value in batch.items():
        yield from mistakes_in_batch(key, value, range(1, value.ndim) if key in targets else range(1, 2))


def mistakes_in_layer(name, path, layer):
    weight = getattr(layer, "_parameters", {}).get("weight")
    if weight is not None:
        for axis, side in enumerate(("outputs", "inputs")[: weight.ndim]):
            for change in (one_less, twice) if side == "inputs" else (one_less,):
                make = in_part(name, path, resize, axis, change)
                yield Mistake("number", name, f"{path}: {side}, {change.__name__}", make)
        make = in_part(name, path, spoil, lambda value, run: run(value).detach())
        yield Mistake("detach", name, path, make)
    if path and "." not in path and any(True for _ in layer.parameters()):
        yield Mistake("freeze", name, path, in_part(name, path, nn.Module.requires_grad_, False))


def mistakes_in_batch(key, value, axes):
    changes = {("type", f"as {dtype}"): lambda one, d=dtype: one.to(d) for dtype in TYPES[value.is_floating_point()]}
    changes["shape", "with one more axis"] = lambda one: one.unsqueeze(1)
    if value.ndim > 1:
        changes |= {
            ("shape", f"axis {axis} twice"): lambda one, axis=axis: torch.cat([one, one], axis) for axis in axes
        }
        changes["shape", "without its last axis"] = lambda one: one[..., 0]
        changes["permute", "with its channels last"] = lambda one: one.movedim(1, -1)
    for (kind, what), change in changes.items():
        yield Mistake(kind, "batch", f"{key} {what}", lambda _, batch, c=change: batch.update({key: c(batch[key])}))


def copy_before(components, name, losses):
    components["again"] = copy.deepcopy(components[name])
    move_to_the_end(components, losses)


def move_to_the_end(components, names):
    for name in [one for one in components if one in names]:
        components[name] = components.pop(name)


# ----------------------------------------------------------------------------------------------------------- judgement


def made(program, mistake):
    components, batch = map(dict, copy.deepcopy(program))
    mistake.make(components, batch)
    return components, batch


def is_found(program, mistake):
    """Whether the contract finds a mistake, and whether it names the component or, for a batch, its reader."""
    try:
        check_contract(*made(program, mistake))
    except ContractError as error:
        is_named = any(repr(mistake.component) in problem for problem in error.problems)
        # A loss that was dropped cannot be named, and a mistake in the batch shows in what reads it.
        return True, is_named or mistake.kind == "drop" or mistake.component == "batch"
    return False, False


def loss_value(components, batch):
    torch.manual_seed(0)
    batch, total = NDict(batch), 0
    for component in copy.deepcopy(components).values():
        if not isinstance(component, MetricDefault):
            result = component(batch)
            if isinstance(result, torch.Tensor):
                total = total + result
            else:
                batch.update(result or {})
    total.backward()
    return total.detach().double()


def changes_nothing(program, mistake):
    """Whether a changed batch trains to the same loss, as class indices of any type do with the losses of fuse_losses.

    A value of another type is compared with the same value in the right type.
    """
    components, batch = made(program, mistake)
    right = {key: batch[key].to(value.dtype) if mistake.kind == "type" else value for key, value in program[1].items()}
    try:
        return bool(torch.isclose(loss_value(components, batch), loss_value(components, right), rtol=1e-4))
    except (RuntimeError, ValueError, IndexError, TypeError):
        return False


# What only elementwise operations would have to refuse, and they allow it for every mask of one channel.
NOT_FOUND = {
    ("example_of_core", "age: outputs, one_less"),
    ("several_tasks", "heads.1.classifier.0: outputs, one_less"),
    ("several_tasks", "pos_weight, one more"),
    ("several_tasks", "data.age axis 1 twice"),
}
if torch.__version__.startswith("2.6."):  # it refuses these on real tensors only
    NOT_FOUND |= {("several_tasks", f"data.old as torch.{dtype}") for dtype in ("int64", "uint8")}
    NOT_FOUND |= {("example_of_models", f"data.risk as torch.{dtype}") for dtype in ("float64", "int64", "uint8")}


@pytest.mark.parametrize("make_program", PROGRAMS)
def test_programs_without_a_mistake_raise_no_alarm_within_five_seconds(make_program):
    program = make_program()
    start = time.process_time()
    notes = check_contract(*program).notes
    assert time.process_time() - start < 5
    assert all("nothing reads" in note for note in notes)


@pytest.mark.timeout(900)
def test_mistakes_made_by_rule_are_found_and_name_the_component():
    total, found, named, missed = Counter(), Counter(), Counter(), set()
    for make_program in PROGRAMS:
        program = make_program()
        for mistake in [*mistakes(*program)][::EVERY]:
            is_there, is_named = is_found(program, mistake)
            if not is_there and mistake.component == "batch" and changes_nothing(program, mistake):
                continue
            total[mistake.kind] += 1
            found[mistake.kind] += is_there
            named[mistake.kind] += is_named
            if not is_there:
                missed.add((make_program.__name__, mistake.what))
    rows = [f"{kind:12}{total[kind]:6}{found[kind]:6}{named[kind]:6}" for kind in total]
    print("kind         made found named", *rows, f"not found: {sorted(missed)}", sep="\n")
    assert total.total() >= 700 / EVERY
    assert missed <= NOT_FOUND
    share = 0.98 if torch.__version__.startswith("2.6.") else 0.99
    assert EVERY > 1 or found.total() >= share * total.total()
    assert named.total() >= 0.95 * total.total()
