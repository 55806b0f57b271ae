"""The walkthrough's command line: `python -m fuse_lightning.walkthrough --help`."""

import argparse
import sys

from .files import STYLES


def main(arguments: list[str] | None = None) -> None:
    """Run the template in the requested style."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "--style",
        choices=STYLES,
        default="ready-made",
        help="LightningModuleDefault, or a LightningModule written from the step functions (default: ready-made)",
    )
    style = parser.parse_known_args(arguments)[0].style
    try:
        from .template import module_custom, module_ready_made, run
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing.startswith("fuse_lightning"):
            raise
        sys.exit(f'error: the walkthrough needs {missing}: pip install "fuse-lightning[walkthrough]"')

    modules = {module.STYLE: module for module in (module_ready_made, module_custom)}
    command = "python -m fuse_lightning.walkthrough"
    run.main(
        arguments,
        command=command if style == "ready-made" else f"{command} --style {style}",
        style=style,
        make_module=modules[style].make_module,
        parents=[parser],
    )


if __name__ == "__main__":
    main()
