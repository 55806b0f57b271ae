"""What is in the wheels and sdists, and what their metadata says."""

import email
import functools
import re
import shutil
import subprocess
import tarfile
import zipfile

import pytest

from tools.packages import PACKAGES, PYTHON_VERSIONS, ROOT
from tools.repository import git

pytestmark = pytest.mark.parametrize("package", PACKAGES.values(), ids=lambda package: package.short_name)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A function that returns a package's wheel and sdist, built once."""

    @functools.cache
    def build(folder):
        target = tmp_path_factory.mktemp("dist")
        subprocess.run(["uv", "build", "--quiet", "--wheel", "--sdist", "--out-dir", target, folder], check=True)
        return {"wheel": next(target.glob("*.whl")), "sdist": next(target.glob("*.tar.gz"))}

    return build


def tracked(package, *folders):
    """The files of a package that git knows, below some of its folders."""
    listing = git("ls-files", "--cached", "--others", "--exclude-standard", "--", *folders, root=package.folder)
    return {name for name in listing.splitlines() if (package.folder / name).exists()}


def test_the_wheel_holds_the_source_and_its_metadata_only(package, built):
    info = f"{package.import_name}-{package.version}.dist-info"
    expected = {name.removeprefix("src/") for name in tracked(package, "src")}
    expected |= {f"{info}/{name}" for name in ("METADATA", "RECORD", "WHEEL", "licenses/LICENSE")}
    if "scripts" in package.pyproject["project"]:
        expected.add(f"{info}/entry_points.txt")
    with zipfile.ZipFile(built(package.folder)["wheel"]) as wheel:
        assert set(wheel.namelist()) == expected
    assert f"{package.import_name}/py.typed" in expected


def test_the_sdist_holds_source_tests_and_pages(package, built):
    root = f"{package.import_name}-{package.version}"
    expected = tracked(package, "src", "tests", "README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml")
    with tarfile.open(built(package.folder)["sdist"]) as sdist:
        names = {member.name.removeprefix(f"{root}/") for member in sdist.getmembers() if member.isfile()}
    assert names - {"PKG-INFO", ".gitignore"} == expected


def test_wheel_and_sdist_have_the_same_metadata(package, built):
    with zipfile.ZipFile(built(package.folder)["wheel"]) as wheel:
        metadata = wheel.read(f"{package.import_name}-{package.version}.dist-info/METADATA")
    with tarfile.open(built(package.folder)["sdist"]) as sdist:
        assert sdist.extractfile(f"{package.import_name}-{package.version}/PKG-INFO").read() == metadata


def test_a_second_build_from_another_folder_gives_the_same_bytes(package, built, tmp_path):
    shutil.copy(ROOT / ".gitignore", tmp_path)
    copy = shutil.copytree(package.folder, tmp_path / package.folder.name)
    again = built(copy)
    for kind, file in built(package.folder).items():
        assert file.read_bytes() == again[kind].read_bytes(), kind


def test_classifiers_name_what_is_tested(package, built):
    with zipfile.ZipFile(built(package.folder)["wheel"]) as wheel:
        text = wheel.read(f"{package.import_name}-{package.version}.dist-info/METADATA").decode()
    metadata = email.message_from_string(text)
    classifiers = metadata.get_all("Classifier")
    versions = [
        c.rpartition(" ")[2] for c in classifiers if re.fullmatch(r"Programming Language :: Python :: 3\.\d+", c)
    ]
    assert versions == list(PYTHON_VERSIONS)
    assert metadata["Requires-Python"] == f">={PYTHON_VERSIONS[0]}"
    assert "Operating System :: POSIX :: Linux" in classifiers
    assert metadata["Keywords"]


def test_the_readme_has_no_link_that_an_index_page_breaks(package):
    text = (package.folder / "README.md").read_text(encoding="utf-8")
    assert [link for link in re.findall(r"\]\((.+?)\)", text) if not link.startswith(("https://", "#"))] == []


def test_the_license_is_that_of_the_repository(package):
    assert (package.folder / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
