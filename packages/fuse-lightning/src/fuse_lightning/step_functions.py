"""The steps of a LightningModule over batch_dicts, as functions.

LightningModuleDefault uses them; use them in a module of your own.
"""

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from fuse_core import SAMPLE_ID, TOTAL_LOSS, NDict, loss_key, number_of_samples, read_key

from .losses.epoch_losses import COUNTED, TERMS
from .metrics.metric_collected import registered


class MetricError(RuntimeError):
    """A metric failed. The message names it with its class and keys; the cause is the metric's own error.

    Example:
        >>> from torchmetrics import MeanMetric
        >>> from fuse_lightning import MetricWrapToDict
        >>> metric = MetricWrapToDict(metric=MeanMetric(), metric_arg_to_batch_key={"value": "data.age"})
        >>> try:
        ...     step_metrics({"age": metric}, NDict({"data.sex": torch.zeros(2)}))
        ... except MetricError as error:
        ...     print(error)
        The metric 'age', MetricWrapToDict(value='data.age', metric=MeanMetric), failed: NestedKeyError: ...
    """

    def __init__(self, name: str, metric: Any, error: Exception) -> None:
        super().__init__(f"The metric {name!r}, {described(metric)}, failed: {type(error).__name__}: {error}")


def described(metric: Any) -> str:
    """The metric's class and keys, as the user gave them."""
    return str(getattr(metric, "name_and_keys", type(metric).__name__))


Components: TypeAlias = Mapping[str, Any] | nn.ModuleDict
"""Losses or metrics by name. Metrics may be objects with FuseMedML's `collect`, `eval` and `reset`."""


def step_losses(losses: Components, batch_dict: MutableMapping[str, Any]) -> Tensor:
    """Compute the losses of one batch and their sum.

    Writes `losses.<name>` for each loss and `losses.total_loss`, detached, to the batch_dict, and two things that a
    loss may tell about its last call:

    - The attribute `counted` says how much the value is a mean over (samples, voxels, a sum of weights): an int, or a
      scalar tensor on the loss's device. It is written to `counted.<name>` and weights the batch in an epoch's mean. If
      the loss has no such attribute, the number of samples is written. A loss that counted 0 adds nothing to the sum
      and to the gradient, even if its value is NaN.
    - The attribute `terms`, detached scalar tensors by name, is written to `loss_terms.<name>.<term>`.

    Args:
        losses: losses by name, each taking the batch_dict and returning a scalar tensor.
        batch_dict: the batch after the model's forward.

    Returns:
        The sum, to call `backward` on.

    Raises:
        TypeError: a loss did not return a tensor.
        ValueError: there is no loss, or a loss returned a tensor that is not a scalar.

    Example:
        >>> batch_dict = NDict({"model.output.age": torch.tensor([30.0, 50.0]), "data.age": torch.tensor([31.0, 47.0])})
        >>> def absolute_error(batch_dict):
        ...     return (batch_dict["model.output.age"] - batch_dict["data.age"]).abs().mean()
        >>> step_losses({"age": absolute_error}, batch_dict)
        tensor(2.)
        >>> batch_dict["losses.age"]
        tensor(2.)
    """
    if not losses:
        raise ValueError("step_losses needs at least one loss, got none. Give losses={name: loss}.")
    values: list[Tensor] = []
    given = {tensor.grad_fn for tensor in _tensors(batch_dict)} if torch.is_grad_enabled() else set()
    for name, loss in losses.items():
        value = loss(batch_dict)
        if not isinstance(value, Tensor):
            raise TypeError(
                f"Losses must return scalar tensors, but {name!r} ({type(loss).__name__}) returned {value!r}. Return "
                f"the loss as a tensor, without .item() or float()."
            )
        if value.ndim != 0:
            raise ValueError(
                f"Losses must return scalar tensors, but {name!r} returned shape {tuple(value.shape)}. Reduce it, "
                f"with .mean() for instance."
            )
        batch_dict[loss_key(name)] = value.detach()
        counted = getattr(loss, "counted", None)
        if counted is None:
            counted = _samples(loss, batch_dict)
        else:
            value = _only_if_it_counts(value, counted, given)
            if not isinstance(counted, Tensor) and counted == 0:  # the loss may have returned early, without a graph
                value = sum((one.flatten()[:0].sum().to(value) for one in _trained(loss, batch_dict)), value)
        batch_dict[f"{COUNTED}.{name}"] = counted
        for term, part in (getattr(loss, "terms", None) or {}).items():
            batch_dict[f"{TERMS}.{name}.{term}"] = part
        values.append(value)
    total = sum(values[1:], start=values[0])
    batch_dict[TOTAL_LOSS] = total.detach()
    return total


def _only_if_it_counts(value: Tensor, counted: Tensor | float, given: set[Any]) -> Tensor:
    """The value of a loss, which is 0 and has a gradient of 0 if it counted nothing.

    A mean over nothing, 0 / 0, has the gradient NaN, whatever it is multiplied by. So NaN is replaced in the gradients
    that leave the loss's part of the graph. That part ends at parameters, and at `given`, the nodes of the graph whose
    results the loss was given. Gradients that are sparse or of a subclass of Tensor are left as they are.
    """
    on_device = isinstance(counted, Tensor) and not counted.is_cpu
    if not on_device and counted > 0:  # known without waiting for the device
        return value
    nothing = ~(torch.as_tensor(counted, device=value.device) > 0)

    def without_nan(gradients: Sequence[Tensor | None], _: Any) -> tuple[Tensor | None, ...]:
        return tuple(
            one.masked_fill(one.isnan() & nothing.to(one.device), 0)
            if type(one) is Tensor and one.layout is torch.strided
            else one
            for one in gradients
        )

    seen = {None, *given}
    waiting: list[Any] = [value.grad_fn]
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        following = [one for one, _ in node.next_functions if one is not None]
        if any(one in given or not one.next_functions for one in following):
            node.register_hook(without_nan)
        waiting.extend(following)
    return torch.where(nothing, 0, value)


def _trained(loss: Any, batch_dict: Mapping[str, Any]) -> list[Tensor]:
    """What requires a gradient of a loss's own parameters and of the tensors that it reads, or may read."""
    reads = getattr(loss, "reads", None) or ()
    own = [key for key in batch_dict if any(f"{key}.".startswith(f"{read}.") for read in reads)]
    tensors = _tensors([batch_dict[key] for key in own or batch_dict])
    parameters = loss.parameters() if isinstance(loss, nn.Module) else ()
    return [one for one in (*tensors, *parameters) if one.requires_grad]


def _tensors(values: Mapping[str, Any] | Sequence[Any]) -> Iterator[Tensor]:
    """The tensors of a batch, also those in dicts, lists and tuples."""
    for one in values.values() if isinstance(values, Mapping) else values:
        if isinstance(one, Tensor):
            yield one
        elif isinstance(one, Mapping | list | tuple):
            yield from _tensors(one)


def _samples(loss: Any, batch_dict: Mapping[str, Any]) -> int:
    """The batch's number of samples: of `data.sample_id`, or the size that most of the loss's reads have in common."""
    if SAMPLE_ID in batch_dict:
        return len(batch_dict[SAMPLE_ID])
    values = [batch_dict[key] for key in getattr(loss, "reads", None) or () if key in batch_dict]
    sizes = [len(value) for value in values if isinstance(value, list) or getattr(value, "ndim", 0) > 0]
    return max(sizes, key=sizes.count) if sizes else number_of_samples(batch_dict) or 1


def step_metrics(metrics: Components, batch_dict: Mapping[str, Any]) -> None:
    """Update each metric with one batch.

    Raises:
        MetricError: a metric failed; the message names it.

    Example:
        >>> from torchmetrics.classification import BinaryAccuracy
        >>> from fuse_lightning import MetricDefault
        >>> metric = MetricDefault(pred="model.output.cls", target="data.label", metric=BinaryAccuracy())
        >>> batch_dict = NDict({"model.output.cls": torch.tensor([0.9, 0.2]), "data.label": torch.tensor([1, 1])})
        >>> step_metrics({"accuracy": metric}, batch_dict)
        >>> metric.compute()
        tensor(0.5000)
    """
    metric: Any
    of_batches: Any
    for name, metric in metrics.items():
        try:
            of_batches = metric if isinstance(metric, nn.Module) else registered(metric)
            of_batches.update(batch_dict)
        except Exception as error:
            raise MetricError(name, metric, error) from error


def reset_metrics(metrics: Components) -> None:
    """Reset each metric.

    Example:
        >>> from torchmetrics import SumMetric
        >>> count = SumMetric()
        >>> count.update(3)
        >>> reset_metrics({"count": count})
        >>> count.update(1)
        >>> count.compute()
        tensor(1.)
    """
    metric: Any
    for metric in metrics.values():
        metric.reset()


def step_extract_predictions(prediction_keys: Sequence[str], batch_dict: Mapping[str, Any]) -> dict[str, Any]:
    """The predictions of one batch: the values of `data.sample_id` and `prediction_keys`, which may be branches.

    Raises:
        NestedKeyError: the batch_dict lacks one of them.

    Example:
        >>> batch_dict = NDict({"data.sample_id": ["a", "b"], "model.output": {"age": torch.tensor([41.0, 52.0])}})
        >>> step_extract_predictions(["model.output"], batch_dict)
        {'data.sample_id': ['a', 'b'], 'model.output.age': tensor([41., 52.])}
    """
    predictions: dict[str, Any] = {}
    for key in (SAMPLE_ID, *prediction_keys):
        value = read_key(batch_dict, key, "step_extract_predictions")
        predictions.update(NDict({key: value}))  # the leaves of a branch
    return predictions
