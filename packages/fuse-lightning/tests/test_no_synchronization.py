"""A training step reads nothing back from the device."""

import sys

import pytest
import torch

READS = ("item", "tolist", "cpu", "numpy", "__float__", "__int__", "__bool__", "__index__")


@pytest.fixture
def reads(monkeypatch):
    """The calls that read a tensor's value and come from these packages."""
    found = []

    def patch(name):
        original = getattr(torch.Tensor, name)

        def counted(self, *arguments, **options):
            caller = sys._getframe(1).f_globals.get("__name__", "")
            if caller.startswith("fuse_"):
                found.append((caller, name))
            return original(self, *arguments, **options)

        monkeypatch.setattr(torch.Tensor, name, counted)

    for name in READS:
        patch(name)
    return found


@pytest.mark.parametrize("policy", ["raise", "skip", "ignore"])
def test_a_training_step_reads_no_tensor(make_module, make_trainer, make_loader, mse_metric, reads, policy):
    module = make_module(train_metrics={"mse": mse_metric()}, on_nonfinite=policy)
    per_step = []
    step = module.training_step

    def counted_step(batch, batch_idx):
        before = len(reads)
        total = step(batch, batch_idx)
        per_step.append(len(reads) - before)
        return total

    module.training_step = counted_step
    make_trainer(enable_checkpointing=False).fit(module, make_loader(32))
    assert len(per_step) == 8
    assert per_step[0] <= 1  # the first makes the view of host memory that the others look at
    assert per_step[1:] == [0] * 7


def test_the_reads_would_be_noticed(reads):
    exec(compile("value.item()", "x", "exec"), {"__name__": "fuse_x", "value": torch.ones(())})
    assert reads == [("fuse_x", "item")]
