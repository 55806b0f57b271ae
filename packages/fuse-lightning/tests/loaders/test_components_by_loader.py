import pytest
import torch
from torch import nn

from fuse_losses import LossDefault

L1 = LossDefault(pred="model.y", target="data.y", callable=nn.functional.l1_loss)


def test_a_loaders_losses_and_metrics_are_part_of_the_module(make_module):
    weighted = LossDefault(pred="p", target="t", callable=nn.CrossEntropyLoss(weight=torch.ones(2)))
    module = make_module(validation_losses={"a": {"ce": weighted}, "b": {"ce": weighted}})
    assert "validation_losses.a.ce.callable.weight" in module.state_dict()


def test_loaders_and_losses_must_name_the_same(make_module, make_trainer, make_loader):
    module = make_module(validation_losses={"a": {"l1": L1}, "b": {"l1": L1}})
    with pytest.raises(ValueError, match=r"different loaders \(losses: a, b; Trainer's loaders: a, c\)"):
        make_trainer().validate(module, {"a": make_loader(4), "c": make_loader(4)})
    with pytest.raises(ValueError, match=r"has 2 loaders \(a, b\), but the Trainer was given 1 loader\."):
        make_trainer().validate(module, make_loader(4))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"validation_losses": {"a": {"l1": L1}, "l1": L1}}, TypeError, r"got both: \['a', 'l1'\]"),
        ({"validation_losses": [("a", {"l1": L1}), ("a", {"l1": L1})]}, ValueError, "names the loader 'a' twice"),
        ({"validation_losses": [{"l1": L1}]}, TypeError, "pairs of the loader's name and its components"),
        ({"validation_losses": L1}, TypeError, "pairs of the loader's name and its components"),
        ({"validation_losses": {"a.b": {"l1": L1}}}, ValueError, "a loader's name has no dot"),
        ({"losses": {"a": {"l1": L1}}}, TypeError, r"losses=\) takes components by name: training has one"),
        ({"validation_metrics": {"a": {"m": len}}}, TypeError, r"validation_metrics=\) takes modules"),
    ],
)
def test_bad_groups_fail_at_construction(make_module, options, error, message):
    with pytest.raises(error, match=message):
        make_module(**options)
