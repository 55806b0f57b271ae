import pytest

from tools.public_api import breaking_changes

INIT = "from .losses import Loss, focal\n\n__all__ = ['Loss', 'focal', '__version__']\n__version__ = '1'\n"
LOSSES = """
def focal(logits, target, gamma=2.0): ...


def _clamp(x): ...


class _Base:
    def __init__(self, pred, target): ...
    def compute(self, logits): ...


class Loss(_Base):
    def reset(self): ...
    def _check(self): ...
"""


def write(folder, init=INIT, losses=LOSSES, file="losses"):
    (folder / "package" / "functional").mkdir(parents=True)
    (folder / "package" / "__init__.py").write_text(init.replace(".losses", f".{file}"))
    (folder / "package" / f"{file}.py").write_text(losses)
    (folder / "package" / "functional" / "__init__.py").write_text(f"from ..{file} import focal\n__all__ = ['focal']\n")
    return folder


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("gamma=2.0", "gamma=2.0, alpha=None", []),
        ("_clamp", "_clip", []),
        ("def _check(self)", "def _check(self, more)", []),
        ("def reset(self): ...", "def reset(self): ...\n    def compute(self, logits): ...", []),
        ("logits, target, gamma", "logits, gamma", "focal: Parameter was removed target"),
        ("pred, target)", "pred, target, mask)", "_Base.__init__: Parameter was added as required"),
        ("def compute", "def calculate", "Loss.compute: Public object was removed compute"),
        ("def reset", "def clear", "Loss.reset: Public object was removed reset"),
        ("def compute(self, logits): ...", "", "Loss.compute: Public object was removed compute"),
    ],
)
def test_changes_that_break_a_users_code_are_reported(tmp_path, old, new, expected):
    before = write(tmp_path / "old")
    after = write(tmp_path / "new", losses=LOSSES.replace(old, new))
    changes = breaking_changes("package", before, after)
    assert any(expected in change for change in changes) if expected else changes == []


def test_a_moved_file_and_a_new_version_break_nothing(tmp_path):
    before = write(tmp_path / "old")
    after = write(tmp_path / "new", init=INIT.replace("'1'", "'2'"), file="rooms")
    assert breaking_changes("package", before, after) == []


def test_a_subpackage_counts(tmp_path):
    before, after = write(tmp_path / "old"), write(tmp_path / "new")
    (after / "package" / "functional" / "__init__.py").write_text("__all__ = []\n")
    assert breaking_changes("package", before, after) == ["package.functional.focal: Public object was removed focal"]
