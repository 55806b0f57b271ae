"""The files that a run writes: the one list that the callbacks, the command line and the template use."""

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath
from tempfile import TemporaryFile

BEST_CHECKPOINT = "best_epoch"
"""Name of the best epoch's checkpoint; with several monitors, or with `save_top_k`, the start of the names."""

LAST_CHECKPOINT = "last"
EPOCH_SUMMARY = "epoch_summary"
MODEL_FILE = "model.safetensors"
DESCRIPTION_FILE = "model.md"
PREDICTIONS_FILE = "predictions.csv"
METRIC_FILE = "metric"

MODEL_DIR_FILES = (
    f"{BEST_CHECKPOINT}*.ckpt",
    f"{LAST_CHECKPOINT}*.ckpt",
    f"{EPOCH_SUMMARY}_*.txt",
    MODEL_FILE,
    DESCRIPTION_FILE,
    f"{METRIC_FILE}_*.csv",
    f"{METRIC_FILE}_*.png",
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


def written_files(run_dir: Path, patterns: Iterable[str]) -> list[Path]:
    """The files in a run's folder that match a pattern. What a link to another folder leads to is left out."""
    inside = run_dir.resolve()
    found = dict.fromkeys(path for pattern in patterns for path in run_dir.glob(pattern))
    return [path for path in found if not path.is_dir() and path.parent.resolve().is_relative_to(inside)]


def remove_written_files(run_dir: Path, patterns: Sequence[str]) -> None:
    """Remove the files that match a pattern, and the folders of the patterns that are then empty.

    Example:
        >>> import tempfile
        >>> run_dir = Path(tempfile.mkdtemp())
        >>> (run_dir / "logs").mkdir()
        >>> for name in ("logs/metrics.csv", "notes.txt"):
        ...     _ = (run_dir / name).write_text("")
        >>> remove_written_files(run_dir, ["logs/*.csv"])
        >>> [path.name for path in run_dir.iterdir()]
        ['notes.txt']
    """
    for path in written_files(run_dir, patterns):
        path.unlink()
    parents = {str(parent) for pattern in patterns for parent in PurePath(pattern).parents if parent.name}
    inside = run_dir.resolve()
    for folder in sorted({folder for parent in parents for folder in run_dir.glob(parent)}, reverse=True):
        is_own = folder.is_dir() and not folder.is_symlink() and folder.resolve().is_relative_to(inside)
        if is_own and not any(folder.iterdir()):  # sorted so that a folder comes after those in it
            folder.rmdir()


def make_writable(run_dir: Path) -> None:
    """Make a run's folder where there is none, and raise OSError if nothing can be written to it."""
    run_dir.mkdir(parents=True, exist_ok=True)
    with TemporaryFile(dir=run_dir):
        pass
