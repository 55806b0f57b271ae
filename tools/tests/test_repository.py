import pytest
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from tools.repository import changed_files, git, merge_base, package_at, released


def test_changed_files_are_those_committed_edited_moved_and_new(repository):
    base = merge_base(root=repository.root)
    repository.git("switch", "--quiet", "--create", "branch")
    repository.write("packages/fuse-core/README.md", "committed")
    repository.git(
        "mv", "packages/fuse-losses/changelog.d/+first.added.md", "packages/fuse-losses/changelog.d/+moved.added.md"
    )
    repository.commit()
    repository.write("packages/fuse-core/pyproject.toml", "edited")
    repository.write("naïve.txt", "new")
    assert changed_files(base, repository.root) == [
        "naïve.txt",
        "packages/fuse-core/README.md",
        "packages/fuse-core/pyproject.toml",
        "packages/fuse-losses/changelog.d/+first.added.md",
        "packages/fuse-losses/changelog.d/+moved.added.md",
    ]


def test_what_main_got_meanwhile_does_not_count(repository):
    repository.git("switch", "--quiet", "--create", "branch")
    repository.git("switch", "--quiet", "main")
    repository.write("packages/fuse-core/README.md", "on main")
    repository.commit()
    repository.git("switch", "--quiet", "branch")
    assert changed_files(merge_base(root=repository.root), repository.root) == []


def test_a_branch_without_main_is_told_to_name_one(repository):
    repository.git("branch", "--move", "trunk")
    with pytest.raises(RuntimeError, match="neither origin/main nor main exists: name the branch"):
        merge_base(root=repository.root)
    assert merge_base("trunk", repository.root) == git("rev-parse", "HEAD", root=repository.root)


def test_the_newest_release_within_a_range_is_found(repository):
    core = repository.packages["fuse-core"]
    assert released(core) is None
    for version in ("0.2.0", "0.2.10", "0.2.9", "0.3.0"):
        repository.commit(f"fuse-core-v{version}")
    assert released(core) == Version("0.3.0")
    assert released(core, SpecifierSet(">=0.2,<0.3")) == Version("0.2.10")
    assert released(core, SpecifierSet(">=0.4")) is None


def test_a_release_is_read_as_it_was(repository, tmp_path):
    repository.commit("fuse-core-v0.2.0")
    repository.move_version("core", "0.3.0")
    repository.commit()
    old = package_at(repository.packages["fuse-core"], Version("0.2.0"), tmp_path)
    assert old.version == Version("0.2.0")
    assert old.folder.is_relative_to(tmp_path)
