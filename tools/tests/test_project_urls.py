import shutil
import tomllib
from pathlib import Path

from tools.packages import PACKAGES, Package
from tools.project_urls import project_urls, set_urls

ADDRESS = "https://example.org/fuse"


def test_addresses_are_written_once_and_replaced(tmp_path):
    for package in PACKAGES.values():
        file = Path(shutil.copy(package.folder / "pyproject.toml", tmp_path))
        copy = Package(tmp_path, package.pyproject)
        set_urls(copy, "https://example.org/elsewhere")
        set_urls(copy, f"{ADDRESS}/")
        written = tomllib.loads(file.read_text())
        assert written["project"].pop("urls") == project_urls(copy, ADDRESS)
        others = {label: value for label, value in package.pyproject["project"].items() if label != "urls"}
        assert written == package.pyproject | {"project": others}


def test_all_packages_have_addresses_of_one_repository_or_none():
    urls = [package.pyproject["project"].get("urls", {}) for package in PACKAGES.values()]
    assert len({found.get("Issues") for found in urls}) == 1
