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


def find_checkpoint(run_dir: Path, which: str | None) -> str | None:
    """The path of a checkpoint; None for the initial weights.

    Args:
        run_dir: the run folder.
        which: a path, `"best"` for the run folder's best epoch, `"last"` for its newest `last` one, `"untrained"` for
            the initial weights, or None for the best one, or else the last one.

    Raises:
        RunError: there is none; or there are several best ones, from several monitors or `save_top_k`.
    """
    if which == UNTRAINED:
        return None
    if which is None:
        which = next((name for name in BY_NAME if checkpoints_in(run_dir, name)), None)
    if which is None:
        raise RunError(
            f"the run folder {run_dir} has no best or last checkpoint. Train first (fit), give another --run_dir, give "
            f"a checkpoint's path with --ckpt_path, or evaluate the initial weights with --ckpt_path {UNTRAINED}."
        )
    if which not in BY_NAME:
        if not Path(which).is_file() and "://" not in str(which):
            raise RunError(f"--ckpt_path {which}: there is no such file. Give a path, or best or last.")
        return str(which)
    named = checkpoints_in(run_dir, which)
    if which == "best" and len(named) > 1:
        raise RunError(f"several checkpoints are the best; choose one with --ckpt_path: {', '.join(map(str, named))}.")
    if named:
        return str(named[-1])
    there = ", ".join(map(str, checkpoints_in(run_dir)))
    others = f" There are: {there}." if there else " It holds no checkpoint: has the run started?"
    raise RunError(f"--ckpt_path {which}: the run folder {run_dir} has no checkpoint called {which}*.ckpt.{others}")
