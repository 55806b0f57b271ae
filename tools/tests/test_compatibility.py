import pytest

from tools.compatibility import combinations, siblings_at_minimum


def names(repository, package, folder):
    found, skipped = combinations(repository.packages[package], repository.packages, folder)
    return [combination.name for combination in found], skipped


def test_without_releases_nothing_is_tested_and_each_reason_is_given(repository, tmp_path):
    found, skipped = names(repository, "fuse-core", tmp_path)
    assert found == []
    assert skipped == ["fuse-lightning has no release yet.", "fuse-losses has no release yet."]
    assert names(repository, "fuse-losses", tmp_path)[1] == [
        "fuse-lightning has no release yet.",
        "No sibling that fuse-losses needs has a release in the range it declares.",
    ]


def test_a_new_core_is_tested_by_the_released_dependents(repository, tmp_path):
    repository.commit("fuse-losses-v0.2.0", "fuse-core-v0.2.0")
    repository.move_version("core", "0.2.1")
    core = repository.packages["fuse-core"]
    [combination], skipped = combinations(core, repository.packages, tmp_path)
    assert combination.name == "fuse-core of the working tree with the released fuse-losses 0.2.0"
    assert combination.tested.folder.is_relative_to(tmp_path)
    assert combination.packages["fuse-core"].version == core.version
    assert skipped == ["fuse-lightning has no release yet."]


def test_a_dependent_whose_range_leaves_the_new_version_out_is_skipped(repository, tmp_path):
    repository.commit("fuse-losses-v0.2.0")
    repository.move_version("core", "0.3.0")
    found, skipped = names(repository, "fuse-core", tmp_path)
    assert found == []
    assert "fuse-losses 0.2.0 needs fuse-core<0.3,>=0.2, which leaves out 0.3.0." in skipped


def test_a_new_dependent_is_tested_with_the_released_core_of_its_range(repository, tmp_path):
    repository.commit("fuse-core-v0.2.0", "fuse-core-v0.2.1")
    found, _ = names(repository, "fuse-losses", tmp_path)
    assert found == ["fuse-losses of the working tree with the released fuse-core 0.2.0"]  # what the tag holds


def test_a_lowest_sibling_is_the_release_or_the_working_tree(repository, tmp_path):
    losses = repository.packages["fuse-losses"]
    assert siblings_at_minimum(losses, repository.packages, tmp_path)["fuse-core"].root == repository.root
    repository.commit("fuse-core-v0.2.0")
    repository.move_version("core", "0.2.5")
    old = siblings_at_minimum(losses, repository.packages, tmp_path)["fuse-core"]
    assert str(old.version) == "0.2.0"
    assert old.folder.is_relative_to(tmp_path)


def test_a_lowest_sibling_that_is_nowhere_is_refused(repository, tmp_path):
    repository.move_version("core", "0.2.5")
    with pytest.raises(ValueError, match=r"fuse-core 0\.2 is neither released nor in this working tree"):
        siblings_at_minimum(repository.packages["fuse-losses"], repository.packages, tmp_path)
