"""What went wrong for the user to mend, and how it is told: a message with the fix instead of a traceback."""

import difflib
import pickle
import traceback
from collections.abc import Iterable, Sequence
from types import FrameType
from typing import Self

from lightning_fabric.utilities.exceptions import MisconfigurationException

FAILURE = 1
USAGE = 2
INTERRUPTED = 130  # by convention, 128 and the number of the signal

SPEAKING_PACKAGES = (
    "fuse_core",
    "fuse_losses",
    "fuse_models",
    "fuse_optim",
    "fuse_lightning",
    "pytorch_lightning",
    "jsonargparse",
)
"""Packages whose errors are written for users. What others raise may come from a mistake in the user's own code."""


class UsageError(Exception):
    """The command line is wrong."""

    @classmethod
    def unknown(cls, what: str, got: str, known: Sequence[str]) -> Self:
        """The error for a name that is not among the known ones."""
        return cls(f"there is no {what} {got!r}.{did_you_mean(got, known)} There are: {', '.join(known)}.")


class ConfigurationError(Exception):
    """The configuration is wrong: one line for each problem.

    Attributes:
        problems: what is wrong and where.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return self.problems[0]
        return "\n".join([f"{len(self.problems)} problems in the configuration:", *(f"- {p}" for p in self.problems)])


class BuildError(Exception):
    """A class of the configuration did not take its arguments; the cause is what it raised."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(cause)
        # The parser wraps what a class raised in what it has to say itself.
        while _raised_by(cause) == "jsonargparse":
            inner = cause.__cause__ or cause.__context__
            if not isinstance(inner, Exception):
                break
            cause = inner
        self.cause = cause

    def own_code(self) -> str:
        """Where in other code than that of the packages it was raised, which may be the user's; empty for theirs."""
        if _raised_by(self.cause) in SPEAKING_PACKAGES:
            return ""
        steps = traceback.walk_tb(self.cause.__traceback__)
        frames = [step for step in steps if _package(step[0]) not in SPEAKING_PACKAGES]
        return "".join(traceback.StackSummary.extract(iter(frames)).format())

    def __str__(self) -> str:
        failed = _class_under_construction(self.cause)
        message = _own_words(self.cause)
        if failed is not None and not message.startswith(failed.__name__):
            message = f"{failed.__module__}.{failed.__qualname__} cannot be made: {message}"
        own_code = self.own_code()
        where = f"{type(self.cause).__name__}, raised here:\n{own_code}" if own_code else ""
        return f"{message}\n{where}(--traceback shows all of where it was raised)"


class RunError(Exception):
    """The run cannot start or go on as told."""


def did_you_mean(name: str, known: Iterable[str], count: int = 1) -> str:
    """A question with the nearest known name, `" Did you mean 'target'?"`; nothing where none is near."""
    nearest = difflib.get_close_matches(name, list(known), n=count, cutoff=0.5)
    return f" Did you mean {' or '.join(map(repr, nearest))}?" if nearest else ""


def short_message(error: Exception) -> str | None:
    """What to tell the user instead of a traceback; None where the traceback is what tells."""
    if isinstance(error, UsageError | ConfigurationError | BuildError | RunError):
        return str(error)
    if isinstance(error, pickle.UnpicklingError):
        return (
            "the checkpoint holds pickled objects, and loading them could run any code, so it was not loaded. If you "
            "trust whoever made it, add --weights_only false."
        )
    if isinstance(error, RuntimeError) and str(error).startswith("Error(s) in loading state_dict"):
        return f"the checkpoint is not of the model that the configuration describes. {error}"
    if isinstance(error, MisconfigurationException) or _raised_by(error) in SPEAKING_PACKAGES:
        return f"{_own_words(error)}\n(--traceback shows where it was raised)"
    return None


def _own_words(error: Exception) -> str:
    return str(error) or type(error).__name__


def _frames(error: Exception) -> list[FrameType]:
    """The frames from where the error was caught to where it was raised."""
    frames, trace = [], error.__traceback__
    while trace is not None:
        frames.append(trace.tb_frame)
        trace = trace.tb_next
    return frames


def _raised_by(error: Exception) -> str:
    """The top-level package whose code raised the error."""
    frames = _frames(error)
    return _package(frames[-1]) if frames else ""


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def _class_under_construction(error: Exception) -> type | None:
    """The class whose `__init__` raised the error, if one did; not one that is a part of another."""
    for frame in reversed(_frames(error)):
        if frame.f_code.co_name == "__init__" and "self" in frame.f_locals:
            made = type(frame.f_locals["self"])
            if not made.__name__.startswith("_"):
                return made
    return None
