"""Which predictions a page compares with which targets."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from torch import nn

from fuse_core import SAMPLE_ID

MEMBER = re.compile(r"_ensemble_\d+$")
NO_PREDICTIONS = (SAMPLE_ID, "sample_id", "loader")  # columns of which sample it is


class Task(NamedTuple):
    """A prediction and its target, by their keys, and a name for both."""

    name: str
    pred: str
    target: str


def compared_keys(module: nn.Module) -> dict[str, str]:
    """The target of each prediction, as the module's losses and metrics compare them."""
    parts = [(getattr(part, "pred", None), getattr(part, "target", None)) for part in module.modules()]
    return {_scores(pred): target for pred, target in parts if isinstance(pred, str) and isinstance(target, str)}


def names_of_classes(module: nn.Module, target: str) -> Sequence[str]:
    """The class names that a metric of the target has; none if no metric has some."""
    named = (part for part in module.modules() if target in (getattr(part, "reads", None) or ()))
    return next((names for part in named if (names := getattr(part, "class_names", None))), ())


def tasks_of(
    keys: Iterable[str],
    compared: Mapping[str, str],
    pred: str | None = None,
    target: str | None = None,
    with_target: Collection[str] = (),
) -> list[Task]:
    """The tasks that predicted keys belong to; several of one name are alternatives, the better one first.

    Args:
        keys: the predicted keys. Those below `data` are targets.
        compared: see `compared_keys`.
        pred: the only prediction to take; None takes all, but not those of an ensemble's members.
        target: the target of all predictions; None takes the compared one, or the only one if nothing is compared.
        with_target: predictions whose columns tell the target too.

    Example:
        >>> tasks_of(["model.output.age", "model.output.sex", "data.age", "data.sex"], {"model.logits.age": "data.age"})
        [Task(name='age', pred='model.output.age', target='data.age')]
    """
    keys = [key for key in keys if key not in NO_PREDICTIONS]
    targets = [key for key in keys if key.startswith("data.")]
    only = targets[0] if len(targets) == 1 and not compared else ""
    tasks = []
    for key in sorted(keys, key=lambda key: ".logits." in key):
        is_taken = key == pred if pred is not None else not (key in targets or MEMBER.search(key))
        if not is_taken or key == target:
            continue
        own = target or compared_target(key, compared) or only
        if own in keys or key in with_target:
            tasks.append(Task(_scores(key), key, own))
    ends = Counter(name.rpartition(".")[2] for name in {task.name for task in tasks})

    def short(name: str) -> str:
        end = name.rpartition(".")[2]
        return end if ends[end] == 1 else name.removeprefix("model.logits.")

    return [task._replace(name=short(task.name)) for task in tasks]


def compared_target(key: str, compared: Mapping[str, str]) -> str:
    """The target that a predicted key is compared with; empty if none is known."""
    return compared.get(_scores(key), "")


def _scores(key: str) -> str:
    """The key of the scores, for the key of the scores or of the prediction after the activation, or an ensemble's."""
    return re.sub(r"_ensemble_\w+$", "", key).replace("model.output.", "model.logits.")
