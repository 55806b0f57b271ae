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


@pytest.mark.parametrize("as_tensor", [True, False])
def test_means_are_weighted_by_what_the_losses_counted(as_tensor):
    epoch_losses = EpochLosses()
    for value, other, count in ((2.0, 1.0, 3), (float("nan"), 3.0, 0), (6.0, 5.0, 1)):
        one = batch(4, a=value, b=other, total_loss=other)
        one["counted"] = {"a": torch.tensor(count) if as_tensor else count, "b": 4}
        epoch_losses.update(one)
    means, counted = epoch_losses.means_and_counted()
    assert {name: mean.item() for name, mean in means.items()} == {"a": 3.0, "b": 3.0, "total_loss": 6.0}
    assert (counted["a"], counted["b"]) == (4, 12)


def test_a_loss_that_counted_nothing_in_the_epoch_is_nan_and_not_in_the_total():
    epoch_losses = EpochLosses()
    one = batch(4, a=float("nan"), b=2.0, total_loss=2.0)
    one["counted"] = {"a": torch.tensor(0), "b": 4}
    epoch_losses.update(one)
    means = epoch_losses.means()
    assert means["a"].isnan()
    assert means["total_loss"] == 2.0


def test_an_epoch_in_which_nothing_counted_has_no_total():
    epoch_losses = EpochLosses()
    one = batch(4, a=float("nan"), total_loss=0.0)
    one["counted"] = {"a": 0}
    epoch_losses.update(one)
    assert epoch_losses.means()["total_loss"].isnan()


def test_terms_are_means_over_what_their_loss_counted():
    epoch_losses = EpochLosses()
    for count, dice in ((1, 0.5), (3, 0.1)):
        one = batch(4, seg=1.0, total_loss=1.0)
        one["counted.seg"] = torch.tensor(count)
        one["loss_terms.seg.dice"] = torch.tensor(dice, dtype=torch.float64)
        epoch_losses.update(one)
    means = epoch_losses.means()
    assert means["seg.dice"].item() == pytest.approx(0.2)
    assert means["total_loss"] == 1.0
