"""The loss of a list of predictions, the finest first: the weighted mean over them."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor


def mean_over_levels(
    loss: Callable[..., Tensor], predictions: Sequence[Tensor], target: Tensor, options: dict[str, Any]
) -> Tensor:
    """The weighted mean of a loss over the predictions; what counted is that of the finest one with a weight.

    Args:
        loss: takes a prediction, the target and the options.
        predictions: the finest first.
        target: of all predictions.
        options: checked, with `owner`, and perhaps `deep_supervision_weights` and `record`.
    """
    if isinstance(target, (list, tuple)):
        raise TypeError(
            f"{options['owner']} takes one target for a list of predictions, got a {type(target).__name__}. Give it the"
            " target of the finest; resize_mode brings it to the size of each."
        )
    options = dict(options)
    weights = _weights(options["owner"], options.pop("deep_supervision_weights", "halved"), len(predictions))
    record = options.pop("record", None)
    total: Any = 0
    terms: dict[str, Any] = {}
    for prediction, weight in reversed([*zip(predictions, weights, strict=True)]):
        if weight == 0:
            continue
        of_level: dict[str, Any] = {}
        value = loss(prediction, target, **options, record=of_level)
        if isinstance(total, Tensor) and total.shape != value.shape:
            raise ValueError(
                f"{options['owner']} cannot add losses of shapes {tuple(total.shape)} and {tuple(value.shape)}: with"
                " reduction='none' it takes a single prediction. Use 'mean' or 'sum' for a list."
            )
        total = total + weight * value
        for name, term in of_level.get("terms", {}).items():
            terms[name] = terms.get(name, 0) + weight * term
    if record is not None:
        record.update(of_level, **({"terms": terms} if terms else {}))
    result: Tensor = total
    return result


def _weights(owner: str, weights: Sequence[float] | str, levels: int) -> list[float]:
    """The weights of the predictions, with a sum of 1."""
    if levels == 0:
        raise ValueError(f"{owner} takes at least one prediction, got an empty list.")
    if isinstance(weights, str):
        last = levels - 1 if weights == "halved_without_last" and levels > 1 else levels
        weights = [0.5**level if level < last else 0.0 for level in range(levels)]
    if len(weights) != levels or not sum(weights) > 0:
        raise ValueError(
            f"{owner} takes a deep_supervision_weight for each of the {levels} predictions, not all 0, got"
            f" {list(weights)}."
        )
    return [weight / sum(weights) for weight in weights]
