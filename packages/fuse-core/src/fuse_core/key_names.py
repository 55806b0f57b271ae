"""The names of the keys that components share, which keys are valid, and how keys are read."""

from collections.abc import Mapping
from typing import Any

from .nested_key_error import NestedKeyError

SAMPLE_ID = "data.sample_id"  # the sample identifiers: a list, one per sample
BACKBONE_FEATURES = "model.backbone_features"  # the feature map or vector written by a multi-part model's backbone
LOSSES = "losses"  # the branch of the loss values
TOTAL_LOSS = "losses.total_loss"  # the sum of the losses, detached
GLOBAL_STEP = "global_step"  # the number of optimizer steps so far: a Python int, written before the forward


def logits_key(head: str) -> str:
    """Key of the scores that a head writes before its activation.

    Example:
        >>> logits_key("cls")
        'model.logits.cls'
    """
    return "model.logits." + head


def output_key(head: str) -> str:
    """Key of the prediction that a head writes after its activation.

    Example:
        >>> output_key("cls")
        'model.output.cls'
    """
    return "model.output." + head


def loss_key(name: str) -> str:
    """Key of the detached value of the loss `name`.

    Example:
        >>> loss_key("dice")
        'losses.dice'
    """
    return LOSSES + "." + name


def log_name(mode: str, *parts: str, sep: str = ".") -> str:
    """Name under which a value is logged.

    Example:
        >>> log_name("validation", "losses", "cls"), log_name("validation", "loader_b", "metrics", "auc")
        ('validation.losses.cls', 'validation.loader_b.metrics.auc')
    """
    return sep.join((mode, *parts))


def check_key(key: object) -> str:
    """The key as a plain string. It must be a string of non-empty segments separated by dots."""
    if not isinstance(key, str):
        raise TypeError(
            f"NDict keys are strings, got {key!r} of type {type(key).__name__}. Use a name such as '{key}' in quotes."
        )
    key = "" + key  # plain, also if it is a member of a str Enum
    if not key or key[0] == "." or key[-1] == "." or ".." in key:
        raise ValueError(
            f"NDict keys are non-empty segments separated by single dots, such as 'data.image'; got {key!r}."
        )
    return key


def flatten(mapping: Mapping[str, Any], prefix: str = "", flat: dict[str, Any] | None = None) -> dict[str, Any]:
    """The leaves of a mapping with nested keys, dotted keys or both, by their dotted keys.

    Raises:
        ValueError: a key is not valid, or the mapping holds one key twice: with dots and nested.
    """
    flat = {} if flat is None else flat
    for key, value in mapping.items():
        dotted = prefix + check_key(key)
        if is_mapping(value):
            flatten(value, f"{dotted}.", flat)
        elif dotted in flat:
            raise ValueError(f"{dotted!r} occurs twice in one mapping, with dots and nested. Rename one of them.")
        else:
            flat[dotted] = value
    return flat


def is_mapping(value: object) -> bool:
    """Whether a value is a mapping. Most values are tensors, and `hasattr` is faster than an abstract class there."""
    return hasattr(value, "keys") and isinstance(value, Mapping)


def read_key(batch_dict: Mapping[str, Any], key: str, reader: str) -> Any:
    """`batch_dict[key]`, with an error that names the component that reads it.

    Raises:
        NestedKeyError: the key is not there. The message names `reader` and the nearest keys.

    Example:
        >>> read_key({"data.label": 3}, "data.label", "MyLoss")
        3
        >>> read_key({"data.label": 3}, "data.lable", "MyLoss")
        Traceback (most recent call last):
        fuse_core.nested_key_error.NestedKeyError: MyLoss reads 'data.lable', which this batch_dict does not hold. ...
    """
    try:
        return batch_dict[key]
    except KeyError:
        raise NestedKeyError(key, _dotted_keys(batch_dict), reader) from None


def _dotted_keys(mapping: Mapping[Any, Any], prefix: str = "") -> list[str]:
    """The dotted keys of any mapping, for an error: it may hold keys that an NDict cannot hold."""
    keys = []
    for key in mapping.keys():  # noqa: SIM118, a TensorDict iterates over its samples
        value = mapping[key]
        keys += _dotted_keys(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [f"{prefix}{key}"]
    return keys
