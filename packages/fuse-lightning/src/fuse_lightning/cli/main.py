"""The entry point: chooses the command, prints help, and prints errors."""

import importlib.util
import os
import sys
import traceback

from fuse_core import WiringError, did_you_mean
from fuse_lightning import __version__

from .errors import FAILURE, INTERRUPTED, TERMINATED, USAGE, ConfigurationError, UsageError, short_message
from .help_texts import COMMAND_HELP, HELP
from .template import write_template

REQUIRED_MODULES = {"jsonargparse": "jsonargparse", "docstring_parser": "jsonargparse[signatures]"}


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code: 0, 1 for a failure, 2 for wrong usage, a wrong configuration or parts that do not fit, 130 after
        Ctrl-C, 143 after SIGTERM.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    show_traceback = "--traceback" in given
    try:
        return _run([argument for argument in given if argument != "--traceback"])
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as exit_request:
        # Lightning has shut down.
        if isinstance(exit_request.__context__, KeyboardInterrupt):
            return INTERRUPTED
        if type(exit_request).__name__ == "SIGTERMException":
            return TERMINATED
        raise
    except Exception as error:
        message = short_message(error)
        if show_traceback or message is None:
            traceback.print_exc()
        else:
            print(f"error: {message}", file=sys.stderr)  # noqa: T201
        is_usage = isinstance(error, UsageError | ConfigurationError | WiringError)
        return USAGE if is_usage or getattr(error, "is_refusal", False) else FAILURE


def _run(arguments: list[str]) -> int:
    command, *rest = arguments or [""]
    if command in ("", "-h", "--help", "help"):
        print(HELP)  # noqa: T201
        return 0 if command else USAGE
    if command in ("-V", "--version"):
        print(f"fuse-lightning {__version__}")  # noqa: T201
        return 0
    if command not in COMMAND_HELP:
        near = did_you_mean(command, COMMAND_HELP)
        raise UsageError(f"there is no command {command!r}.{near} There are: {', '.join(COMMAND_HELP)}.")
    if {"-h", "--help"} & set(rest):
        print(COMMAND_HELP[command])  # noqa: T201
    elif command == "template":
        write_template(rest)
    else:
        _run_configuration(command, rest)
    return 0


def _run_configuration(command: str, arguments: list[str]) -> None:
    missing = [name for module, name in REQUIRED_MODULES.items() if importlib.util.find_spec(module) is None]
    if missing:
        install = 'pip install "fuse-lightning[cli]"'
        raise UsageError(f"fuse-lightning {command} needs {' and '.join(missing)}. Install the extra: {install}")
    sys.path.insert(0, os.getcwd())  # the user's own classes are imported from the current folder

    from .run_command import run_command

    run_command(command, arguments)
