"""The walkthrough's command line: `python -m fuse_lightning.walkthrough --help`."""

import argparse

from .files import STYLES
from .template import module_custom, module_ready_made, run

MODULES = {module.STYLE: module for module in (module_ready_made, module_custom)}


def main(arguments: list[str] | None = None) -> None:
    """Run the template in the style that was asked for."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "--style",
        choices=STYLES,
        default="ready-made",
        help="LightningModuleDefault, or a LightningModule written from the step functions (default: ready-made)",
    )
    style = parser.parse_known_args(arguments)[0].style
    command = "python -m fuse_lightning.walkthrough"
    run.main(
        arguments,
        command=command if style == "ready-made" else f"{command} --style {style}",
        style=style,
        make_module=MODULES[style].make_module,
        parents=[parser],
    )


if __name__ == "__main__":
    main()
