"""`fuse-lightning template`: writes the walkthrough as a project of the user's own."""

import argparse
import shlex
from pathlib import Path

from fuse_lightning.walkthrough.files import STYLES, template_files

from .errors import RunError


def write_template(arguments: list[str]) -> None:
    """Write the project and print what to run next.

    Raises:
        RunError: the folder is not empty, or is a file.
        SystemExit: the arguments are wrong.
    """
    parser = argparse.ArgumentParser(prog="fuse-lightning template", add_help=False)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--style", choices=STYLES, default=STYLES[0])
    options = parser.parse_args(arguments)
    folder: Path = options.folder
    if folder.is_file():
        raise RunError(f"{folder} is a file. Choose another folder.")
    if folder.is_dir() and any(folder.iterdir()):
        raise RunError(f"{folder} is not empty, and nothing there is overwritten. Choose another folder.")
    texts = template_files(options.style)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    print(f"Wrote {len(texts)} files to {folder}: {', '.join(sorted(texts))}.\n")  # noqa: T201
    print('Next:\n  pip install "fuse-lightning[walkthrough]"')  # noqa: T201
    print(f"  cd {shlex.quote(str(folder))}\n  python run.py --help\n  python run.py")  # noqa: T201
