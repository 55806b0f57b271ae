"""`fuse-lightning fit`, `validate`, `test`, `predict` and `wiring`."""

import logging
import shlex
import warnings
from importlib.resources import files

from .errors import UsageError
from .run_cli import RunCLI
from .wiring_cli import WiringCLI

CONFIG_OPTIONS = ("-c", "--config")


def run_command(command: str, arguments: list[str]) -> None:
    """Run one command.

    Raises:
        UsageError: no configuration was given.
    """
    arguments = ["--help" if argument == "--help_all" else argument for argument in arguments]
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
    with warnings.catch_warnings():
        # The run folder was checked before, and holds config.yaml by now.
        warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")
        # Lightning itself causes this warning, with a newer torch.
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated")
        logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(is_no_advertisement)
        if command == "wiring":
            WiringCLI(arguments)
        else:
            RunCLI([command, *arguments])


def is_no_advertisement(record: logging.LogRecord) -> bool:
    """Filters out Lightning's advertisements for other products; all other messages are shown."""
    return "Tip: For seamless cloud" not in record.getMessage()
