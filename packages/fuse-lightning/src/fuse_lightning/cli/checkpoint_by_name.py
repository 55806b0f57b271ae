"""The checkpoint that a command starts from: `best` or `last` of the run folder, or one by its path."""

from pathlib import Path

from .errors import RunError
from .file_names import EARLIER_RUN

BY_NAME = ("best", "last")  # a checkpoint of either kind has a name that begins so
UNTRAINED = "untrained"


def checkpoints_in(run_dir: Path, start: str = "") -> list[Path]:
    """The checkpoints in the run folder whose names begin with `start`, the newest last."""
    there = [
        path
        for path in run_dir.rglob(f"{start}*.ckpt")
        if path.exists() and not any(part.startswith(EARLIER_RUN) for part in path.relative_to(run_dir).parts)
    ]
    return sorted(there, key=lambda path: path.stat().st_mtime)


def find_checkpoint(run_dir: Path, which: str) -> Path:
    """The run folder's checkpoint of the best epoch, `"best"`, or the newest one, `"last"`.

    Raises:
        RunError: there is none; or there are several best ones, from several monitors or `save_top_k`.
    """
    there = checkpoints_in(run_dir)
    named = [path for path in there if path.name.startswith(which)]
    if which == "best" and len(named) > 1:
        raise RunError(f"several checkpoints are the best; choose one with --ckpt_path: {', '.join(map(str, named))}.")
    if named:
        return named[-1]
    others = f" There are: {', '.join(map(str, there))}." if there else " It holds no checkpoint: has the run started?"
    raise RunError(f"--ckpt_path {which}: the run folder {run_dir} has no checkpoint called {which}*.ckpt.{others}")


def find_checkpoint_to_evaluate(run_dir: Path) -> Path:
    """The run folder's best checkpoint, or the last one where there is no best one.

    Raises:
        RunError: there is neither, or there are several best ones.
    """
    for which in BY_NAME:
        if checkpoints_in(run_dir, which):
            return find_checkpoint(run_dir, which)
    raise RunError(
        f"the run folder {run_dir} has no best or last checkpoint. Train first (fit), give another --run_dir, give a "
        f"checkpoint's path with --ckpt_path, or evaluate the initial weights with --ckpt_path {UNTRAINED}."
    )
