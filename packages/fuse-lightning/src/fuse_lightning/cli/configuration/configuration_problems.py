"""What is wrong in a configuration, each mistake with its place and the nearest valid name.

The parser tells one mistake at a time and passes over some. So the file is read here too; the parser judges values.
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytorch_lightning as pl
import yaml
from jsonargparse import ArgumentParser
from torch import Tensor, nn, optim
from torch.utils.data import Dataset

from fuse_core import did_you_mean
from fuse_lightning.lightning_module_default import LightningModuleDefault
from fuse_lightning.metrics.metric_collected import CollectingMetric, Metric

from .classes import Arguments, classes_in, find_class, nearest, shortened
from .yaml_with_lines import CLASS_KEYS, NULL, STRING, Problem, entries, is_option, is_text, read_arguments

TYPES = {"model": pl.LightningModule, "data": pl.LightningDataModule}
# A text where one of these belongs is a class by its path or name; elsewhere it is a value, such as a duration.
MADE = (nn.Module, Tensor, optim.Optimizer, optim.lr_scheduler.LRScheduler, Dataset, pl.Callback, pl.loggers.Logger)
OWN = {nn.Module, Metric, CollectingMetric}  # nothing else belongs where one of these does
PARTS = {  # what arguments of LightningModuleDefault take that are annotated with Any
    **dict.fromkeys(("validation_losses", "test_losses"), nn.Module),
    **dict.fromkeys(("train_metrics", "validation_metrics", "test_metrics"), Metric | CollectingMetric),
}


def configuration_problems(parser: ArgumentParser, arguments: list[str], refusal: str, config: Any) -> list[str]:
    """A line for each mistake in a command's arguments: `refusal` is what the parser said, `config` what it gave."""
    try:
        root, problems = read_arguments(arguments)
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        return [f"a configuration file cannot be read: {error}"]
    # The parser takes a class with a mistake, in an option too, for a mapping where it can; else it makes a Namespace.
    check = _Check(judge_values=bool(refusal or re.search(r"'(class_path|\w+(\.\w+)+)': ", repr(config))))
    keys = {key.partition(".")[0] for key in parser.get_defaults(skip_validation=True).keys()}  # noqa: SIM118
    lines: dict[Any, str] = {}
    for node, key, problem in (*problems, *check.root(root, keys, refusal)):
        mark = node.start_mark
        place = mark.name if is_option(node) else f"{mark.name}:{mark.line + 1}: {key.replace('.[', '[')}"
        lines.setdefault((mark.name, mark.index, problem), f"{place}: {problem}")  # an anchor is met more than once
    if "model" not in entries(root):
        lines[None] = "model: give it a class_path, such as fuse_lightning.LightningModuleDefault."
    if refusal and not lines:
        return ["".join(f"{key}: " for key in re.findall(r'Parser key "(.*?)"', refusal)) + shortened(refusal)]
    return list(lines.values())


class _Check(NamedTuple):
    """Finds the mistakes in a tree of nodes; each method in the part of the tree that it is called after."""

    judge_values: bool

    def root(self, node: Any, keys: set[str], refusal: str) -> Iterator[Problem]:
        for key, (key_node, value) in entries(node).items():
            if key == "trainer":
                yield from self._arguments(value, key, Arguments(pl.Trainer), None)
            elif key not in keys:
                yield key_node, key, f"there is no such key.{nearest(key, keys)}"
            elif key == "model" or (key == "data" and value.tag != NULL):  # a module may have loaders of its own
                yield from self._class(value, key, TYPES[key])
            elif refusal.startswith(f'Parser key "{key}"'):
                yield value, key, shortened(refusal)

    def _value(self, node: Any, key: str, annotation: Any, refused: bool) -> Iterator[Problem]:
        inner, bases = entries(node), classes_in(annotation) - {type(None)}
        named = refused and node.tag == STRING and not bases & {str, float} and any(issubclass(b, MADE) for b in bases)
        if "class_path" in inner or (is_text(node) and (named or bases <= OWN) and ".yaml" not in node.value):
            yield from self._class(node, key, annotation)
        elif "init_args" in inner:
            for name in [name for name in inner if did_you_mean(name, ["class_path"])]:
                yield inner[name][0], f"{key}.{name}", "there is no such key. Did you mean 'class_path'?"
        else:
            for name, (_, value) in inner.items():
                yield from self._value(value, f"{key}.{name}", annotation, refused)

    def _class(self, node: Any, key: str, annotation: Any) -> Iterator[Problem]:
        keys, bases = entries(node), classes_in(annotation)
        _, path_node = keys.get("class_path", (None, node))
        path = path_node.value if is_text(path_node) else ""
        try:
            made = find_class(path, bases)
        except LookupError as error:
            names = " or ".join(sorted(base.__name__ for base in bases if base.__module__ != "builtins")) or "a class"
            yield path_node, key, f"it takes {names}, got {path!r}: {error}"
            return
        for name in [name for name in keys if name not in CLASS_KEYS]:
            near = did_you_mean(name, CLASS_KEYS) or f" An argument of {path} goes under init_args."
            yield keys[name][0], f"{key}.{name}", f"there is no such key.{near}"
        arguments, given = Arguments(made), keys.get("init_args", (None, None))[1]
        if arguments.not_in_files and {object, optim.Optimizer} <= bases:
            yield path_node, key, f"{path} goes under fuse_lightning.ConfigureOptimizers, as optimizer or lr_scheduler."
        if key == "model" and isinstance(made, type) and issubclass(made, LightningModuleDefault):
            arguments.types |= {name: PARTS[name] for name in PARTS if object in classes_in(arguments.types.get(name))}
        yield from self._arguments(given, f"{key}.init_args", arguments, path_node)
        there = entries(given).keys() | ({"model_dir"} if key == "model" else set())  # which comes from the run folder
        missing = [name for name in arguments.required if name not in there]
        if self.judge_values and missing and there <= {*arguments.names} and "dict_kwargs" not in keys:
            yield path_node, key, f"{path} needs {', '.join(missing)} in init_args."

    def _arguments(self, node: Any, key: str, arguments: Arguments, path_node: Any) -> Iterator[Problem]:
        for name, (key_node, value) in entries(node).items():
            own_key = f"{key}.{name}"
            if name in arguments.names:
                refusal = arguments.refusal(key_node, value) if self.judge_values else None
                problems = list(self._value(value, own_key, arguments.types.get(name), bool(refusal)))
                yield from problems or ([(value, own_key, refusal)] if refusal else [])
            # Where a later file names another class, the parser drops the arguments that this class does not have.
            elif path_node is None or is_option(key_node) or key_node.start_mark.name == path_node.start_mark.name:
                unknown = f"{path_node.value} has no argument {name!r}." if path_node else "there is no such key."
                yield key_node, own_key, unknown + nearest(name, arguments.names)
