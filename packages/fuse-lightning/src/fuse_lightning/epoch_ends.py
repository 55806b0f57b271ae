"""What a LightningModule over batch_dicts logs at an epoch's end, as functions.

LightningModuleDefault uses them; use them in a module of your own.
"""

import copy
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from fuse_core import LOSSES, NDict, NDictView, log_name, loss_key

from .losses.epoch_losses import COUNTED, EpochLosses
from .metrics.metric_collected import MetricCollected, registered
from .metrics.updated_metrics import updated_metrics
from .metrics.value_files import write_metric_files
from .step_functions import Components, MetricError, described, reset_metrics


def epoch_end_compute_and_log_losses(
    pl_module: pl.LightningModule,
    mode: str,
    batch_losses: EpochLosses | Sequence[Mapping[str, Any]],
    sep: str = ".",
    log_counted: bool = False,
) -> None:
    """Log the epoch's mean of each loss over all processes as `<mode>.losses.<name>`, and reset the means.

    The terms of a compound loss are logged as `<mode>.losses.<name>.<term>`.

    Args:
        pl_module: the module to log with.
        mode: `"train"`, `"validation"` or `"test"`; with several loaders also a dot and the loader's name.
        batch_losses: the losses of the epoch's batches. Of a list of `batch_dict["losses"].copy()`, as FuseMedML keeps
            them, the plain mean over the batches is logged, without values that are None; the list is not emptied.
        sep: the separator of the logged names.
        log_counted: also log how much each loss counted as `<mode>.counted.<name>`.

    Example:
        In a LightningModule:

        >>> class Module(pl.LightningModule):
        ...     def on_train_epoch_start(self):
        ...         self.epoch_losses = EpochLosses()
        ...
        ...     def on_train_epoch_end(self):
        ...         epoch_end_compute_and_log_losses(self, "train", self.epoch_losses)
    """
    strategy = pl_module.trainer.strategy
    if not isinstance(batch_losses, EpochLosses):
        batch_losses = _of_batches(batch_losses, pl_module.device)
    batch_losses.share_names(pl_module.device)
    means, counted = batch_losses.means_and_counted(lambda tensor: strategy.reduce(tensor, reduce_op="sum"))
    for branch, values in ((LOSSES, means), (COUNTED, counted if log_counted else {})):
        for name, value in values.items():
            log_reduced(pl_module, log_name(*mode.split("."), branch, *name.split("."), sep=sep), value)
    batch_losses.reset()


def _of_batches(batch_losses: Sequence[Mapping[str, Any]], device: torch.device) -> EpochLosses:
    if any(isinstance(one, NDictView) for one in batch_losses):
        warnings.warn(
            "A list of batch_dict['losses'] keeps every batch of the epoch in memory. Append "
            "batch_dict['losses'].copy(), or use EpochLosses in place of the list.",
            stacklevel=3,
        )
    epoch_losses = EpochLosses()
    for one in batch_losses:
        given = {loss_key(name): value for name, value in one.items() if value is not None}
        values = NDict({key: torch.as_tensor(value, device=device) for key, value in given.items()})
        epoch_losses.update(values, samples=1)
    return epoch_losses


def epoch_end_compute_and_log_metrics(
    pl_module: pl.LightningModule, mode: str, metrics: Components, sep: str = ".", folder: Path | None = None
) -> None:
    """Log each metric as `<mode>.metrics.<name>` and reset it.

    A metric with several values, such as a MetricCollection, is logged as `<mode>.metrics.<name>.<value's name>`. A
    metric with a value for each class is logged as `<mode>.metrics.<name>.<class>`, see `MetricDefault(class_names=)`,
    and their mean, without NaN, as `<mode>.metrics.<name>.mean`. Of a confusion matrix the diagonal is logged.
    A metric that was not updated in the epoch, on any process, is logged as NaN, with a warning. A metric with
    FuseMedML's interface may return values that are not numbers: they are passed to later metrics, but not logged.

    Args:
        pl_module: the module to log with.
        mode: `"train"`, `"validation"` or `"test"`; with several loaders also a dot and the loader's name.
        metrics: metrics by name.
        sep: the separator of the logged names.
        folder: the folder to which metrics with a value for each class are written, as `metric_<mode>.<name>.csv` and
            `.png` (with matplotlib); None writes no files.

    Raises:
        MetricError: a metric failed; the message names it.
        ValueError: a metric returned a value that cannot be logged.

    Example:
        In a LightningModule:

        >>> class Module(pl.LightningModule):
        ...     def validation_step(self, batch_dict, batch_idx):
        ...         step_metrics(self.metrics, self.model(batch_dict))
        ...
        ...     def on_validation_epoch_end(self):
        ...         epoch_end_compute_and_log_metrics(self, "validation", self.metrics)
    """
    metric: Any
    results = NDict()
    metrics = {name: registered(metric) for name, metric in metrics.items()}
    updated = updated_metrics(metrics)
    trainer = pl_module.trainer
    for name, metric in metrics.items():
        collected = isinstance(metric, MetricCollected)
        try:
            value = _compute(metric, results) if name in updated else _nan(name, metric, mode)
            if collected:  # its value may differ between processes
                value = trainer.strategy.broadcast(value)
            results[f"metrics.{name}"] = value
        except Exception as error:
            raise MetricError(name, metric, error) from error
        for full_name, one in NDict({name: value}).items():
            if isinstance(one, np.ndarray) and not collected:
                one = torch.as_tensor(one)
            if isinstance(one, Tensor) and one.numel() != 1 and not collected:
                class_names = _class_names(full_name, metric, one)
                if folder is not None and trainer.is_global_zero and not trainer.sanity_checking:
                    write_metric_files(folder, f"{mode}.{full_name}", one, class_names)
                is_matrix = one.ndim == 2
                one = (one.diagonal() if is_matrix else one).float()  # counts are integers
                numbers = {f"{full_name}.{label}": number for label, number in zip(class_names, one, strict=True)}
                if not is_matrix and "mean" not in class_names:
                    numbers[f"{full_name}.mean"] = one.nanmean()
            elif _is_number(one):
                numbers = {full_name: one}
            elif collected:
                continue
            else:
                raise ValueError(
                    f"{described(metric)}: metrics are logged as numbers, but {full_name!r} returned a "
                    f"{type(one).__name__}. Subclass the metric and let its compute return a number, a dict of "
                    f"numbers, or a tensor with a number for each class. Of a curve, log the area: "
                    f"AUROC in place of ROC."
                )
            for number_name, number in numbers.items():
                log_reduced(pl_module, log_name(*mode.split("."), "metrics", *number_name.split("."), sep=sep), number)
    reset_metrics(metrics)


def _compute(metric: Any, results: NDict) -> Any:
    if isinstance(metric, MetricCollected):
        return metric.compute(results)
    with warnings.catch_warnings():  # torchmetrics warns on a process without samples, also if others have some
        warnings.filterwarnings("ignore", "The ``compute`` method of metric")
        return metric.compute()


def _nan(name: str, metric: Any, mode: str) -> Any:
    """The value of a metric that was not updated: NaN for each of its values."""
    warnings.warn(f"The metric {name!r} of {mode} got no samples in this epoch: its value is NaN.", stacklevel=4)
    collection = getattr(metric, "metric", metric)
    try:
        alone = copy.deepcopy(metric)  # a metric that fails between processes is left with the states of all of them
        for one in alone.modules():
            if isinstance(one, Metric):
                one.distributed_available_fn = lambda: False
        value = _compute(alone, NDict())
    except Exception:  # it keeps samples, and has none
        names = getattr(metric, "class_names", None)
        value = torch.zeros(len(names) if names else ())
        value = dict.fromkeys(collection.keys(), value) if isinstance(collection, MetricCollection) else value
    return _nan_like(value)


def _nan_like(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _nan_like(one) for name, one in value.items()}
    return torch.full(value.shape, math.nan) if isinstance(value, Tensor) else math.nan


def _class_names(full_name: str, metric: Any, values: Tensor) -> Sequence[str]:
    shape = tuple(values.shape)
    if values.ndim not in (1, 2) or len(set(shape)) > 1 or shape[0] == 0:
        raise ValueError(
            f"{described(metric)}: metrics are logged as one number, or one for each class, but {full_name!r} returned "
            f"a tensor of shape {shape}. Choose an average over classes, or compute it from the predictions."
        )
    names: Sequence[str] = getattr(metric, "class_names", None) or [str(i) for i in range(len(values))]
    if len(names) != len(values):
        raise ValueError(f"{described(metric)} has {len(names)} class_names, but its value has shape {shape}.")
    return names


def _is_number(value: Any) -> bool:
    return value.numel() == 1 if isinstance(value, Tensor) else isinstance(value, int | float | np.number)


def log_reduced(pl_module: pl.LightningModule, name: str, value: Any) -> None:
    """Log a value of the epoch that is already equal on all processes."""
    # Lightning warns about values that are not reduced. The maximum of equal values is exactly that value.
    distributed = pl_module.trainer.world_size > 1
    if distributed and isinstance(value, Tensor):  # NCCL reduces only tensors of the GPU
        value = value.to(pl_module.device)
    pl_module.log(
        name,
        value,
        on_step=False,
        on_epoch=True,
        batch_size=1,
        sync_dist=distributed,
        reduce_fx="max" if distributed else "mean",
    )
