"""The keys of the predictions that an ensemble combines, and their kinds."""

from collections.abc import Iterable, Mapping, Sequence

from torch import nn

from fuse_core import did_you_mean, logits_key, output_key

from ..declared_keys import is_provided
from .combine_predictions import HOLDS, Holds


def predicted_keys(
    models: Sequence[nn.Module], prediction_keys: Sequence[str] | Mapping[str, Holds] | None
) -> dict[str, Holds]:
    """The kind of each prediction key; see `ModelEnsemble` for the rules.

    Raises:
        ValueError: there are no keys, a kind is unknown, or a model that declares its keys does not write one of them.
    """
    kinds = _declared_outputs(models) if prediction_keys is None else _given(prediction_keys)
    for key, kind in kinds.items():
        if kind not in HOLDS:
            raise ValueError(f"ModelEnsemble: {key!r} may hold one of {HOLDS}, got {kind!r}.")
        for i, model in enumerate(models):
            writes = getattr(model, "writes", None)
            if writes is not None and not is_provided(key, writes):
                hint = did_you_mean(key, writes, n=3) or f" It writes {', '.join(map(repr, writes))}."
                raise ValueError(
                    f"ModelEnsemble(prediction_keys=): model {i} ({type(model).__name__}) does not write {key!r}.{hint}"
                )
    return kinds


def _declared_outputs(models: Sequence[nn.Module]) -> dict[str, Holds]:
    writes = [getattr(model, "writes", None) or () for model in models]
    below = output_key("")
    heads = [key.removeprefix(below) for key in writes[0] if key.startswith(below)]
    kinds: dict[str, Holds] = {
        output_key(head): "probabilities" if logits_key(head) in writes[0] else "values"
        for head in heads
        if all(output_key(head) in keys for keys in writes)
    }
    if not kinds:
        raise ValueError(
            f"ModelEnsemble needs prediction_keys: there is no '{below}<head>' that all models declare in `writes`."
        )
    return kinds


def _given(prediction_keys: Sequence[str] | Mapping[str, Holds]) -> dict[str, Holds]:
    if isinstance(prediction_keys, Mapping) and prediction_keys:
        return dict(prediction_keys)
    keys = list(prediction_keys) if isinstance(prediction_keys, Iterable) else []
    if isinstance(prediction_keys, str) or not keys or not all(isinstance(key, str) for key in keys):
        raise ValueError(
            f"ModelEnsemble(prediction_keys=) takes a non-empty sequence of keys, or a mapping of keys to what they "
            f"hold, got {prediction_keys!r}. For one key, use [key]."
        )
    return {key: "logits" if key.startswith(logits_key("")) else "probabilities" for key in keys}
