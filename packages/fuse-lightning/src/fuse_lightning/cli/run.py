"""`fuse-lightning fit`, `validate`, `test`, `predict` and `wiring`."""

import logging
import shlex
import warnings
from importlib.resources import files

from .errors import UsageError
from .run_cli import RunCLI
from .wiring_cli import WiringCLI

STARTING_POINT = "starting_point.yaml"


def run_command(command: str, arguments: list[str]) -> None:
    """Do what one command says.

    Raises:
        UsageError: no configuration.
    """
    arguments = ["--help" if argument == "--help_all" else argument for argument in arguments]
    if not any(argument.partition("=")[0] in ("-c", "--config", "--model", "--help") for argument in arguments):
        if "--print_config" in arguments:
            print(files(__package__).joinpath(STARTING_POINT).read_text(encoding="utf-8"), end="")  # noqa: T201
            return
        files_there = [argument for argument in arguments if argument.endswith((".yaml", ".yml", ".json"))]
        raise UsageError(
            f"fuse-lightning {command} needs a configuration: fuse-lightning {command} --config "
            f"{shlex.quote((files_there or ['run.yaml'])[0])}. To start from one that runs: fuse-lightning fit "
            f"--print_config > run.yaml"
        )
    if arguments[-1] in ("-c", "--config"):
        raise UsageError(f"{arguments[-1]} needs the configuration's path: fuse-lightning {command} --config run.yaml")
    with warnings.catch_warnings():
        # The run folder was looked at before, and holds config.yaml by now.
        warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")
        # Lightning's own, with a newer torch.
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated")
        logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(_is_no_advertisement)
        if command == "wiring":
            WiringCLI(arguments)
        else:
            RunCLI([command, *arguments])


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    """Whether a line of Lightning's is about the run, and not about a product to try."""
    return "Tip: For seamless cloud" not in record.getMessage()
