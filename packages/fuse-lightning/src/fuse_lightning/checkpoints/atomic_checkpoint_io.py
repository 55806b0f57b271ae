"""Checkpoint files that are written whole or not at all, and read without running code."""

import pickle
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy

from .atomic_file import replace_file
from .weights_only_values import as_plain


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside the old one and renames it; reads tensors and plain values only.

    `model_default_callbacks` uses it instead of Lightning's own class, which writes to the system's temporary folder
    first. If that folder is on another disk, Lightning copies the file over the previous checkpoint, and a crash leaves
    half a file. To use this class without those callbacks, pass `Trainer(plugins=[AtomicCheckpointIO()])`. Paths with
    a protocol, such as `s3://`, are left to Lightning.

    Example:
        >>> import tempfile
        >>> path = f"{tempfile.mkdtemp()}/last.ckpt"
        >>> AtomicCheckpointIO().save_checkpoint({"epoch": 3, "state_dict": {"weight": torch.ones(2)}}, path)
        >>> AtomicCheckpointIO().load_checkpoint(path)
        {'epoch': 3, 'state_dict': {'weight': tensor([1., 1.])}}
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write a checkpoint. NumPy's numbers and arrays, paths and the like become plain values.

        Raises:
            NotPlainError: the checkpoint holds an object that could not be read again; the message says where.
            OSError: the disk is full, for instance. The previous file is unchanged.
            KeyboardInterrupt: Ctrl-C was pressed meanwhile. The previous file is unchanged.
        """
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        checkpoint = as_plain(checkpoint)
        handled = sys.exception()
        try:
            with replace_file(path) as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:
            cause = _cause(error, handled)
            if isinstance(cause, KeyboardInterrupt):
                raise cause from None
            if cause is None:
                raise
            kept = "The previous one is intact" if Path(path).exists() else "There was none before"
            raise OSError(
                cause.errno,
                f"The checkpoint {path} could not be written: {cause.strerror}. {kept}. Make room, then continue with "
                f"Trainer.fit(ckpt_path=)",
            ) from error

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Callable[..., Any] | None = lambda storage, _: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a checkpoint.

        Args:
            path: the file.
            map_location: see `torch.load`.
            weights_only: None and True refuse pickled objects, which could run code; False trusts the file.

        Raises:
            ValueError: the file holds pickled objects, or is not a complete checkpoint.
        """
        try:
            return super().load_checkpoint(path, map_location, weights_only is not False)
        except pickle.UnpicklingError as error:
            if not _looks_like_a_checkpoint(path):  # the page of a failed download for instance
                raise _unreadable(path, "it is neither an archive nor a pickle") from error
            found = re.search(r"GLOBAL (\S+)", str(error))
            what = f" ({found[1]})" if found else ""
            raise ValueError(
                f"The checkpoint {path} holds pickled Python objects{what}, which could run code "
                f"when read, and was refused. If you trust where it comes from, pass weights_only=False to "
                f"Trainer.fit, validate, test or predict."
            ) from error
        except (EOFError, LookupError, RuntimeError) as error:
            raise _unreadable(path, f"{type(error).__name__}: {error}") from error


def check_before_training(trainer: pl.Trainer) -> None:
    """Make a checkpoint and check that its values are plain, without writing it. Call it on every process.

    Raises:
        NotPlainError: see `AtomicCheckpointIO.save_checkpoint`.
    """
    strategy = trainer.strategy
    chosen = strategy.checkpoint_io
    if isinstance(chosen, AtomicCheckpointIO) and isinstance(strategy, SingleDeviceStrategy | DDPStrategy):
        strategy.checkpoint_io = _Check()
        try:
            trainer.save_checkpoint("")
        finally:
            strategy.checkpoint_io = chosen


class _Check(TorchCheckpointIO):
    """Checks a checkpoint that is not written."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        as_plain(checkpoint)


def _looks_like_a_checkpoint(path: str | Path) -> bool:
    """Whether the file starts like an archive or a pickle; True if it cannot be opened here."""
    try:
        with Path(path).open("rb") as file:
            return file.read(4).startswith((b"PK", b"\x80"))
    except OSError:
        return True


def _unreadable(path: str | Path, detail: str) -> ValueError:
    return ValueError(
        f"The checkpoint {path} cannot be read: it is cut off, damaged, or no checkpoint. Take another one ({detail})."
    )


def _cause(error: BaseException | None, handled: BaseException | None) -> OSError | KeyboardInterrupt | None:
    """The disk's error, or Ctrl-C, that caused an error of torch's writer.

    Args:
        error: the error that saving raised.
        handled: the exception that was being handled when saving began. It is not a cause.
    """
    while error is not None and error is not handled:
        if isinstance(error, OSError | KeyboardInterrupt):
            return error
        error = error.__cause__ or error.__context__
    return None
