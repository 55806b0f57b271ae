"""The run folder: everything that a run writes, in a folder of its own.

Nothing is overwritten unless `--overwrite` is given, and then only files that an earlier run wrote are deleted: your
notes beside them stay.
"""

from pathlib import Path

from fuse_lightning.report.run_page import DATA_FILE, PAGE_FILE
from fuse_lightning.run_folder import (
    LOG_FILES,
    MODEL_DIR_FILES,
    PREDICTIONS_FILE,
    make_writable,
    remove_written_files,
)

from .settings import CONFIG_FILE, BadInputError, is_run_folder

MODEL_DIR = "model"  # checkpoints and the epoch summary: `model_dir` of the LightningModule
LOGS_DIR = "logs"  # what the loggers write, for TensorBoard and as CSV files

# Patterns of the files that a run writes, and that `--overwrite` deletes. Add those that your run writes.
WRITTEN = (
    CONFIG_FILE,
    "wiring.md",
    PREDICTIONS_FILE,
    "predicted_masks.npz",
    "evaluation.json",
    "learning_curves.csv",
    "learning_curves.png",
    "confusion_matrix.png",
    "worst_classified.png",
    "overlays.png",
    "worst_segmented.png",
    PAGE_FILE,
    DATA_FILE,
    *(f"{MODEL_DIR}/{name}" for name in MODEL_DIR_FILES),
    *(f"{LOGS_DIR}/*/{name}" for name in LOG_FILES),
)


def start_run_folder(run_dir: Path, overwrite: bool) -> None:
    """Make the folder of a new run.

    Raises:
        BadInputError: it is a file, it is not empty and may not be overwritten, it is not the folder of a run, or
            nothing can be written there.
    """
    if run_dir.exists() and not run_dir.is_dir():
        raise BadInputError(f"{run_dir} is a file. Choose another --run-dir.")
    if run_dir.exists() and any(run_dir.iterdir()):
        if not is_run_folder(run_dir):
            raise BadInputError(
                f"{run_dir} is not empty and not the folder of a run. Nothing is written there, even with --overwrite. "
                f"Choose another --run-dir."
            )
        if not overwrite:
            raise BadInputError(
                f"{run_dir} holds a run already. Choose another --run-dir, add --resume to continue that run, or "
                f"--overwrite to replace it."
            )
    try:
        remove_written_files(run_dir, WRITTEN)
        make_writable(run_dir)
    except OSError as error:
        raise BadInputError(f"Nothing can be written to {run_dir}: {error}. Choose another --run-dir.") from error


def newest_run(runs_dir: Path) -> Path | None:
    """The run folder in `runs_dir` that was started last."""
    runs = [folder for folder in runs_dir.glob("*") if is_run_folder(folder)]
    return max(runs, key=lambda folder: (folder / CONFIG_FILE).stat().st_mtime, default=None)
