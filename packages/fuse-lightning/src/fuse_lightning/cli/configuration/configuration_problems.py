"""What is wrong in a configuration, each mistake with its place and the nearest valid name.

The parser tells one mistake at a time, and passes over some, such as a misspelt key that holds nothing. So the
configuration is read here too; values are left to the parser to judge.
"""

import argparse
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pytorch_lightning as pl
import yaml
from jsonargparse import ArgumentParser, Namespace
from torch import Tensor, nn, optim
from torch.utils.data import Dataset

from fuse_core import did_you_mean
from fuse_lightning.lightning_module_default import LightningModuleDefault
from fuse_lightning.metrics.metric_collected import CollectingMetric, Metric

from .classes import Arguments, classes_in, find_class, makes_one_of, nearest, shortened
from .document import CLASS_KEYS, NULL, STRING, Problem, entries, is_option, is_text, place, read_arguments

TYPES = {"model": pl.LightningModule, "data": pl.LightningDataModule}
USUAL = {"model": "fuse_lightning.LightningModuleDefault", "data": "fuse_lightning.DataModuleDefault"}
# A text where one of these belongs is a class by its path or name; elsewhere it is a value, such as a duration.
MADE = (nn.Module, Tensor, optim.Optimizer, optim.lr_scheduler.LRScheduler, Dataset, pl.Callback, pl.loggers.Logger)
OWN = {nn.Module, Metric, CollectingMetric}  # nothing else belongs where one of these does


class Part(NamedTuple):
    """What an argument of LightningModuleDefault takes, and what is often given without the wrapper that it needs."""

    annotation: Any  # takes the place of Any in the argument's annotation
    unwrapped: str  # a pattern of the modules whose objects need the wrapper
    unwrapped_takes: str
    wrapped: str


LOSS = Part(
    annotation=nn.Module,
    unwrapped=r"torch\.nn\.(modules\.loss|functional)",
    unwrapped_takes="tensors, not a batch_dict",
    wrapped="{class_path: fuse_losses.LossDefault, init_args: {pred: <key>, target: <key>, callable: <this>}}",
)
METRIC = Part(
    annotation=Metric | CollectingMetric,
    unwrapped="torchmetrics",
    unwrapped_takes="tensors, not a batch_dict",
    wrapped="{class_path: fuse_lightning.MetricDefault, init_args: {pred: <key>, target: <key>, metric: <this>}}",
)
OPTIMIZER = Part(
    annotation=Any,
    unwrapped=r"torch\.optim|fuse_optim",
    unwrapped_takes="parameters",
    wrapped="{class_path: fuse_lightning.ConfigureOptimizers, init_args: {optimizer: <this>}}",
)
PARTS = {
    **dict.fromkeys(("losses", "validation_losses", "test_losses"), LOSS),
    **dict.fromkeys(("train_metrics", "validation_metrics", "test_metrics"), METRIC),
    "optimizers_and_lr_schs": OPTIMIZER,
}


def configuration_problems(
    parser: ArgumentParser, arguments: list[str], refusal: argparse.ArgumentError | None, config: Namespace | None
) -> list[str]:
    """A line for each mistake in a command's arguments: `refusal` is what the parser raised, `config` what it gave."""
    try:
        root, problems = read_arguments(arguments)
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        return [f"a configuration file cannot be read: {error}"]
    # The parser takes a class with a mistake for a mapping where it can; else a Namespace holds the class.
    check = _Check(judge_values=refusal is not None or "'class_path': " in repr(config))
    keys = {key.partition(".")[0] for key in parser.get_defaults(skip_validation=True).keys()}  # noqa: SIM118
    lines: dict[Any, str] = {}
    for node, key, problem in (*problems, *check.root(root, keys)):
        written = node.start_mark.name, node.start_mark.index  # what an anchor names is met more than once
        lines.setdefault((*written, problem), f"{place(node, key)}: {problem}")
    if not lines and refusal is not None:
        return [shortened(str(refusal))]
    if "model" not in entries(root):
        return [*lines.values(), f"model: {_needs_class_path('model')}"]
    return list(lines.values())


def _needs_class_path(key: str) -> str:
    return f"it needs class_path, such as {USUAL[key]}, and its init_args."


class _Check:
    """Finds the mistakes in a tree of nodes; each method in the part of the tree that it is called after."""

    def __init__(self, judge_values: bool) -> None:
        self.judge_values = judge_values

    def root(self, node: Any, keys: set[str]) -> Iterator[Problem]:
        for key, (key_node, value) in entries(node).items():
            if key == "trainer":
                yield from self._arguments(value, key, Arguments(pl.Trainer), None, {})
            elif key not in keys:
                yield key_node, key, f"there is no such key.{nearest(key, keys)}"
            elif key in TYPES and (is_text(value) or "class_path" in entries(value)):
                yield from self._class(value, key, TYPES[key])
            elif key == "model" or (key == "data" and value.tag != NULL):  # a module may have loaders of its own
                yield value, key, _needs_class_path(key)

    def _value(
        self, node: Any, key: str, annotation: Any, part: Part | None = None, refused: bool = False
    ) -> Iterator[Problem]:
        inner, bases = entries(node), classes_in(annotation) - {type(None)}
        named = refused and node.tag == STRING and any(issubclass(base, MADE) for base in bases)
        near = [name for name in inner if name not in CLASS_KEYS and did_you_mean(name, ["class_path"])]
        if "class_path" in inner or (is_text(node) and bases and (named or bases <= OWN) and ".yaml" not in node.value):
            yield from self._class(node, key, annotation, part)
        elif near and "init_args" in inner:
            yield inner[near[0]][0], f"{key}.{near[0]}", "there is no such key. Did you mean 'class_path'?"
        else:
            for name, (_, value) in inner.items():
                yield from self._value(value, f"{key}.{name}", annotation, part, refused)

    def _class(self, node: Any, key: str, annotation: Any, part: Part | None = None) -> Iterator[Problem]:
        keys = entries(node)
        _, path_node = keys.get("class_path", (None, node))
        path, bases = str(path_node.value), classes_in(annotation)
        names = " or ".join(sorted(base.__name__ for base in bases if base.__module__ != "builtins")) or "a class"
        try:
            made = find_class(path, bases)
        except LookupError as error:
            problem = f"{path!r}: {error}" if path_node.tag == STRING else f"it takes {names}, got {path or 'nothing'}."
            yield path_node, f"{key}.class_path" if keys else key, problem
            return
        if part and re.match(part.unwrapped, made.__module__):
            own = f"{{class_path: {path}}}" if isinstance(made, type) else path
            yield path_node, key, f"{path} takes {part.unwrapped_takes}. Wrap it: {part.wrapped.replace('<this>', own)}"
            return
        if not makes_one_of(made, bases):
            no_class = f"{path} is no class, and no function whose return type is annotated as one."
            is_not = f", which {path} is not." if isinstance(made, type) else f". {no_class}"
            yield path_node, key, f"it takes {names}{is_not}"
            return
        arguments = Arguments(made)
        for name in [name for name in keys if name not in CLASS_KEYS]:
            near = did_you_mean(name, CLASS_KEYS) or f" An argument of {path} goes under init_args."
            yield keys[name][0], f"{key}.{name}", f"there is no such key.{near}"
        given = keys.get("init_args", (None, None))[1]
        parts_of_default = PARTS if key == "model" and makes_one_of(made, {LightningModuleDefault}) else {}
        yield from self._arguments(given, f"{key}.init_args", arguments, path_node, parts_of_default)
        there = entries(given).keys() | ({"model_dir"} if key == "model" else set())  # which comes from the run folder
        missing = [name for name in arguments.required if name not in there]
        if self.judge_values and missing and there <= {*arguments.names} and "dict_kwargs" not in keys:
            yield path_node, key, f"{path} needs {', '.join(missing)} in init_args."

    def _arguments(
        self, node: Any, key: str, arguments: Arguments, path_node: Any, parts: Mapping[str, Part]
    ) -> Iterator[Problem]:
        for name, (key_node, value) in entries(node).items():
            own_key, annotation, part = f"{key}.{name}", arguments.types.get(name), parts.get(name)
            if name in arguments.names:
                if part and object in classes_in(annotation):
                    annotation = part.annotation
                problems = list(self._value(value, own_key, annotation, part))
                refusal = arguments.refusal(key_node, value) if self.judge_values and not problems else None
                if refusal:
                    problems = [*self._value(value, own_key, annotation, part, refused=True)]
                    problems = problems or [(value, own_key, refusal)]
                yield from problems
            # Where a later file names another class, the parser drops the arguments that this class does not have.
            elif path_node is None or is_option(key_node) or key_node.start_mark.name == path_node.start_mark.name:
                unknown = f"{path_node.value} has no argument {name!r}." if path_node else "there is no such key."
                yield key_node, own_key, unknown + nearest(name, arguments.names)
