"""The entry point: which command, its help, and how errors are told."""

import importlib.util
import os
import sys
import traceback

from fuse_lightning import __version__

from .errors import FAILURE, INTERRUPTED, USAGE, ConfigurationError, UsageError, short_message
from .help_texts import COMMAND_HELP, HELP
from .template import write_template

TRAINER_COMMANDS = ("fit", "validate", "test", "predict", "wiring")
COMMANDS = (*TRAINER_COMMANDS, "template")
REQUIRED_MODULES = {"jsonargparse": "jsonargparse", "docstring_parser": "jsonargparse[signatures]"}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 1 for a failure, 2 for wrong usage, 130 when interrupted."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    show_traceback = "--traceback" in given
    given = [argument for argument in given if argument != "--traceback"]
    try:
        return _run(given)
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as exit_request:
        if isinstance(exit_request.__context__, KeyboardInterrupt):  # Lightning has shut down and exits with 1
            return INTERRUPTED
        raise
    except Exception as error:
        message = short_message(error)
        if show_traceback or message is None:
            traceback.print_exc()
        else:
            _print_error(message)
        return USAGE if isinstance(error, UsageError | ConfigurationError) else FAILURE


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP)  # noqa: T201
        return 0 if arguments else USAGE
    if arguments[0] in ("-V", "--version"):
        print(f"fuse-lightning {__version__}")  # noqa: T201
        return 0
    command, *rest = arguments
    if command not in COMMANDS:
        raise UsageError.unknown("command", command, COMMANDS)
    if {"-h", "--help"} & set(rest):
        print(COMMAND_HELP[command])  # noqa: T201
        return 0
    if command == "template":
        write_template(rest)
        return 0
    return _run_trainer_command(command, rest)


def _run_trainer_command(command: str, arguments: list[str]) -> int:
    missing = [name for module, name in REQUIRED_MODULES.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise UsageError(
            f"fuse-lightning {command} needs {' and '.join(missing)}, which the extra brings: "
            f'pip install "fuse-lightning[cli]"'
        )
    sys.path.insert(0, os.getcwd())  # classes of the user's own are imported from where the command runs

    from .run import run_command

    run_command(command, arguments)
    return 0


def _print_error(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)  # noqa: T201
