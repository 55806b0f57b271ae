"""Checks before a step that the keys of batch, model, losses and metrics fit together."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from fuse_core import GLOBAL_STEP, SAMPLE_ID, TOTAL_LOSS, NDict, Wiring, WiringError, check_wiring, loss_key

from ..step_functions import Components


class _Declared:
    """A stand-in for something that is not a component, or for a component with unknown keys."""

    def __init__(self, name: str, reads: Sequence[str] = (), writes: Sequence[str] = ()) -> None:
        self.__name__ = name
        self.reads = tuple(reads)
        self.writes = tuple(writes)


class _WritesLosses(_Declared):
    """A stand-in for `step_losses`, which writes the values of losses."""

    def __call__(self, batch_dict: Any) -> None:
        for key in self.writes:
            batch_dict[key] = torch.zeros(())


class _ReadsPredictions(_Declared):
    """A stand-in for `step_extract_predictions`, which reads the prediction keys that are there."""

    def __init__(self, name: str, keys: Sequence[str]) -> None:
        super().__init__(name)
        self.optional_reads = tuple(keys)

    def __call__(self, batch_dict: Any) -> None:
        batch_dict.select(*(key for key in self.optional_reads if key in batch_dict))


def check_step_wiring(
    batch_dict: Mapping[str, Any],
    model: nn.Module,
    losses: Components | None = None,
    metrics: Components | None = None,
    prediction_keys: Sequence[str] | None = None,
) -> Wiring:
    """Follow the keys of one step: batch, model, losses, metrics, predictions.

    A component with a `preprocess_func` cannot fail the check, because that function may add keys.

    Args:
        batch_dict: the batch as the loader gives it.
        model: the model.
        losses: losses by name.
        metrics: metrics by name.
        prediction_keys: the keys to predict, beside `data.sample_id`.

    Returns:
        The components that write and read each key, to print or to draw.

    Raises:
        WiringError: a component reads a key that nothing before it provides; see `fuse_core.check_wiring`.

    Example:
        >>> class Model(nn.Module):
        ...     reads, writes = ("data.image",), ("model.logits.cls",)
        >>> class CrossEntropy(nn.Module):
        ...     reads, writes = ("model.logits.cls", "data.label"), ()
        >>> print(check_step_wiring({"data.image": 0, "data.label": 0}, Model(), {"cls": CrossEntropy()}))
        key                written by            read by
        data.image         the batch             Model 'model'
        data.label         the batch             CrossEntropy 'losses.cls'
        global_step        the batch             -
        model.logits.cls   Model 'model'         CrossEntropy 'losses.cls'
        losses.cls         step_losses 'losses'  -
        losses.total_loss  step_losses 'losses'  -
    """
    components = step_components(model, losses, metrics)
    if prediction_keys is not None:
        components["prediction_keys"] = _Declared("step_extract_predictions", reads=[SAMPLE_ID, *prediction_keys])
    keys = list(NDict(batch_dict) | {GLOBAL_STEP: 0})
    try:
        return check_wiring(components, keys)
    except WiringError:
        uncertain = {name: one for name, one in components.items() if has_preprocessing(one)}
        if not uncertain:
            raise
        unknown = {name: _Declared(type(one).__name__) for name, one in uncertain.items()}
        return check_wiring({**components, **unknown}, keys)


def step_components(
    model: nn.Module, losses: Components | None, metrics: Components | None, predicted: Sequence[str] = ()
) -> dict[str, Any]:
    """The components of one step by name, in their order, with stand-ins for what is no component."""
    components: dict[str, Any] = {"model": model}
    if losses:
        # Before the losses: a loss may read another loss's value.
        components["losses"] = _WritesLosses("step_losses", writes=[*map(loss_key, losses), TOTAL_LOSS])
        components.update({f"losses.{name}": loss for name, loss in losses.items()})
    if metrics:
        components.update({f"metrics.{name}": metric for name, metric in metrics.items()})
    if predicted:
        components["prediction_keys"] = _ReadsPredictions("step_extract_predictions", predicted)
    return components


def has_preprocessing(component: Any) -> bool:
    """Whether a component has a `preprocess_func`, which may add keys."""
    modules = component.modules() if isinstance(component, nn.Module) else [component]
    return any(getattr(module, "preprocess_func", None) is not None for module in modules)
