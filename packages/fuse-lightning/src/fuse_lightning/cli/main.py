"""The entry point: chooses the command, prints help, and prints errors."""

import importlib.util
import logging
import os
import shlex
import sys
import traceback
import warnings
from importlib.resources import files

from fuse_core import did_you_mean
from fuse_lightning import __version__

from .errors import INTERRUPTED, TERMINATED, USAGE, UsageError, exit_code, short_message
from .help_texts import COMMAND_HELP, HELP
from .template import write_template

REQUIRED_MODULES = {"jsonargparse": "jsonargparse", "docstring_parser": "jsonargparse[signatures]"}
CONFIG_OPTIONS = ("-c", "--config")


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
        return exit_code(error)


def _run(arguments: list[str]) -> int:
    command, *rest = arguments or [""]
    if command in ("", "-h", "--help", "help"):
        print(HELP)  # noqa: T201
        return 0 if command else USAGE
    if command in ("-V", "--version"):
        print(f"fuse-lightning {__version__}")  # noqa: T201
    elif command not in COMMAND_HELP:
        near = did_you_mean(command, COMMAND_HELP)
        raise UsageError(f"there is no command {command!r}.{near} There are: {', '.join(COMMAND_HELP)}.")
    elif {"-h", "--help"} & set(rest):
        print(COMMAND_HELP[command])  # noqa: T201
    elif command == "template":
        write_template(rest)
    else:
        _run_configuration(command, ["--help" if argument == "--help_all" else argument for argument in rest])
    return 0


def _run_configuration(command: str, arguments: list[str]) -> None:
    missing = [name for module, name in REQUIRED_MODULES.items() if importlib.util.find_spec(module) is None]
    if missing:
        install = 'pip install "fuse-lightning[cli]"'
        raise UsageError(f"fuse-lightning {command} needs {' and '.join(missing)}. Install the extra: {install}")
    if not any(argument.partition("=")[0] in (*CONFIG_OPTIONS, "--model", "--help") for argument in arguments):
        if "--print_config" in arguments:
            print(files(__package__).joinpath("starting_point.yaml").read_text(encoding="utf-8"), end="")  # noqa: T201
            return
        named = [argument for argument in arguments if argument.endswith((".yaml", ".yml", ".json"))]
        raise UsageError(
            f"fuse-lightning {command} needs a configuration: fuse-lightning {command} --config "
            f"{shlex.quote((named or ['run.yaml'])[0])}. To start from one that runs: fuse-lightning fit "
            f"--print_config > run.yaml"
        )
    if arguments[-1] in CONFIG_OPTIONS:
        raise UsageError(f"{arguments[-1]} needs the configuration's path: fuse-lightning {command} --config run.yaml")
    sys.path.insert(0, os.getcwd())  # the user's own classes are imported from the current folder

    from .check_cli import CheckCLI
    from .run_cli import RunCLI

    with warnings.catch_warnings():
        # The run folder was checked before, and holds config.yaml by now.
        warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")
        # Lightning itself causes this warning, with a newer torch.
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated")
        logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(_is_no_advertisement)
        if command in ("check", "wiring"):
            CheckCLI(arguments)
        else:
            RunCLI([command, *arguments])


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    """Filters out Lightning's advertisements for other products; all other messages are shown."""
    return "Tip: For seamless cloud" not in record.getMessage()
