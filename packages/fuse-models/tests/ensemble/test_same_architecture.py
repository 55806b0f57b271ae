import functools
import re

import pytest
import torch
from torch import nn

from fuse_models import ModelWrapSeqToDict
from fuse_models.ensemble.same_architecture import architecture_difference


def wrapped(scale=1.0, key="data.x"):
    return ModelWrapSeqToDict(
        model=nn.Linear(3, 2),
        model_inputs=[key],
        model_outputs=["model.logits.cls"],
        post_forward_processing_function=lambda logits: logits * scale,
    )


class Holding(nn.Linear):
    """A layer with an attribute."""

    def __init__(self, held):
        super().__init__(3, 2)
        self.held = held


EQUAL = [
    lambda: nn.Linear(3, 2),
    lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU()),
    wrapped,
    lambda: Holding([1, (2, {"a": torch.arange(3)})]),
    lambda: Holding(functools.partial(torch.sum, dim=1)),
]


@pytest.mark.parametrize("make", EQUAL)
def test_two_of_a_kind_differ_in_nothing(make):
    first, second = make(), make()
    first.eval()
    assert architecture_difference(first, second) is None


def test_trained_weights_and_hooks_and_modes_are_no_difference():
    first, second = nn.Linear(3, 2), nn.Linear(3, 2).eval().requires_grad_(False)
    nn.init.zeros_(first.weight)
    first.register_forward_hook(lambda *args: None)
    assert architecture_difference(first, second) is None


DIFFERENT = [
    (nn.Linear(3, 2), nn.Linear(3, 2, bias=False), r"'bias': float32 \(2,\) on cpu and nothing"),
    (nn.Linear(3, 2), nn.Linear(3, 2).double(), r"'weight': float32 \(2, 3\) on cpu and float64"),
    (nn.Linear(3, 2), nn.Identity(), r"the type: Linear and Identity"),
    (nn.Linear(3, 2), nn.Linear(4, 2), r"attribute 'in_features': 3 and 4"),
    (nn.Conv2d(1, 2, 3), nn.Conv2d(1, 2, 3, stride=2), r"attribute 'stride': \(1, 1\) and \(2, 2\)"),
    (nn.Sequential(nn.ReLU()), nn.Sequential(nn.GELU()), r"the type of '0': ReLU and GELU"),
    (nn.Sequential(nn.ReLU()), nn.Sequential(nn.ReLU(), nn.ReLU()), r"submodules: '1' in one only"),
    (wrapped(scale=1.0), wrapped(scale=2.0), r"attribute 'post_forward_processing_function'"),
    (wrapped(key="data.x"), wrapped(key="data.y"), r"attribute 'model_inputs': \('data\.x',\) and \('data\.y',\)"),
    (Holding(torch.zeros(2)), Holding(torch.ones(2)), r"attribute 'held'"),
    (Holding([1]), Holding([1, 2]), r"attribute 'held': \[1\] and \[1, 2\]"),
    (Holding(object()), Holding(object()), r"attribute 'held'"),
    (Holding([torch.zeros(2), object()]), Holding([torch.zeros(2), object()]), r"attribute 'held'"),
    (Holding(torch.sum), Holding(torch.mean), r"attribute 'held'"),
]


@pytest.mark.parametrize(("first", "second", "difference"), DIFFERENT)
def test_the_first_difference_is_named(first, second, difference):
    assert re.search(difference, architecture_difference(first, second))


def test_the_order_of_submodules_counts():
    first, second = nn.ModuleDict({"a": nn.ReLU(), "b": nn.ReLU()}), nn.ModuleDict({"b": nn.ReLU(), "a": nn.ReLU()})
    assert architecture_difference(first, second) == "the order of submodules"


def test_what_cannot_be_compared_counts_as_different():
    class Undecided:
        def __eq__(self, other):
            return torch.zeros(2) == 0

        __hash__ = None

    assert "held" in architecture_difference(Holding(Undecided()), Holding(Undecided()))
    endless = [[], []]
    for one in endless:
        one.append(one)
    assert "held" in architecture_difference(Holding(endless[0]), Holding(endless[1]))
