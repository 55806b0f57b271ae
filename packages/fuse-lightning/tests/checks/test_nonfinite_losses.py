import copy
import warnings

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from fuse_lightning import NonFiniteLossError
from fuse_lightning.checks.nonfinite_losses import SLOTS, NonFiniteLosses
from fuse_lightning.losses.epoch_losses import BatchLosses
from fuse_losses import LossDefault
from fuse_models import ModelWrapSeqToDict
from fuse_optim import SAM


class NaNFor(nn.Module):
    """Not a number, in value and gradient, for batches that hold one of the samples."""

    reads, writes = ("model.y", "data.sample_id"), ()

    def __init__(self, *samples):
        super().__init__()
        self.samples = samples

    def forward(self, batch_dict):
        bad = any(sample in self.samples for sample in batch_dict["data.sample_id"])
        return (batch_dict["model.y"] * (torch.nan if bad else 1.0)).square().mean()


def weights(module):
    return [parameter.detach().clone() for parameter in module.model.parameters()]


def test_training_stops_and_names_loss_step_and_samples(make_module, make_trainer, make_loader, mse_loss):
    module = make_module(losses={"mse": mse_loss, "odd": NaNFor(9)})
    message = r"training loss of step 2 is not finite: 'odd' is nan\. Its samples: 8, 9, 10, 11\."
    with pytest.raises(NonFiniteLossError, match=message):
        make_trainer().fit(module, make_loader(16))


def test_no_checkpoint_is_written_after_a_loss_that_is_not_finite(make_module, make_trainer, make_loader, tmp_path):
    with pytest.raises(NonFiniteLossError):
        make_trainer().fit(make_module(losses={"odd": NaNFor(15)}), make_loader(16))
    assert not list(tmp_path.glob("*.ckpt"))


def test_a_sum_that_overflows_is_named_as_such(make_module, make_trainer, make_loader):
    def huge(pred, target):
        return pred.sum() * 0 + 3e38

    losses = {name: LossDefault(pred="model.y", target="data.y", callable=huge) for name in ("a", "b")}
    with pytest.raises(NonFiniteLossError, match="'their sum' is inf"):
        make_trainer().fit(make_module(losses=losses), make_loader(4))


def test_ignoring_goes_on(make_module, make_trainer, make_loader):
    module = make_module(losses={"odd": NaNFor(1)}, on_nonfinite="ignore")
    trainer = make_trainer()
    trainer.fit(module, make_loader(8))
    assert trainer.global_step == 2
    assert trainer.callback_metrics["train.losses.odd"].isnan()


def test_skipping_leaves_a_bad_batch_out_of_weights_and_logged_losses(make_module, make_trainer, make_loader, mse_loss):
    skipping = make_module(losses={"mse": mse_loss, "odd": NaNFor(5)}, on_nonfinite="skip")
    trainer = make_trainer()
    with pytest.warns(UserWarning, match="step 1 is not finite: 'odd' is nan.*adds nothing to the gradient"):
        trainer.fit(skipping, make_loader(12))

    without = make_module(losses={"mse": mse_loss, "odd": NaNFor()})
    expected = make_trainer(enable_checkpointing=False)
    loader = torch.utils.data.DataLoader(
        make_loader(12).dataset, batch_sampler=[[0, 1, 2, 3], [8, 9, 10, 11]], collate_fn=make_loader(4).collate_fn
    )
    expected.fit(without, loader)
    for one, other in zip(weights(skipping), weights(without), strict=True):
        assert torch.equal(one, other)
    for name in ("mse", "odd", "total_loss"):
        assert trainer.callback_metrics[f"train.losses.{name}"] == expected.callback_metrics[f"train.losses.{name}"]


def test_skipping_keeps_the_other_batches_that_accumulate(make_module, make_trainer, make_loader):
    def train(losses, loader, **options):
        module = make_module(losses=losses, **options)
        make_trainer(accumulate_grad_batches=2).fit(module, loader)
        return weights(module)

    with pytest.warns(UserWarning, match="step 0 is not finite"):
        skipped = train({"odd": NaNFor(5)}, make_loader(8), on_nonfinite="skip")
    before = weights(make_module())
    # The same two batches, of which the second adds zero.
    module = make_module(losses={"odd": NaNFor()})
    batch = next(iter(make_loader(8)))
    (NaNFor()(module(batch)) / 2).backward()
    for one, start, parameter in zip(skipped, before, module.model.parameters(), strict=True):
        torch.testing.assert_close(one, start - 0.05 * parameter.grad)


def test_skipping_leaves_a_bad_batch_out_of_running_means(make_module, make_trainer, make_loader):
    def train(bad):
        norm = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1))
        norm.register_buffer("expanded", torch.zeros(1).expand(2))
        model = ModelWrapSeqToDict(model=norm, model_inputs=["data.x"], model_outputs=["model.y"])
        loader = make_loader(12)
        for sample in bad:
            loader.dataset[sample]["data.x"].fill_(torch.nan)
        batches = [[0, 1, 2, 3], *([4, 5, 6, 7] for _ in bad), [8, 9, 10, 11]]
        loader = torch.utils.data.DataLoader(loader.dataset, batch_sampler=batches, collate_fn=loader.collate_fn)
        make_trainer(enable_checkpointing=False).fit(make_module(model=model, on_nonfinite="skip"), loader)
        return dict(norm[0].named_buffers())

    with pytest.warns(UserWarning, match="step 1 is not finite"):
        skipped = train(bad=[5])
    torch.testing.assert_close(skipped, train(bad=[]), rtol=0, atol=0)
    assert skipped["num_batches_tracked"] == 2


def test_skipping_needs_the_whole_gradient_on_a_process(make_module, make_trainer):
    watch = NonFiniteLosses("skip")
    with pytest.raises(ValueError, match=r"on_nonfinite='skip' works on a single device and with DDP, not with FSDP"):
        watch.check_strategy(pl.strategies.FSDPStrategy())
    watch.check_strategy(pl.strategies.DDPStrategy())


def test_finite_losses_leave_the_gradient_alone(make_module, make_trainer, make_loader):
    results = []
    for policy in ("skip", "raise", "ignore"):
        module = make_module(on_nonfinite=policy)
        make_trainer(enable_checkpointing=False).fit(module, make_loader(16))  # a warning would be an error
        results.append(weights(module))
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(*results, strict=True))


def test_hooks_go_when_training_ends(make_module, make_trainer, make_loader):
    module = make_module(on_nonfinite="skip")
    make_trainer().fit(module, make_loader(4))
    assert not any(parameter._backward_hooks for parameter in module.parameters())


def test_a_run_that_was_interrupted_leaves_later_gradients_alone(make_module, make_trainer, make_loader):
    class Stop(pl.Callback):
        def on_train_batch_end(self, *_):
            raise RuntimeError("stop")

    module = make_module(losses={"odd": NaNFor(0)}, on_nonfinite="skip")
    with pytest.raises(RuntimeError, match="stop"), pytest.warns(UserWarning, match="not finite"):
        make_trainer(callbacks=[Stop()]).fit(module, make_loader(8))
    module.zero_grad()
    module(next(iter(make_loader(8))))["model.y"].sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in module.model.parameters())


def test_a_copy_of_a_trained_module_notices_too(make_module, make_trainer, make_loader):
    module = make_module(losses={"odd": NaNFor()})
    make_trainer(enable_checkpointing=False).fit(module, make_loader(4))
    copied = copy.deepcopy(module)
    assert copied._nonfinite_losses is not module._nonfinite_losses  # both may be trained at the same time
    copied.losses["odd"].samples = (0,)
    with pytest.raises(NonFiniteLossError, match="'odd' is nan"):
        make_trainer(enable_checkpointing=False).fit(copied, make_loader(4))


def losses(value, dtype=torch.float32):
    return BatchLosses(("a", "total_loss"), torch.full((2,), value, dtype=dtype), (1, None))


class Later:
    """An event of a copy that has not ended."""

    def __init__(self):
        self.waited = False

    def query(self):
        return False

    def synchronize(self):
        self.waited = True


def arriving_later(watch, monkeypatch):
    """Have copies of the watch look as if they were on their way, as on a GPU."""
    copy = NonFiniteLosses._copy_to_host

    def copy_without_event(self, *arguments):
        return copy(self, *arguments)._replace(arrived=Later())

    monkeypatch.setattr(NonFiniteLosses, "_copy_to_host", copy_without_event)
    return watch


def test_steps_on_their_way_are_not_waited_for_until_asked(monkeypatch):
    watch = arriving_later(NonFiniteLosses("raise"), monkeypatch)
    watch.watch(losses(1.0), step=0)
    watch.watch(losses(torch.inf), step=1)
    watch.check()
    with pytest.raises(NonFiniteLossError, match=r"step 1 is not finite: 'a' is inf\. The batch has no"):
        watch.check(wait=True)


def test_more_steps_on_their_way_than_there_is_room_for_are_waited_for(monkeypatch):
    watch = arriving_later(NonFiniteLosses("raise"), monkeypatch)
    watch.watch(losses(torch.nan), step=0)
    for step in range(1, SLOTS):
        watch.watch(losses(1.0), step)
    with pytest.raises(NonFiniteLossError, match="step 0"):
        watch.watch(losses(1.0), SLOTS)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_losses_of_any_precision_are_watched(dtype):
    watch = NonFiniteLosses("raise")
    watch.watch(losses(1e4, dtype), 0)
    if dtype == torch.float64:
        watch.watch(losses(1e300, dtype), 0)  # infinite in float32 only
    with pytest.raises(NonFiniteLossError, match="'a' is nan"):
        watch.watch(losses(torch.nan, dtype), 1)


def test_an_unknown_policy_is_refused(make_module):
    with pytest.raises(ValueError, match=r"on_nonfinite=\) is one of 'raise', 'skip', 'ignore'; got 'warn'"):
        make_module(on_nonfinite="warn")


def test_the_model_may_be_more_than_a_linear_layer(make_module, make_trainer, make_loader):
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    model = ModelWrapSeqToDict(model=net, model_inputs=["data.x"], model_outputs=["model.y"])
    module = make_module(model=model, losses={"odd": NaNFor(0, 4)}, on_nonfinite="skip")
    start = weights(module)
    with pytest.warns(UserWarning, match="not finite"):
        make_trainer().fit(module, make_loader(8))
    assert all(torch.equal(one, other) for one, other in zip(weights(module), start, strict=True))


@pytest.mark.filterwarnings(
    "ignore:Checkpoint directory",
    "ignore:Be aware that when using `ckpt_path`",
    "ignore:A checkpoint is written inside",
)
def test_batches_are_skipped_in_an_epoch_resumed_in_its_middle(make_module, make_trainer, make_loader, tmp_path):
    middle = pl.callbacks.ModelCheckpoint(dirpath=tmp_path, filename="middle", every_n_train_steps=1, save_top_k=1)
    make_trainer(callbacks=[middle], max_steps=1).fit(make_module(), make_loader(12))
    module = make_module(losses={"odd": NaNFor(*range(12))}, on_nonfinite="skip")
    trainer = make_trainer()
    with pytest.warns(UserWarning, match="not finite"):
        trainer.fit(module, make_loader(12), ckpt_path=tmp_path / "middle.ckpt")
    assert trainer.global_step > 1
    assert all(value.isfinite().all() for value in weights(module))


class Labeled(nn.Module):
    """A mean over samples 4 to 7, NaN in other batches."""

    def forward(self, batch_dict):
        labeled = torch.tensor([sample >= 4 for sample in batch_dict["data.sample_id"]])
        self.counted = labeled.sum()
        return nn.functional.mse_loss(batch_dict["model.y"][labeled], batch_dict["data.y"][labeled])


@pytest.mark.parametrize("policy", ["raise", "skip"])
def test_a_loss_that_counted_nothing_is_told_once_and_left_out(make_module, make_trainer, make_loader, policy):
    means = {}
    for batch_size in (2, 8):
        module = make_module(
            losses={"few": Labeled()},
            on_nonfinite=policy,
            log_counted=True,
            optimizers_and_lr_schs=lambda module: torch.optim.SGD(module.parameters(), lr=0.0),
        )
        trainer = make_trainer(enable_checkpointing=False)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            trainer.fit(module, make_loader(8, batch_size), make_loader(8, batch_size))
        told = [str(one.message) for one in caught if "is nan because nothing counted" in str(one.message)]
        assert len(told) == (batch_size == 2)
        means[batch_size] = {name: value.item() for name, value in trainer.callback_metrics.items()}
    assert means[2] == pytest.approx(means[8], rel=1e-5)
    assert means[2]["train.losses.few"] == means[2]["train.losses.total_loss"] > 0
    assert means[2]["train.counted.few"] == means[2]["validation.counted.few"] == 4


class NaNInSecondPass(nn.Module):
    """Not finite when a batch is evaluated the second time."""

    def __init__(self):
        super().__init__()
        self.calls = torch.nn.Parameter(torch.zeros(()), requires_grad=False)  # parameters are not put back

    def forward(self, batch_dict):
        self.calls += 1
        bad = torch.where(self.calls % 2 == 0, torch.nan, 1.0)
        return nn.functional.mse_loss(batch_dict["model.y"], batch_dict["data.y"]) * bad


def sam(module):
    trained = [one for one in module.parameters() if one.requires_grad]
    return SAM(trained, torch.optim.SGD, rho=0.1, lr=0.1)


@pytest.mark.parametrize("bad", [True, False])
def test_the_second_pass_of_a_batch_is_watched_too(make_module, make_trainer, make_loader, bad):
    callback = pytest.importorskip("fuse_optim.lightning").OptimizerClosureCallback()
    options = {"losses": {"odd": NaNInSecondPass()}} if bad else {}
    module = make_module(optimizers_and_lr_schs=sam, **options)
    trainer = make_trainer(callbacks=[callback], enable_checkpointing=False)
    torch.full((1000, 2), torch.nan, dtype=torch.float64)  # what memory that is not written to may hold
    if bad:
        with pytest.raises(NonFiniteLossError, match="step 0 is not finite: 'odd' is nan"):
            trainer.fit(module, make_loader(16))
    else:
        trainer.fit(module, make_loader(16))
        assert trainer.global_step == 4
