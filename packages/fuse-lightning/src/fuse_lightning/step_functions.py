"""The steps and epoch ends of a LightningModule over batch_dicts, as functions.

LightningModuleDefault uses them; use them in a module of your own.
"""

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pytorch_lightning as pl
from torch import Tensor, nn

from fuse_core import LOSSES, SAMPLE_ID, TOTAL_LOSS, NDict, log_name, loss_key, read_key

from .losses.epoch_losses import EpochLosses
from .metrics.metric_collected import MetricCollected


class MetricError(RuntimeError):
    """A metric failed. The message names it with its class and keys; the cause is the metric's own error."""

    def __init__(self, name: str, metric: Any, error: Exception) -> None:
        described = getattr(metric, "name_and_keys", type(metric).__name__)
        super().__init__(f"The metric {name!r}, {described}, failed: {type(error).__name__}: {error}")


Components: TypeAlias = Mapping[str, Any] | nn.ModuleDict
"""Losses or metrics by name."""


def step_losses(losses: Components, batch_dict: MutableMapping[str, Any]) -> Tensor:
    """Compute the losses of one batch and their sum.

    Writes `losses.<name>` for each loss and `losses.total_loss`, detached, to the batch_dict.

    Args:
        losses: losses by name, each taking the batch_dict and returning a scalar tensor.
        batch_dict: the batch after the model's forward.

    Returns:
        The sum, to call `backward` on.

    Raises:
        TypeError: a loss did not return a tensor.
        ValueError: there is no loss, or a loss returned a tensor that is not a scalar.
    """
    if not losses:
        raise ValueError("step_losses needs at least one loss, got none. Give losses={name: loss}.")
    values: list[Tensor] = []
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
        values.append(value)
    total = sum(values[1:], start=values[0])
    batch_dict[TOTAL_LOSS] = total.detach()
    return total


def step_metrics(metrics: Components, batch_dict: Mapping[str, Any]) -> None:
    """Update each metric with one batch.

    Raises:
        MetricError: a metric failed; the message names it.
    """
    metric: Any
    for name, metric in metrics.items():
        try:
            metric.update(batch_dict)
        except Exception as error:
            raise MetricError(name, metric, error) from error


def reset_metrics(metrics: Components) -> None:
    """Reset each metric."""
    metric: Any
    for metric in metrics.values():
        metric.reset()


def step_extract_predictions(prediction_keys: Sequence[str], batch_dict: Mapping[str, Any]) -> dict[str, Any]:
    """The predictions of one batch: the values of `data.sample_id` and `prediction_keys`, which may be branches.

    Raises:
        NestedKeyError: the batch_dict lacks one of them.
    """
    predictions: dict[str, Any] = {}
    for key in (SAMPLE_ID, *prediction_keys):
        value = read_key(batch_dict, key, "step_extract_predictions")
        predictions.update(NDict({key: value}))  # the leaves of a branch
    return predictions


def epoch_end_compute_and_log_losses(
    pl_module: pl.LightningModule, mode: str, batch_losses: EpochLosses, sep: str = "."
) -> None:
    """Log the epoch's mean of each loss over all processes as `<mode>.losses.<name>`, and reset the means.

    Args:
        pl_module: the module to log with.
        mode: `"train"`, `"validation"` or `"test"`; with several loaders also a dot and the loader's name.
        batch_losses: the losses of the epoch's batches.
        sep: the separator of the logged names.
    """
    strategy = pl_module.trainer.strategy
    means = batch_losses.means(lambda tensor: strategy.reduce(tensor, reduce_op="sum"))
    for name, mean in means.items():
        log_reduced(pl_module, log_name(*mode.split("."), LOSSES, name, sep=sep), mean)
    batch_losses.reset()


def epoch_end_compute_and_log_metrics(
    pl_module: pl.LightningModule, mode: str, metrics: Components, sep: str = "."
) -> None:
    """Log each metric as `<mode>.metrics.<name>` and reset it.

    A metric with several values, such as a MetricCollection, is logged as `<mode>.metrics.<name>.<value's name>`. A
    metric with FuseMedML's interface may return values that are not numbers: they are passed to later metrics, but not
    logged.

    Raises:
        MetricError: a metric failed; the message names it.
        ValueError: a metric returned a value that is not one number.
    """
    metric: Any
    results = NDict()
    for name, metric in metrics.items():
        collected = isinstance(metric, MetricCollected)
        try:
            value = metric.compute(results) if collected else metric.compute()
        except Exception as error:
            raise MetricError(name, metric, error) from error
        if collected:  # its value may differ between processes
            value = pl_module.trainer.strategy.broadcast(value)
        results[f"metrics.{name}"] = value
        for full_name, one in NDict({name: value}).items():
            if not _is_number(one):
                if collected:
                    continue
                found = f"a tensor of shape {tuple(one.shape)}" if isinstance(one, Tensor) else repr(one)
                raise ValueError(
                    f"Metrics are logged as one number, but {full_name!r} gave {found}. Choose an average over "
                    f"classes, or compute it from the predictions."
                )
            log_reduced(pl_module, log_name(*mode.split("."), "metrics", *full_name.split("."), sep=sep), one)
    reset_metrics(metrics)


def _is_number(value: Any) -> bool:
    return value.numel() == 1 if isinstance(value, Tensor) else isinstance(value, int | float | np.number)


def log_reduced(pl_module: pl.LightningModule, name: str, value: Any) -> None:
    """Log a value of the epoch that is already equal on all processes."""
    # Lightning warns about values that are not reduced. The maximum of equal values is exactly that value.
    distributed = pl_module.trainer.world_size > 1
    pl_module.log(
        name,
        value,
        on_step=False,
        on_epoch=True,
        batch_size=1,
        sync_dist=distributed,
        reduce_fx="max" if distributed else "mean",
    )
