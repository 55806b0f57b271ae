"""Hyperparameters that a checkpoint can hold."""

import warnings
from collections.abc import MutableMapping
from typing import Any

from .weights_only_values import NotPlainError, as_plain


def keep_plain_values(hyperparameters: MutableMapping[str, Any]) -> None:
    """Remove every value that is not plain, with a warning: a checkpoint with other objects is refused when read.

    Paths become strings, and NumPy's numbers Python's.

    Example:
        >>> import torch, warnings
        >>> hyperparameters = {"width": 64, "model": torch.nn.Linear(2, 1)}
        >>> with warnings.catch_warnings(action="ignore"):
        ...     keep_plain_values(hyperparameters)
        >>> hyperparameters
        {'width': 64}
    """
    others = []
    for name, value in hyperparameters.items():
        try:
            hyperparameters[name] = as_plain(value, name)
        except NotPlainError:
            others.append(name)
    for name in others:
        del hyperparameters[name]
    if others:
        warnings.warn(
            f"Checkpoints and logs hold plain values. The hyperparameters {', '.join(map(repr, others))} are not plain "
            f"and were left out. Name them in save_hyperparameters_kwargs={{'ignore': [...]}}.",
            stacklevel=2,
        )
