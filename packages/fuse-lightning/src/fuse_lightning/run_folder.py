"""The names of the files that a run writes: the one list that the callbacks, the command line and the template use."""

BEST_CHECKPOINT = "best_epoch"
"""Name of the best epoch's checkpoint; with several monitors, or with `save_top_k`, the start of the names."""

LAST_CHECKPOINT = "last"
EPOCH_SUMMARY = "epoch_summary"
MODEL_FILE = "model.safetensors"
DESCRIPTION_FILE = "model.md"
PREDICTIONS_FILE = "predictions.csv"

MODEL_DIR_FILES = (
    f"{BEST_CHECKPOINT}*.ckpt",
    f"{LAST_CHECKPOINT}*.ckpt",
    f"{EPOCH_SUMMARY}_*.txt",
    MODEL_FILE,
    DESCRIPTION_FILE,
)
"""Patterns of the files that LightningModuleDefault and its default callbacks write to `model_dir`."""

LOG_FILES = (
    "version_*/metrics.csv",
    "version_*/hparams.yaml",
    "version_*/events.out.tfevents.*",
    "version_*/checkpoints/*.ckpt",
)
"""Patterns of the files that Lightning's CSVLogger and TensorBoardLogger write to a logger's folder."""


def with_monitor(name: str, monitor: str) -> str:
    """The name of a file that belongs to a monitor. A slash in the monitor would make a folder.

    Example:
        >>> with_monitor("epoch_summary", "validation/losses/cls")
        'epoch_summary_validation_losses_cls'
    """
    return f"{name}_{monitor.replace('/', '_')}"
