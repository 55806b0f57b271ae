import pytest

from tools.changed import affected, without_fragment


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (
            "packages/fuse-core/src/fuse_core/ndict.py",
            {
                "fuse-core": "packages/fuse-core/src/fuse_core/ndict.py changed",
                "fuse-lightning": "needs fuse-core",
                "fuse-losses": "needs fuse-core",
            },
        ),
        ("packages/fuse-losses/README.md", {"fuse-losses": "packages/fuse-losses/README.md changed"}),
        ("packages/fuse-optim/tests/test_sam.py", {"fuse-optim": "packages/fuse-optim/tests/test_sam.py changed"}),
    ],
)
def test_a_file_affects_its_package_and_those_that_need_it(repository, file, expected):
    assert affected([file], repository.packages) == expected


@pytest.mark.parametrize("file", ["docs/index.md", "noxfile.py", "packages/README.md"])
def test_a_file_outside_the_packages_affects_all(repository, file):
    reasons = affected(["packages/fuse-core/README.md", file], repository.packages)
    assert reasons == dict.fromkeys(repository.packages, f"{file} is outside the packages")


def test_no_change_affects_nothing(repository):
    assert affected([], repository.packages) == {}


def test_a_changed_source_needs_a_fragment_of_the_same_change(repository):
    source = "packages/fuse-losses/src/fuse_losses/dice.py"
    packages = repository.packages
    assert without_fragment([source], packages) == ["fuse-losses"]
    assert without_fragment([source, "packages/fuse-core/changelog.d/+first.added.md"], packages) == ["fuse-losses"]
    assert without_fragment([source, "packages/fuse-losses/changelog.d/+first.added.md"], packages) == []


def test_a_removed_fragment_does_not_count(repository):
    files = ["packages/fuse-losses/src/fuse_losses/dice.py", "packages/fuse-losses/changelog.d/+gone.fixed.md"]
    assert without_fragment(files, repository.packages) == ["fuse-losses"]


def test_tests_pages_and_the_version_need_no_fragment(repository):
    files = [
        "packages/fuse-losses/src/fuse_losses/__about__.py",
        "packages/fuse-losses/tests/test_dice.py",
        "packages/fuse-losses/README.md",
    ]
    assert without_fragment(files, repository.packages) == []
