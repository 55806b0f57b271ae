"""The smallest real use of the package, run against a fresh installation by `nox -s smoke`."""

import math
import tempfile

import pytorch_lightning as pl
import torch

from fuse_core import NDict, collate
from fuse_lightning import LightningModuleDefault


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.offset = torch.nn.Parameter(torch.zeros(1))

    def forward(self, batch_dict: NDict) -> NDict:
        batch_dict["model.output.offset"] = batch_dict["data.x"] + self.offset
        return batch_dict


class Square(torch.nn.Module):
    def forward(self, batch_dict: NDict) -> torch.Tensor:
        return batch_dict["model.output.offset"].square().mean()


samples = [NDict({"data": {"sample_id": i, "x": torch.full((1,), 2.0)}}) for i in range(8)]
loader = torch.utils.data.DataLoader(samples, batch_size=4, collate_fn=collate)
with tempfile.TemporaryDirectory() as model_dir:
    module = LightningModuleDefault(
        model_dir=model_dir,
        model=Model(),
        losses={"square": Square()},
        optimizers_and_lr_schs=lambda module: torch.optim.SGD(module.parameters(), lr=0.25),
    )
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        default_root_dir=model_dir,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader)
# The offset moves from 0 to -1 to -1.5; the losses before the two steps are 4 and 1.
assert module.model.offset.item() == -1.5
assert math.isclose(trainer.callback_metrics["train.losses.square"].item(), 2.5)
print(f"mean loss of the epoch: {trainer.callback_metrics['train.losses.square'].item()}")
