"""The keys of the predictions that an ensemble combines, and their kinds."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fuse_core import did_you_mean, logits_key, output_key, provides

from ..argument_checks import check_option, plain_key
from .combine_predictions import KINDS, Kind


def predicted_keys(
    models: Sequence[nn.Module], prediction_keys: Sequence[str] | Mapping[str, Kind] | None
) -> tuple[dict[str, Kind], frozenset[str]]:
    """The kind of each prediction key, and the keys whose kind was guessed by their name."""
    told: Mapping[str, Kind] = prediction_keys if isinstance(prediction_keys, Mapping) else {}
    for key, kind in told.items():
        check_option(kind, KINDS, f"ModelEnsemble(prediction_keys={{{key!r}: ...}})")
    keys = _outputs_of_all(models) if prediction_keys is None else _listed(prediction_keys)
    kinds: dict[str, Kind] = {}
    guessed = set()
    for key in keys:
        _check_written(models, key)
        declared = {kinds_of(model)[key] for model in models if key in kinds_of(model)}
        if key in told:
            kinds[key] = told[key]
        elif len(declared) > 1:
            raise ValueError(
                f"ModelEnsemble: the models declare {key!r} as different kinds, {' and '.join(sorted(declared))}. "
                f"They cannot be averaged."
            )
        elif declared:
            kinds[key] = declared.pop()
        else:
            guessed.add(key)
            kinds[key] = "logits" if key.startswith(logits_key("")) else "probabilities"
            head = key.removeprefix(output_key(""))
            if prediction_keys is None and logits_key(head) not in (getattr(models[0], "writes", None) or ()):
                kinds[key] = "values"
    return kinds, frozenset(guessed)


def kinds_of(model: nn.Module) -> Mapping[str, Kind]:
    """The kinds of predictions that a model declares in `prediction_kinds`, as heads do."""
    declared: Any = getattr(model, "prediction_kinds", None)
    return declared if isinstance(declared, Mapping) else {}


def check_guessed_kind(key: str, predictions: Tensor, classes_axis: int) -> None:
    """Raises `ValueError` unless all models' predictions sum to 1 over the classes, which sigmoid scores do not."""
    axis = classes_axis if classes_axis < 0 else classes_axis + 1  # behind the models' axis
    off = (predictions.detach().float().sum(axis) - 1).abs()
    if bool((off > 0.01).any()):
        raise ValueError(
            f"ModelEnsemble took {key!r} for probabilities of classes, but their sum along the classes axis is not 1. "
            f"Give its kind: prediction_keys={{{key!r}: 'labels'}} if they are sigmoid scores, 'logits' or "
            f"'label_logits' if they are scores before the activation, 'values' if they are a regression."
        )


def check_classes(key: str, shape: torch.Size, classes_axis: int) -> None:
    """Raises `ValueError` unless there is an axis of two classes or more."""
    if not -len(shape) <= classes_axis < len(shape) or shape[classes_axis] < 2:
        raise ValueError(
            f"ModelEnsemble votes on the classes along axis {classes_axis} of {key!r}, whose shape is {tuple(shape)}. "
            f"Set classes_axis to an axis of two classes or more, or prediction_keys to {{{key!r}: 'values'}}, or to "
            f"'labels' for sigmoid scores."
        )


def _check_written(models: Sequence[nn.Module], key: str) -> None:
    for i, model in enumerate(models):
        writes = getattr(model, "writes", None)
        if writes is not None and not provides(writes, key):
            hint = did_you_mean(key, writes, n=3) or f" It writes {', '.join(map(repr, writes))}."
            raise ValueError(
                f"ModelEnsemble(prediction_keys=): model {i} ({type(model).__name__}) does not write {key!r}.{hint}"
            )


def _outputs_of_all(models: Sequence[nn.Module]) -> list[str]:
    writes = [getattr(model, "writes", None) or () for model in models]
    keys = [key for key in writes[0] if key.startswith(output_key("")) and all(key in others for others in writes)]
    if not keys:
        raise ValueError(
            f"ModelEnsemble needs prediction_keys: there is no '{output_key('')}<head>' that all models declare in "
            f"`writes`."
        )
    return keys


def _listed(prediction_keys: Sequence[str] | Mapping[str, Kind]) -> list[str]:
    keys = list(prediction_keys) if isinstance(prediction_keys, Iterable) else []
    if isinstance(prediction_keys, str) or not keys or not all(isinstance(key, str) for key in keys):
        raise ValueError(
            f"ModelEnsemble(prediction_keys=) takes a non-empty sequence of keys, or a mapping of keys to their kinds, "
            f"got {prediction_keys!r}. For one key, use [key]."
        )
    return list(map(plain_key, keys))
