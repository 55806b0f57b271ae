"""The run folder: everything that a run writes, in one place of its own.

Nothing that exists is written over unless it was asked for, and then only the files that an earlier run wrote are
deleted: notes that lie beside them stay.
"""

from pathlib import Path
from tempfile import TemporaryFile

from .settings import BadInputError, is_run_folder

MODEL_DIR = "model"  # checkpoints and the epoch summary: `model_dir` of the LightningModule
PREDICTIONS_FILE = "predictions.csv"  # what `infer` writes and `eval` reads
LOGS_DIR = "logs"  # what the loggers write, for TensorBoard and as CSV files

# What a run writes: `--overwrite` deletes what matches, and the folders that this leaves empty. Add what yours writes.
WRITTEN = (
    "config.yaml",
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
    "index.html",
    f"{MODEL_DIR}/best_epoch.ckpt",
    f"{MODEL_DIR}/last.ckpt",
    f"{MODEL_DIR}/epoch_summary_*.txt",
    f"{MODEL_DIR}/model.safetensors",
    f"{MODEL_DIR}/model.md",
    f"{LOGS_DIR}/csv/version_*/metrics.csv",
    f"{LOGS_DIR}/*/version_*/hparams.yaml",
    f"{LOGS_DIR}/tensorboard/version_*/events.out.tfevents.*",
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
                f"{run_dir} is not empty and not the folder of a run, so nothing is written there, with --overwrite "
                f"neither. Choose another --run-dir."
            )
        if not overwrite:
            raise BadInputError(
                f"{run_dir} holds a run already. Choose another --run-dir, add --resume to go on with that run, or "
                f"--overwrite to replace it."
            )
    try:
        delete_run(run_dir)
        run_dir.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=run_dir):
            pass
    except OSError as error:
        raise BadInputError(f"Nothing can be written to {run_dir}: {error}. Choose another --run-dir.") from error


def delete_run(run_dir: Path) -> None:
    """Delete the files that a run wrote to its folder, and those of its folders that this leaves empty."""
    matching = [path for pattern in WRITTEN for path in run_dir.glob(pattern) if path.is_file()]
    # What a link leads to, a folder of another disk for instance, is no part of the run folder.
    written = [path for path in matching if path.parent.resolve().is_relative_to(run_dir.resolve())]
    for path in written:
        path.unlink()
    folders = {folder for path in written for folder in path.parents if run_dir in folder.parents}
    for folder in sorted(folders, key=lambda folder: len(folder.parts), reverse=True):  # the deepest first
        if not any(folder.iterdir()):
            folder.rmdir()


def newest_run(runs_dir: Path) -> Path | None:
    """The run folder in `runs_dir` that was started last."""
    runs = [folder for folder in runs_dir.glob("*") if is_run_folder(folder)]
    return max(runs, key=lambda folder: (folder / "config.yaml").stat().st_mtime, default=None)
