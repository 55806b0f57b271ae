"""Hyperparameters that a checkpoint can hold."""

import warnings
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

_PLAIN = (bool, int, float, complex, str, bytes, torch.dtype, torch.device)


def keep_plain_values(hyperparameters: MutableMapping[str, Any]) -> None:
    """Remove every value that is not plain, with a warning: a checkpoint with other objects is refused when read.

    Paths become strings, and NumPy's numbers Python's.

    Example:
        >>> import warnings
        >>> hyperparameters = {"width": 64, "model": torch.nn.Linear(2, 1)}
        >>> with warnings.catch_warnings(action="ignore"):
        ...     keep_plain_values(hyperparameters)
        >>> hyperparameters
        {'width': 64}
    """
    hyperparameters.update({name: _as_plain(value) for name, value in hyperparameters.items()})
    others = [name for name, value in hyperparameters.items() if not _is_plain(value)]
    for name in others:
        del hyperparameters[name]
    if others:
        warnings.warn(
            f"Checkpoints and logs hold plain values. The hyperparameters {', '.join(map(repr, others))} are not plain "
            f"and were left out. Name them in save_hyperparameters_kwargs={{'ignore': [...]}}.",
            stacklevel=2,
        )


def _as_plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.generic):
        return value.item()
    if type(value) in (list, tuple):
        return type(value)(map(_as_plain, value))
    return {key: _as_plain(one) for key, one in value.items()} if type(value) is dict else value


def _is_plain(value: Any) -> bool:
    if type(value) in (list, tuple):
        return all(map(_is_plain, value))
    if type(value) is dict:
        return all(_is_plain(part) for pair in value.items() for part in pair)
    return value is None or isinstance(value, torch.Tensor) or type(value) in _PLAIN
