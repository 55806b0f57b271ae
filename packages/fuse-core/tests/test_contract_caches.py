import functools
import gc

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from fuse_core import TensorSpec, check_contract

SPEC = {"data.x": TensorSpec((None, 3))}


@functools.lru_cache
def least_recent(size):
    return torch.linspace(1, 2, size)


@functools.cache
def unbounded(name):
    return torch.linspace(1, 2, len(name)), "in a tuple"


WINDOWS = {}


def in_a_dict(size):
    if size not in WINDOWS:
        WINDOWS[size] = torch.linspace(1, 2, size)
    return WINDOWS[size]


class Model(nn.Linear):
    reads, writes = ("data.x",), ("model.y",)

    def __init__(self):
        super().__init__(3, 3)

    def forward(self, batch_dict):
        batch_dict["model.y"] = super().forward(batch_dict["data.x"])


@pytest.mark.parametrize(
    "window", [lambda: least_recent(3), lambda: unbounded("abc")[0], lambda: in_a_dict(3)], ids=["lru", "cache", "dict"]
)
def test_a_window_that_a_function_keeps_is_a_real_tensor_after_the_check(window):
    def loss(batch_dict):
        return (batch_dict["model.y"] * window()).mean()

    check_contract({"net": Model(), "loss": loss}, SPEC)
    assert not isinstance(window(), FakeTensor)
    assert torch.equal(window(), torch.linspace(1, 2, 3))


def test_what_a_cache_held_before_stays():
    real = in_a_dict(4)
    check_contract({"net": Model(), "loss": lambda batch: (batch["model.y"] * in_a_dict(3)).mean() + real.mean()}, SPEC)
    assert in_a_dict(4) is real


def test_copies_that_refer_to_themselves_go_without_a_look_at_all_objects(monkeypatch):
    class Mean(Model):
        def __init__(self):
            super().__init__()
            self.own_forward = self.forward  # as torchmetrics keeps its update
            self.last = None

        def forward(self, batch_dict):
            super().forward(batch_dict)
            self.last = batch_dict["model.y"]

    def look_at_all(*_):
        raise AssertionError("a fake tensor is left")

    monkeypatch.setattr(gc, "get_objects", look_at_all)
    check_contract({"net": Mean(), "loss": lambda batch: batch["model.y"].mean()}, SPEC)
    assert gc.isenabled()
