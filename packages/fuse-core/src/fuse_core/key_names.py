"""The names of the batch_dict's keys that more than one component knows."""

from collections.abc import Mapping
from typing import Any

from .nested_key_error import NestedKeyError

SAMPLE_ID = "data.sample_id"
"""The samples' identifiers, a list with one per sample."""

BACKBONE_FEATURES = "model.backbone_features"
"""The feature map or vector that a multi-part model's backbone gives."""

LOSSES = "losses"
"""The branch of the loss values."""

TOTAL_LOSS = "losses.total_loss"
"""The sum of the losses, detached."""

GLOBAL_STEP = "global_step"
"""The number of optimizer steps taken so far, a Python int, put in by the training loop before the forward."""


def logits_key(head: str) -> str:
    """Where a head writes its scores before the activation.

    Example:
        >>> logits_key("cls")
        'model.logits.cls'
    """
    return f"model.logits.{head}"


def output_key(head: str) -> str:
    """Where a head writes its prediction, after the activation."""
    return f"model.output.{head}"


def loss_key(name: str) -> str:
    """Where the value of the loss called `name` is written, detached."""
    return f"{LOSSES}.{name}"


def log_name(mode: str, *parts: str, sep: str = ".") -> str:
    """The name under which a value is logged.

    Example:
        >>> log_name("validation", "losses", "cls"), log_name("validation", "loader_b", "metrics", "auc")
        ('validation.losses.cls', 'validation.loader_b.metrics.auc')
    """
    return sep.join((mode, *parts))


def read_key(batch_dict: Mapping[str, Any], key: str, reader: str) -> Any:
    """`batch_dict[key]`, with an error that says which component wanted it.

    Raises:
        NestedKeyError: the key is not there; names `reader` and the nearest keys.
    """
    try:
        return batch_dict[key]
    except KeyError:
        raise NestedKeyError(key, batch_dict, reader) from None
