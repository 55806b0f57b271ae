from packaging.version import Version

from tools.packages import PACKAGES, ROOT, dependents, required_range, torch_id


def test_the_packages_of_this_repository_are_found():
    assert list(PACKAGES) == ["fuse-core", "fuse-lightning", "fuse-losses", "fuse-models", "fuse-optim"]
    assert {package.root for package in PACKAGES.values()} == {ROOT}


def test_needs_follow_extras_only_when_asked(repository):
    packages = repository.packages
    lightning = packages["fuse-lightning"]
    assert [p.name for p in lightning.needs([], packages)] == ["fuse-core"]
    assert [p.name for p in lightning.needs(["examples"], packages)] == ["fuse-core", "fuse-losses"]


def test_dependents_through_extras_are_counted_only_when_asked(repository):
    packages = repository.packages
    losses = packages["fuse-losses"]
    assert dependents(losses, packages, through_extras=False) == []
    assert [p.name for p in dependents(losses, packages, through_extras=True)] == ["fuse-lightning"]


def test_a_range_is_found_in_dependencies_and_extras(repository):
    packages = repository.packages
    lightning = packages["fuse-lightning"]
    assert str(required_range(lightning, packages["fuse-losses"]).specifier) == "<0.3,>=0.2"
    assert required_range(lightning, packages["fuse-optim"]) is None


def test_version_and_tag_are_read_from_the_source(repository):
    repository.move_version("losses", "0.2.1")
    losses = repository.packages["fuse-losses"]
    assert losses.version == Version("0.2.1")
    assert losses.tag == "fuse-losses-v0.2.1"


def test_torch_ids_can_be_typed():
    assert torch_id("2.13.0") == "torch2_13"
