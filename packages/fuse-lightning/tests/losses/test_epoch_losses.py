import pytest
import torch

from fuse_core import NDict
from fuse_lightning import EpochLosses


def batch(samples, **losses):
    values = {name: torch.tensor(value) for name, value in losses.items()}
    return NDict({"data.sample_id": list(range(samples)), "losses": values})


def test_means_are_weighted_by_samples():
    epoch_losses = EpochLosses()
    epoch_losses.update(batch(32, a=1.0, b=2.0))
    epoch_losses.update(batch(8, a=6.0, b=0.0))
    means = epoch_losses.means()
    assert means["a"].item() == pytest.approx((32 * 1 + 8 * 6) / 40)
    assert means["b"].item() == pytest.approx(32 * 2 / 40)


def test_many_half_precision_losses_add_up_exactly():
    epoch_losses = EpochLosses()
    for _ in range(3000):
        epoch_losses.update(NDict({"x": torch.zeros(1), "losses.a": torch.tensor(1.0, dtype=torch.float16)}))
    assert epoch_losses.means()["a"].item() == 1.0


def test_processes_are_reduced_by_samples_not_by_means():
    first, second = EpochLosses(), EpochLosses()
    first.update(batch(3, a=1.0))
    second.update(batch(1, a=5.0))
    sent = []  # what the second process contributes: its sum and its samples
    second.means(lambda tensor: sent.append(tensor) or tensor)
    assert first.means(lambda tensor: tensor + sent[0])["a"].item() == 2.0


def test_reset_forgets():
    epoch_losses = EpochLosses()
    epoch_losses.update(batch(1, a=1.0))
    epoch_losses.reset()
    assert epoch_losses.means() == {}


def test_updates_keep_no_graph():
    value = torch.ones((), requires_grad=True) * 2
    epoch_losses = EpochLosses()
    epoch_losses.update(NDict({"x": torch.zeros(1), "losses.a": value}))
    assert not epoch_losses.means()["a"].requires_grad


def test_a_loss_that_some_batches_lack_is_a_mean_over_those_that_have_it():
    epoch_losses = EpochLosses()
    epoch_losses.update(batch(2, a=1.0, b=7.0))
    epoch_losses.update(batch(6, a=5.0))
    assert {name: mean.item() for name, mean in epoch_losses.means().items()} == {"a": 4.0, "b": 7.0}


@pytest.mark.parametrize(("value", "found"), [(torch.zeros(3), r"a tensor of shape \(3,\)"), (1.5, "1.5")])
def test_what_is_no_scalar_tensor_is_refused_by_name(value, found):
    with pytest.raises(ValueError, match=rf"'losses\.kl' is {found}"):
        EpochLosses().update({"losses.kl": value})
