import pytest

from tools.documented_install import install_commands
from tools.packages import PACKAGES, ROOT

READMES = [ROOT / "README.md", *(package.folder / "README.md" for package in PACKAGES.values())]


def test_the_commands_of_the_section_are_found():
    readme = (
        "# A\n\n## Install\n\n```\npip install ./a\n```\n\nOr `pip install a`.\n\n## Use\n\n```\npip install b\n```\n"
    )
    assert install_commands(readme) == ["pip install ./a"]


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.parent.name)
def test_each_readme_installs_from_a_clone_and_from_wheels(readme):
    clone, wheels = install_commands(readme.read_text(encoding="utf-8"))
    assert clone.startswith("pip install ./packages/fuse-")
    assert wheels.startswith("pip install --find-links dist fuse-")
