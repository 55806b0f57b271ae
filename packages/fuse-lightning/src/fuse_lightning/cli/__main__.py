"""`python -m fuse_lightning.cli`, the same as `fuse-lightning`."""

import sys

from .main import main

if __name__ == "__main__":
    sys.exit(main())
