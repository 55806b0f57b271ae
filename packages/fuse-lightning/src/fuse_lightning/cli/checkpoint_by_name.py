"""The run folder: what a run writes there, where a checkpoint is found, and what is never overwritten unasked."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryFile

from .errors import RunError

CONFIG_FILE = "config.yaml"  # by this, and how it starts, a folder is known to be that of a run
CONFIG_START = "# pytorch_lightning=="
CONFIG_FILES = (CONFIG_FILE, "config_[0-9]*.yaml")
PREDICTIONS_FILE = "predictions.csv"
LOGS = "logs"
SET_ASIDE = ".earlier_run"  # see earlier_run.py; the names of the next two start with it
SET_ASIDE_PARTLY = ".earlier_run_partly"  # the other part is still, or again, in the run folder
REMOVED = ".earlier_run_removed"

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
        RunError: it is a file, or it holds files that may not be overwritten.
    """
    if run_dir.exists() and not run_dir.is_dir():
        raise RunError(f"the run folder {run_dir} is a file. Choose another --run_dir.")
    if all(path.is_dir() for path in run_dir.rglob("*")):  # also where a run was killed before it wrote a file
        return
    folders = (run_dir, run_dir / SET_ASIDE, run_dir / SET_ASIDE_PARTLY)
    if not any(_is_config_of_run(folder / CONFIG_FILE) for folder in folders):
        raise RunError(
            f"the run folder {run_dir} holds files, but no {CONFIG_FILE} of an earlier run: nothing is written there. "
            f"Choose another --run_dir."
        )
    if not overwrite:
        go_on = "continue that run with --ckpt_path last, " if checkpoints_in(run_dir, "last") else ""
        raise RunError(
            f"the run folder {run_dir} holds an earlier run. Choose another --run_dir, {go_on}or replace it with "
            f"--overwrite."
        )


def _is_config_of_run(path: Path) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8", errors="replace").startswith(CONFIG_START)


def make_run_folder(run_dir: Path) -> None:
    """Make the folder of a run and see that something can be written there.

    Raises:
        RunError: nothing can.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=run_dir):
            pass
    except OSError as error:
        raise RunError(
            f"nothing can be written to the run folder {run_dir}: {error}. Choose another --run_dir."
        ) from error


def run_files(run_dir: Path) -> Iterator[Path]:
    """What a run has written, and nothing else. What a link leads to, on another disk for instance, is left out."""
    inside = run_dir.resolve()
    for pattern in WRITTEN:
        for path in [*run_dir.glob(pattern)]:
            if path.parent.resolve().is_relative_to(inside):
                yield path


def remove_run_files(run_dir: Path) -> None:
    """Remove what a run has written, and the folders of its logs that are then empty."""
    for path in run_files(run_dir):
        path.unlink()
    inside = run_dir.resolve()
    for folder in sorted(run_dir.glob(f"{LOGS}/**/"), reverse=True):  # those below first
        if folder.resolve().is_relative_to(inside) and not folder.is_symlink() and not any(folder.iterdir()):
            folder.rmdir()


def checkpoints_in(run_dir: Path, which: str = "") -> list[Path]:
    """The checkpoints of the run folder whose names start with `which`, the newest last."""
    there = [
        path
        for path in run_dir.rglob(f"{which}*.ckpt")
        if path.exists() and not any(part.startswith(SET_ASIDE) for part in path.relative_to(run_dir).parts)
    ]
    return sorted(there, key=lambda path: path.stat().st_mtime)


def find_checkpoint(run_dir: Path, which: str) -> Path:
    """The checkpoint of the run folder whose name starts with `which`, `"best"` or `"last"`; of the last, the newest.

    Raises:
        RunError: there is none, or there are several that are the best, by several monitors or with `save_top_k`; lists
            those there are.
    """
    there = checkpoints_in(run_dir)
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
        if checkpoints_in(run_dir, which):
            return find_checkpoint(run_dir, which)
    raise RunError(
        f"there is no best*.ckpt or last*.ckpt in the run folder {run_dir}. Train first (fit), name another --run_dir "
        f"or a checkpoint with --ckpt_path, or take the weights as constructed with --ckpt_path untrained."
    )
