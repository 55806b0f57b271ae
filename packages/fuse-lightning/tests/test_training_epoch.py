import copy

import pytest
import torch
from pytorch_lightning.callbacks import GradientAccumulationScheduler, StochasticWeightAveraging
from torchmetrics import MeanSquaredError, MetricCollection
from torchmetrics.wrappers import Running

from fuse_lightning import MetricDefault, resumable_loader


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_a_collection_with_shared_states_is_continued_inside_an_epoch(make_module, make_trainer, make_loader, tmp_path):
    def train(steps, checkpoint=None):
        both = MetricCollection({"mse": MeanSquaredError(), "rmse": MeanSquaredError(squared=False)})
        module = make_module(train_metrics={"m": MetricDefault(pred="model.y", target="data.y", metric=both)})
        trainer = make_trainer(max_epochs=-1, max_steps=steps)
        loader = resumable_loader(make_loader(24).dataset, batch_size=4, seed=0)
        trainer.fit(module, loader, ckpt_path=checkpoint)
        return {name: trainer.callback_metrics[f"train.metrics.m.{name}"].item() for name in ("mse", "rmse")}

    uninterrupted = train(6)
    train(2)
    assert train(6, tmp_path / "last.ckpt") == uninterrupted


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_a_running_metric_is_continued_inside_an_epoch(make_module, make_trainer, make_loader, tmp_path):
    def train(steps, checkpoint=None):
        last_two = Running(MeanSquaredError(), window=2)
        module = make_module(train_metrics={"m": MetricDefault(pred="model.y", target="data.y", metric=last_two)})
        trainer = make_trainer(max_epochs=-1, max_steps=steps)
        loader = resumable_loader(make_loader(24).dataset, batch_size=4, seed=0)
        trainer.fit(module, loader, ckpt_path=checkpoint)
        return trainer.callback_metrics["train.metrics.m"].item()

    uninterrupted = train(4)
    train(3)
    assert train(4, tmp_path / "last.ckpt") == pytest.approx(uninterrupted)


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_scheduled_accumulation_is_continued_inside_an_epoch(make_module, make_trainer, make_loader, tmp_path):
    def train(steps, checkpoint=None):
        module = make_module()
        callbacks = [GradientAccumulationScheduler({0: 1, 1: 2})]
        trainer = make_trainer(max_epochs=-1, max_steps=steps, callbacks=callbacks)
        loader = resumable_loader(make_loader(16).dataset, batch_size=4, seed=0)
        trainer.fit(module, loader, ckpt_path=checkpoint)  # 4 steps in epoch 0, 2 in each later one
        return dict(module.model.named_parameters())

    uninterrupted = train(8)
    train(5)
    for name, value in train(8, tmp_path / "last.ckpt").items():
        assert torch.equal(value, uninterrupted[name])


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
@pytest.mark.parametrize("layer", [torch.nn.Identity(), torch.nn.BatchNorm1d(1)])
def test_averaged_weights_are_there_after_a_resume_with_no_step_left(
    make_module, make_trainer, make_loader, tmp_path, layer
):
    def train(checkpoint=None):
        module = make_module()
        module.model.model = torch.nn.Sequential(module.model.model, copy.deepcopy(layer))
        trainer = make_trainer(max_epochs=3, callbacks=[StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=1)])
        trainer.fit(module, make_loader(16), ckpt_path=checkpoint)
        return module.state_dict()

    uninterrupted = train()
    for name, value in train(tmp_path / "last.ckpt").items():
        assert torch.equal(value, uninterrupted[name])
