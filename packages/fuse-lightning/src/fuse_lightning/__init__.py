"""Train batch_dict models, losses and metrics with PyTorch Lightning."""

from .__about__ import __version__
from .checkpoints.atomic_checkpoint_io import AtomicCheckpointIO
from .checkpoints.random_state import RandomState
from .checks.module_contract import check_module_contract
from .checks.nonfinite_losses import NonFiniteLossError
from .checks.step_wiring import check_step_wiring
from .configure_optimizers import ConfigureOptimizers
from .data_module_default import DataModuleDefault
from .default_callbacks import model_default_callbacks
from .epoch_ends import epoch_end_compute_and_log_losses, epoch_end_compute_and_log_metrics
from .lightning_module_default import LightningModuleDefault
from .loaders.resumable_loader import resumable_loader
from .losses.epoch_losses import EpochLosses
from .metrics.metric_collected import MetricCollected
from .metrics.metric_default import MetricDefault
from .metrics.metric_wrap_to_dict import MetricWrapToDict
from .model_epoch_summary import ModelEpochSummary
from .predictions.predictions_to_file import PredictionsToFile
from .predictions.table import convert_predictions_to_dataframe
from .report.run_report import RunReport
from .step_functions import MetricError, reset_metrics, step_extract_predictions, step_losses, step_metrics

__all__ = [
    "AtomicCheckpointIO",
    "ConfigureOptimizers",
    "DataModuleDefault",
    "EpochLosses",
    "LightningModuleDefault",
    "MetricCollected",
    "MetricDefault",
    "MetricError",
    "MetricWrapToDict",
    "ModelEpochSummary",
    "NonFiniteLossError",
    "PredictionsToFile",
    "RandomState",
    "RunReport",
    "__version__",
    "check_module_contract",
    "check_step_wiring",
    "convert_predictions_to_dataframe",
    "epoch_end_compute_and_log_losses",
    "epoch_end_compute_and_log_metrics",
    "model_default_callbacks",
    "reset_metrics",
    "resumable_loader",
    "step_extract_predictions",
    "step_losses",
    "step_metrics",
]


def __dir__() -> list[str]:
    return __all__
