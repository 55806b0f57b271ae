import subprocess
import sys

import fuse_lightning


def test_what_is_heavy_is_imported_when_it_is_used():
    heavy = ["pandas", "matplotlib", "tensorboard", "sklearn", "pyarrow", "jsonargparse"]
    code = (
        "import sys, pytorch_lightning; before = set(sys.modules); import fuse_lightning; "
        f"print(sorted(name for name in {heavy} if name in set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_dir_shows_the_public_names_alone():
    assert dir(fuse_lightning) == sorted(fuse_lightning.__all__)
