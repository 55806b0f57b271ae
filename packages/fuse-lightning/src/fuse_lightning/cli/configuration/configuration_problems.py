"""What is wrong in a configuration, each mistake with its place and the nearest valid name.

The parser tells one mistake at a time, and passes over some, such as a misspelt key that holds nothing. So the
configuration is read here too; values are left to the parser to judge.
"""

import argparse
import re
from collections.abc import Iterable
from typing import Any

import pytorch_lightning as pl
import yaml
from jsonargparse import ArgumentParser, Namespace
from torch import Tensor, nn, optim
from torch.utils.data import Dataset

from fuse_core import did_you_mean
from fuse_lightning.lightning_module_default import LightningModuleDefault
from fuse_lightning.metrics.metric_collected import CollectingMetric, Metric

from .arguments import Arguments, classes_in, makes_one_of, shortened
from .class_paths import find_class
from .document import CLASS_KEYS, NULL, STRING, Document, entries, is_option, is_text, place

TYPES = {"model": pl.LightningModule, "data": pl.LightningDataModule}
RETURN_TYPE = "and no function whose return type is annotated as one."
LOSSES = ("model.init_args.losses.", "model.init_args.validation_losses.", "model.init_args.test_losses.")
METRICS = tuple(f"model.init_args.{mode}_metrics" for mode in ("train", "validation", "test"))
OPTIMIZERS = "model.init_args.optimizers_and_lr_schs"
WRAP = "{0} takes {1}. Wrap it: {{class_path: {2}, init_args: {{{3}: {4}}}}}"
TENSORS, KEYS = "tensors, not a batch_dict", "pred: <key>, target: <key>, "
WRAPPERS: tuple[tuple[tuple[str, ...], int, str, tuple[str, str, str]], ...] = (  # places, their depth, modules
    (LOSSES, 3, r"torch\.nn\.(modules\.loss|functional)", (TENSORS, "fuse_losses.LossDefault", f"{KEYS}callable")),
    (METRICS, 3, "torchmetrics", (TENSORS, "fuse_lightning.MetricDefault", f"{KEYS}metric")),
    ((OPTIMIZERS,), 2, r"torch\.optim|fuse_optim", ("parameters", "fuse_lightning.ConfigureOptimizers", "optimizer")),
)
OWN = {nn.Module, Metric, CollectingMetric}
# A text where one of these belongs is a class by its path or name; elsewhere it is a value, such as a duration.
MADE = (nn.Module, Tensor, optim.Optimizer, optim.lr_scheduler.LRScheduler, Dataset, pl.Callback, pl.loggers.Logger)
USUAL = {"model": "fuse_lightning.LightningModuleDefault", "data": "fuse_lightning.DataModuleDefault"}


def configuration_problems(
    parser: ArgumentParser, arguments: list[str], refusal: argparse.ArgumentError | None, config: Namespace | None
) -> list[str]:
    """A line for each mistake in a command's arguments: `refusal` is what the parser raised, `config` what it gave."""
    try:
        document = Document(arguments)
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        return [f"a configuration file cannot be read: {error}"]
    keys = {key.partition(".")[0] for key in parser.get_defaults(skip_validation=True).keys()}  # noqa: SIM118
    # The parser takes a class with a mistake for a mapping where it can; else a Namespace holds the class.
    check = _Check(judge_values=refusal is not None or "'class_path': " in repr(config))
    problems = document.problems + check.problems_in(document.root, keys)
    return problems or ([] if refusal is None else [shortened(str(refusal))])


class _Check:
    def __init__(self, judge_values: bool) -> None:
        self.judge_values = judge_values
        self.of_default = False  # whether the model is a LightningModuleDefault: LOSSES, METRICS and OPTIMIZERS are its
        self.found: dict[tuple[Any, ...], str] = {}  # by place: what an anchor names is met more than once
        self.met = 0  # mistakes, those found before included

    def problems_in(self, root: Any, keys: set[str]) -> list[str]:
        for key, (key_node, value) in entries(root).items():
            if key == "trainer":
                self._arguments(value, key, Arguments(pl.Trainer), "there is no such key.")
            elif key not in keys:
                self._add(key_node, key, f"there is no such key.{_nearest(key, keys)}")
            elif key in TYPES and (is_text(value) or "class_path" in entries(value)):
                self._class(value, key, TYPES[key])
            elif key == "model" or (key == "data" and value.tag != NULL):  # a module may have loaders of its own
                self._add(value, key, f"it needs class_path, such as {USUAL[key]}, and its init_args.")
        return list(self.found.values())

    def _add(self, node: Any, key: str, problem: str) -> None:
        self.met += 1
        self.found.setdefault((node.start_mark.name, node.start_mark.index, problem), f"{place(node, key)}: {problem}")

    def _bases(self, key: str, annotation: Any) -> set[type]:
        """The classes that a place takes. The types of losses and metrics by loader are too wide to say it."""
        bases, is_inner = classes_in(annotation), ".init_args." in key.removeprefix("model.init_args.")
        if annotation is None or object not in bases or is_inner or not self.of_default:
            return bases
        return {nn.Module} if key.startswith(LOSSES) else OWN - {nn.Module} if key.startswith(METRICS) else bases

    def _value(self, node: Any, key: str, annotation: Any, refused: bool = False) -> None:
        parts, bases = entries(node), self._bases(key, annotation) - {type(None)}
        named = refused and node.tag == STRING and any(issubclass(base, MADE) for base in bases)
        near = [name for name in parts if name not in CLASS_KEYS and did_you_mean(name, ["class_path"])]
        if "class_path" in parts or (is_text(node) and bases and (named or bases <= OWN) and ".yaml" not in node.value):
            self._class(node, key, annotation)
        elif near and "init_args" in parts:
            self._add(parts[near[0]][0], f"{key}.{near[0]}", "there is no such key. Did you mean 'class_path'?")
        else:
            for name, (_, value) in parts.items():
                self._value(value, f"{key}.{name}", annotation, refused)

    def _class(self, node: Any, key: str, annotation: Any) -> None:
        parts = entries(node)
        _, path_node = parts.get("class_path", (None, node))
        path, bases = str(path_node.value), self._bases(key, annotation)
        names = " or ".join(sorted(base.__name__ for base in bases if base.__module__ != "builtins")) or "a class"
        try:
            made = find_class(path, bases)
        except LookupError as error:
            problem = f"{path!r}: {error}" if path_node.tag == STRING else f"it takes {names}, got {path or 'nothing'}."
            self._add(path_node, f"{key}.class_path" if parts else key, problem)
            return
        if key == "model":
            self.of_default = makes_one_of(made, {LightningModuleDefault})
        for places, depth, modules, told in WRAPPERS if self.of_default else ():
            if key.startswith(places) and key.count(".") == depth and re.match(modules, made.__module__):
                own = f"{{class_path: {path}}}" if isinstance(made, type) else path
                self._add(path_node, key, WRAP.format(path, *told, own))
                return
        if not makes_one_of(made, bases):
            is_not = f", which {path} is not." if isinstance(made, type) else f". {path} is no class, {RETURN_TYPE}"
            self._add(path_node, key, f"it takes {names}{is_not}")
            return
        arguments = Arguments(made)
        for name in [name for name in parts if name not in CLASS_KEYS]:
            near = did_you_mean(name, CLASS_KEYS) or f" An argument of {path} goes under init_args."
            self._add(parts[name][0], f"{key}.{name}", f"there is no such key.{near}")
        given = parts.get("init_args", (None, None))[1]
        self._arguments(given, f"{key}.init_args", arguments, f"{path} has no argument {{!r}}.", path_node)
        there = entries(given).keys() | ({"model_dir"} if key == "model" else set())  # which comes from the run folder
        missing = [name for name in arguments.required if name not in there]
        if self.judge_values and missing and there <= {*arguments.names} and "dict_kwargs" not in parts:
            self._add(path_node, key, f"{path} needs {', '.join(missing)} in init_args.")

    def _arguments(self, node: Any, key: str, arguments: Arguments, unknown: str, path_node: Any = None) -> None:
        for name, (key_node, value) in entries(node).items():
            own_key, annotation, met = f"{key}.{name}", arguments.types.get(name), self.met
            if name in arguments.names:
                self._value(value, own_key, annotation)
                refusal = arguments.refusal(key_node, value) if self.judge_values and met == self.met else None
                if refusal:
                    self._value(value, own_key, annotation, refused=True)
                if refusal and met == self.met:
                    self._add(value, own_key, refusal)
            # Where a later file names another class, the parser drops the arguments that this class does not have.
            elif path_node is None or is_option(key_node) or key_node.start_mark.name == path_node.start_mark.name:
                self._add(key_node, own_key, unknown.format(name) + _nearest(name, arguments.names))


def _nearest(name: str, known: Iterable[str]) -> str:
    return did_you_mean(name, known) or f" There are: {', '.join(known) or 'none'}."
