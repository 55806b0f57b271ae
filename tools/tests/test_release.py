import pytest
from packaging.version import Version

from tools.release import next_version, ranges_that_leave_out, set_version, source_problems


@pytest.mark.parametrize(("part", "expected"), [("patch", "0.2.2"), ("minor", "0.3.0"), ("major", "1.0.0")])
def test_a_part_moves_and_the_parts_after_it_start_again(part, expected):
    assert next_version(Version("0.2.1"), part) == Version(expected)


def test_a_version_is_written_where_it_is_read(repository):
    core = repository.packages["fuse-core"]
    set_version(core, Version("0.3.0"))
    assert core.version == Version("0.3.0")


def test_ranges_that_must_follow_a_version_are_named(repository):
    repository.move_version("core", "0.3.0")
    assert ranges_that_leave_out(repository.packages["fuse-core"], repository.packages) == [
        "fuse-lightning needs fuse-core<0.3,>=0.2, which leaves out fuse-core 0.3.0.",
        "fuse-losses needs fuse-core<0.3,>=0.2, which leaves out fuse-core 0.3.0.",
    ]


def test_a_sound_repository_has_no_problems(repository):
    assert source_problems("main", repository.packages, repository.root) == []


def test_a_change_without_a_fragment_is_a_problem(repository):
    repository.write("packages/fuse-losses/src/fuse_losses/dice.py", "")
    assert source_problems("main", repository.packages, repository.root) == [
        "fuse-losses: src changed, but no file in changelog.d. Add one, such as +short-title.fixed.md."
    ]


def test_a_change_of_what_is_released_needs_a_new_version(repository):
    repository.commit("fuse-losses-v0.2.0")
    repository.write("packages/fuse-losses/src/fuse_losses/dice.py", "")
    repository.write("packages/fuse-losses/changelog.d/+dice.added.md", "Dice.")
    repository.git("add", "--all")
    assert source_problems("main", repository.packages, repository.root) == [
        (
            "fuse-losses: 0.2.0 is released, and src or [project] of pyproject.toml differs from it. "
            'Run nox -s "bump(losses)" -- patch (or minor).'
        )
    ]
    repository.move_version("losses", "0.2.1")
    assert source_problems("main", repository.packages, repository.root) == []


def test_a_moved_range_of_what_is_released_needs_a_new_version(repository):
    repository.commit("fuse-losses-v0.2.0")
    file = repository.root / "packages/fuse-losses/pyproject.toml"
    file.write_text(file.read_text() + '[dependency-groups]\ntest = ["pytest"]\n')  # no user sees this
    assert source_problems("main", repository.packages, repository.root) == []
    file.write_text(file.read_text().replace("fuse-core>=0.2,<0.3", "fuse-core>=0.2,<0.4"))
    [problem] = source_problems("main", repository.packages, repository.root)
    assert problem.startswith("fuse-losses: 0.2.0 is released, and src or [project] of pyproject.toml differs")
    repository.move_version("losses", "0.2.1")
    assert source_problems("main", repository.packages, repository.root) == []


def test_a_misnamed_fragment_is_a_problem(repository):
    repository.write("packages/fuse-core/changelog.d/12.feature.md", "A feature.")
    assert source_problems("main", repository.packages, repository.root) == [
        (
            "fuse-core: 12.feature.md is not named +short-title.TYPE.md, with TYPE one of breaking, added, changed, "
            "fixed, removed."
        )
    ]


def test_an_empty_fragment_is_a_problem(repository):
    repository.write("packages/fuse-core/changelog.d/+dice.added.md", "\n")
    assert source_problems("main", repository.packages, repository.root) == [
        "fuse-core: +dice.added.md is empty. Write a sentence for users."
    ]
