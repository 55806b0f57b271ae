import re
from pathlib import Path

README = Path(__file__).parents[1].joinpath("README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.+?)^```", README, flags=re.DOTALL | re.MULTILINE)


def run(example):
    namespace = {"__name__": "__main__"}
    exec(compile(example, "README.md", "exec"), namespace)
    return namespace


def test_the_criterion_runs():
    namespace = run(EXAMPLES[0])
    assert namespace["logits"].grad.shape == (2, 3, 32, 32)
    assert set(namespace["criterion"].terms) == {"cross_entropy", "dice"}


def test_the_segmentation_example_reaches_a_mean_dice_of_090_in_25_lines():
    assert run(EXAMPLES[1])["mean_dice"] >= 0.90
    assert len(EXAMPLES[1].splitlines()) <= 25


def test_there_is_no_other_example():
    assert len(EXAMPLES) == 2


def test_every_public_name_is_in_the_readme():
    import fuse_losses

    names = {*fuse_losses.__all__, *fuse_losses.functional.__all__} - {"__version__", "functional"}
    assert not [name for name in names if f"`{name}`" not in README]
