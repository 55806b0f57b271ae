"""Train batch_dict models, losses and metrics with PyTorch Lightning."""

from .__about__ import __version__
from .default_callbacks import model_default_callbacks
from .epoch_losses import EpochLosses
from .lightning_module_default import LightningModuleDefault
from .metric_default import MetricDefault
from .model_epoch_summary import ModelEpochSummary
from .predictions import convert_predictions_to_dataframe
from .step_functions import (
    epoch_end_compute_and_log_losses,
    epoch_end_compute_and_log_metrics,
    reset_metrics,
    step_extract_predictions,
    step_losses,
    step_metrics,
)

__all__ = [
    "EpochLosses",
    "LightningModuleDefault",
    "MetricDefault",
    "ModelEpochSummary",
    "__version__",
    "convert_predictions_to_dataframe",
    "epoch_end_compute_and_log_losses",
    "epoch_end_compute_and_log_metrics",
    "model_default_callbacks",
    "reset_metrics",
    "step_extract_predictions",
    "step_losses",
    "step_metrics",
]
