import pytest
from packaging.requirements import Requirement

from tools.lower_bounds import at_minimum, wrong_versions
from tools.packages import PACKAGES


def pinned(*lines):
    return [str(requirement) for requirement in at_minimum([Requirement(line) for line in lines])]


def test_a_requirement_is_pinned_to_where_it_starts():
    assert pinned("torch>=2.6", "pytorch-lightning>=2.6,!=2.6.2", "torchvision==0.21.0") == [
        "pytorch-lightning==2.6",
        "torch==2.6",
        "torchvision==0.21.0",
    ]


def test_extras_stay():
    assert pinned("jsonargparse[signatures]>=4.53") == ["jsonargparse[signatures]==4.53"]


def test_the_highest_of_several_minimums_counts():
    assert pinned("numpy>=2.0", "NumPy>=1.26") == ["numpy==2.0"]


def test_a_requirement_without_a_minimum_is_refused():
    with pytest.raises(ValueError, match=r"'torch<3' has no lower bound: write one that its tests pass with"):
        at_minimum([Requirement("torch<3")])


def test_versions_are_compared_as_versions():
    requirements = at_minimum([Requirement("torch>=2.6"), Requirement("numpy>=1.26")])
    assert wrong_versions(requirements, {"torch": "2.6.0+cpu", "numpy": "1.26.0"}) == []
    assert wrong_versions(requirements, {"torch": "2.6.1"}) == ["numpy is missing, not 1.26", "torch is 2.6.1, not 2.6"]


@pytest.mark.parametrize("package", PACKAGES.values(), ids=lambda package: package.short_name)
def test_every_requirement_of_a_package_and_its_tests_has_a_minimum(package):
    declared = package.requirements(package.extras)
    groups = [*package.group("test"), *package.group("test-torch2_6")]
    assert len(at_minimum(declared + [Requirement(line) for line in groups])) >= len(declared)
