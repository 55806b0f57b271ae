"""The run folder: what a run writes there, where a checkpoint is found, and what is never overwritten unasked."""

from pathlib import Path
from tempfile import TemporaryFile

from .errors import RunError

CONFIG_FILE = "config.yaml"  # by this, and how it starts, a folder is known to be that of a run
CONFIG_START = "# pytorch_lightning=="
CONFIG_FILES = (CONFIG_FILE, "config_[0-9]*.yaml")
PREDICTIONS_FILE = "predictions.csv"
LOGS = "logs"

WRITTEN = (
    *CONFIG_FILES,
    "best_epoch*.ckpt",
    "last*.ckpt",
    "epoch_summary_*.txt",
    "model.safetensors",
    "model.md",
    PREDICTIONS_FILE,
    f"{LOGS}/version_*/metrics.csv",
    f"{LOGS}/version_*/hparams.yaml",
    f"{LOGS}/version_*/events.out.tfevents.*",
    f"{LOGS}/version_*/checkpoints/*.ckpt",
)


def check_run_folder(run_dir: Path, overwrite: bool) -> None:
    """See that nothing there is overwritten unasked.

    Raises:
        RunError: it is a file, or it is not empty and may not be overwritten.
    """
    if run_dir.exists() and not run_dir.is_dir():
        raise RunError(f"the run folder {run_dir} is a file. Choose another --run_dir.")
    if not run_dir.exists() or not any(run_dir.iterdir()):
        return
    config = run_dir / CONFIG_FILE
    if not (config.is_file() and config.read_text(encoding="utf-8", errors="replace").startswith(CONFIG_START)):
        raise RunError(
            f"the run folder {run_dir} holds files, but no {CONFIG_FILE} of an earlier run: nothing is written there. "
            f"Choose another --run_dir."
        )
    if not overwrite:
        go_on = "continue that run with --ckpt_path last, " if any(run_dir.rglob("last*.ckpt")) else ""
        raise RunError(
            f"the run folder {run_dir} holds an earlier run. Choose another --run_dir, {go_on}or replace it with "
            f"--overwrite."
        )


def start_run_folder(run_dir: Path) -> None:
    """Make the folder of a new run, without the files that an earlier run wrote; others stay.

    Raises:
        RunError: nothing can be written there.
    """
    try:
        remove_run_files(run_dir)
        run_dir.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=run_dir):
            pass
    except OSError as error:
        raise RunError(
            f"nothing can be written to the run folder {run_dir}: {error}. Choose another --run_dir."
        ) from error


def remove_run_files(run_dir: Path) -> None:
    """Remove what a run writes, and nothing else. What a link leads to, on another disk for instance, stays."""
    inside = run_dir.resolve()
    for pattern in WRITTEN:
        for path in [*run_dir.glob(pattern)]:
            if path.parent.resolve().is_relative_to(inside):
                path.unlink()
    for folder in sorted(run_dir.glob(f"{LOGS}/**/"), reverse=True):  # those below first
        if folder.resolve().is_relative_to(inside) and not folder.is_symlink() and not any(folder.iterdir()):
            folder.rmdir()


def find_checkpoint(run_dir: Path, which: str) -> Path:
    """The checkpoint of the run folder whose name starts with `which`, `"best"` or `"last"`; of the last, the newest.

    Raises:
        RunError: there is none, or there are several that are the best, by several monitors or with `save_top_k`; lists
            those there are.
    """
    there = sorted(run_dir.rglob("*.ckpt"), key=lambda path: path.stat().st_mtime)
    named = [path for path in there if path.name.startswith(which)]
    if which == "best" and len(named) > 1:
        raise RunError(f"several checkpoints are the best; choose one with --ckpt_path: {', '.join(map(str, named))}.")
    if named:
        return named[-1]
    others = f" There are: {', '.join(map(str, there))}." if there else " It holds no checkpoint: has the run started?"
    raise RunError(f"--ckpt_path {which}: the run folder {run_dir} has no checkpoint called {which}*.ckpt.{others}")


def best_or_last_checkpoint(run_dir: Path) -> Path:
    """The checkpoint to evaluate where none was named.

    Raises:
        RunError: there is neither, or there are several that are the best.
    """
    for which in ("best", "last"):
        if any(run_dir.rglob(f"{which}*.ckpt")):
            return find_checkpoint(run_dir, which)
    raise RunError(
        f"there is no best*.ckpt or last*.ckpt in the run folder {run_dir}. Train first (fit), name another --run_dir "
        f"or a checkpoint with --ckpt_path, or take the weights as constructed with --ckpt_path untrained."
    )
