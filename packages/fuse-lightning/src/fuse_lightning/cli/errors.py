"""Errors that the user can fix, and how they are printed: a message with the fix instead of a traceback."""

import pickle
import re
import traceback
from types import FrameType

from lightning_fabric.utilities.exceptions import MisconfigurationException

from fuse_core import WiringError

FAILURE = 1
USAGE = 2
INTERRUPTED = 130  # by convention, 128 plus the number of the signal
TERMINATED = 143

SPEAKING_PACKAGES = (
    "fuse_core",
    "fuse_losses",
    "fuse_models",
    "fuse_optim",
    "fuse_lightning",
    "pytorch_lightning",
    "lightning_fabric",
    "jsonargparse",
)
"""Packages whose errors are written for users. An error of any other package may be a mistake in the user's code."""

OPTIONS = {
    "pass weights_only=False to Trainer.fit, validate, test or predict": "add --weights_only false",
    "continue with Trainer.fit(ckpt_path=)": "continue with --ckpt_path last",
}
"""Advice for Python programs, and what it is on the command line."""


class RunError(Exception):
    """The run cannot start or continue."""

    exit_code = FAILURE


class UsageError(RunError):
    """The command line or the configuration is wrong; the message has one line for each problem."""

    exit_code = USAGE

    def __init__(self, *problems: str) -> None:
        title = f"{len(problems)} problems in the configuration:"
        super().__init__(problems[0] if len(problems) == 1 else "\n- ".join([title, *problems]))


class BuildError(RunError):
    """A class of the configuration could not be made; the message repeats what it raised.

    It is wrong usage if the class refused its arguments, and a failure if code failed that may be the user's.
    """

    def __init__(self, cause: Exception) -> None:
        # The parser wraps what a class raised in an error of its own.
        while _raised_by(cause) == "jsonargparse" and isinstance(cause.__cause__ or cause.__context__, Exception):
            cause = cause.__cause__ or cause.__context__  # type: ignore[assignment]
        message = _message_of(cause)
        failed = _class_under_construction(cause)
        if failed is not None and not message.startswith(failed.__name__):
            message = f"{failed.__module__}.{failed.__qualname__} cannot be made: {message}"
        if _raised_by(cause) in SPEAKING_PACKAGES:
            self.exit_code = USAGE
        else:  # it may be the user's code: show the part outside the packages
            steps = traceback.walk_tb(cause.__traceback__)
            outside = [step for step in steps if _package(step[0]) not in SPEAKING_PACKAGES]
            lines = "".join(traceback.StackSummary.extract(iter(outside)).format())
            message = f"{message}\n{type(cause).__name__}, raised here:\n{lines.rstrip()}"
        super().__init__(f"{message}\n(--traceback shows the whole traceback)")


def exit_code(error: Exception) -> int:
    """What the program returns after an error."""
    if isinstance(error, RunError):
        return error.exit_code
    return USAGE if isinstance(error, WiringError) else FAILURE


def short_message(error: Exception) -> str | None:
    """What to print instead of a traceback; None if the traceback should be printed."""
    if isinstance(error, RunError):
        return str(error)
    if isinstance(error, pickle.UnpicklingError):
        return (
            "the checkpoint holds pickled objects. Loading them could run any code, so it was not loaded. If you trust "
            "its author, add --weights_only false."
        )
    if isinstance(error, RuntimeError) and str(error).startswith("Error(s) in loading state_dict"):
        return f"the checkpoint does not fit the model in the configuration. {error}"
    if isinstance(error, MisconfigurationException) or _raised_by(error) in SPEAKING_PACKAGES:
        return f"{_message_of(error)}\n(--traceback shows the whole traceback)"
    return None


def _message_of(error: Exception) -> str:
    message = "\n".join([str(error) or type(error).__name__, *getattr(error, "__notes__", ())])
    for python, option in OPTIONS.items():
        message = message.replace(python, option)
    message = re.sub(r"LightningModuleDefault\((\w+)='(\w+)'\)", r"--model.init_args.\1 \2", message)
    return re.sub(r"LightningModuleDefault\((\w+)=[^()]*\)", r"model.init_args.\1", message)


def _frames(error: Exception) -> list[FrameType]:
    """The frames from where the error was caught to where it was raised."""
    return [frame for frame, _ in traceback.walk_tb(error.__traceback__)]


def _raised_by(error: Exception) -> str:
    """The top-level package whose code raised the error."""
    frames = _frames(error)
    return _package(frames[-1]) if frames else ""


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def _class_under_construction(error: Exception) -> type | None:
    """The class whose `__init__` raised the error, if one did; private classes are parts of others and do not count."""
    for frame in reversed(_frames(error)):
        if frame.f_code.co_name == "__init__" and "self" in frame.f_locals:
            made = type(frame.f_locals["self"])
            if not made.__name__.startswith("_"):
                return made
    return None
