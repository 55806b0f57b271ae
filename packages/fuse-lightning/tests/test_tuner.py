"""Lightning's Tuner."""

import functools

import pytest
import torch
from pytorch_lightning.tuner import Tuner
from torch.utils.data import Subset

from fuse_lightning import ConfigureOptimizers, DataModuleDefault


@pytest.mark.parametrize("method", ["lr_find", "scale_batch_size"])
@pytest.mark.filterwarnings("ignore")
def test_the_tuner_works_with_the_data_module_and_configured_optimizers(
    make_module, make_trainer, make_loader, monkeypatch, method
):
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)  # the order is that of make_module's seed
    configure = ConfigureOptimizers(functools.partial(torch.optim.SGD, lr=1e-3))
    module = make_module(optimizers_and_lr_schs=configure)
    data = DataModuleDefault(make_loader(64).dataset, Subset(make_loader(4).dataset, range(4)), batch_size=2)
    trainer = make_trainer(max_epochs=2)
    if method == "lr_find":
        suggestion = Tuner(trainer).lr_find(module, datamodule=data, num_training=20).suggestion()
        trainer.fit(module, data)
        assert trainer.optimizers[0].param_groups[0]["lr"] == module.lr == suggestion != 1e-3
    else:
        size = Tuner(trainer).scale_batch_size(module, datamodule=data, max_trials=2, steps_per_trial=1)
        assert data.batch_size == size > 2
        assert next(iter(data.train_dataloader()))["data.x"].shape[0] == size
