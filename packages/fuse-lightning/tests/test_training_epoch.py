import pytest
from torchmetrics import MeanSquaredError, MetricCollection

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
