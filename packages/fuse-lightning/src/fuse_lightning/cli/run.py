"""`fuse-lightning fit`, `validate`, `test`, `predict` and `wiring`."""

import logging
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
        raise UsageError(
            f"fuse-lightning {command} needs a configuration: fuse-lightning {command} --config run.yaml. To start "
            f"from one that runs: fuse-lightning fit --print_config > run.yaml"
        )
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
