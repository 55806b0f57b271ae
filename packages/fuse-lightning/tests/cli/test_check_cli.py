"""`fuse-lightning wiring`."""

import re
from pathlib import Path

import pytest
import yaml

pytest.importorskip("jsonargparse")

METRIC = "model.init_args.validation_metrics.accuracy.init_args"


OWN = """
import torch.nn.functional as F
from fuse_losses import LossDefault
from fuse_models import ModelWrapSeqToDict

class Own(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = ModelWrapSeqToDict(
            model=torch.nn.Linear(5, 2), model_inputs=["data.x"], model_outputs=["model.logits.side"]
        )
        loss = LossDefault(pred="model.logits.side", target="data.label", callable=F.cross_entropy)
        self.losses = torch.nn.ModuleDict({"side": loss})
        self.validation_losses = torch.nn.ModuleDict({"other": loss})
        self.test_losses = self.losses
"""


LOADERS = """
from fuse_core import collate
from torch.utils.data import DataLoader

class TwoLoaders(pl.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(Points(8), collate_fn=collate)
    def val_dataloader(self):
        return {"far": self.train_dataloader(), "near": self.train_dataloader()}
"""


def test_wiring_prints_the_table_and_the_drawing(project, capsys, run_command):
    assert run_command("wiring", "--output", "docs/wiring.md") == 0
    printed = capsys.readouterr().out
    assert "model.logits.side  ModelWrapSeqToDict 'model'  LossDefault 'losses.side'" in printed
    assert [title for title in ("train", "validation, test", "predict") if f"\n{title}\n\nkey " in f"\n{printed}"] == [
        "train",
        "validation, test",
        "predict",
    ]
    assert printed.count("flowchart LR") == 3
    written = Path("docs/wiring.md").read_text()
    drawings = re.findall(r"## (.*)\n\n```\nkey[^`]*```\n\n```mermaid\n(flowchart LR[^`]*)```\n", written)
    assert [title for title, _ in drawings] == ["train", "validation, test", "predict"]
    assert ["MetricDefault" in drawing for _, drawing in drawings] == [False, True, False]
    assert not Path("run").exists()


def test_wiring_follows_a_custom_module_with_parts_of_the_same_names(edited, project, capsys, run_command):
    edited("model", {"class_path": "points.Own"})
    Path("points.py").write_text(Path("points.py").read_text() + OWN)
    assert run_command("wiring") == 0
    printed = capsys.readouterr().out
    assert "train, test\n\nkey" in printed
    assert "LossDefault 'losses.side'" in printed
    assert "validation\n\nkey" in printed
    assert "LossDefault 'losses.other'" in printed


def test_wiring_tells_several_loaders_apart(edited, project, capsys, run_command, configuration_text):
    Path("points.py").write_text(Path("points.py").read_text() + LOADERS)
    metrics = yaml.safe_load(configuration_text)["model"]["init_args"]["validation_metrics"]
    edited("model.init_args.validation_metrics", {"near": metrics, "far": {}})
    configuration = yaml.safe_load(Path("run.yaml").read_text())
    configuration["data"] = {"class_path": "points.TwoLoaders"}
    Path("run.yaml").write_text(yaml.safe_dump(configuration))
    assert run_command("wiring") == 0
    printed = capsys.readouterr().out
    assert "train, validation.far\n\nkey" in printed
    assert "validation.near\n\nkey" in printed


def test_wiring_fails_where_a_key_is_missing(edited, capsys, run_command):
    edited(f"{METRIC}.pred", "model.logits.sides")
    assert run_command("wiring") == 1
    message = capsys.readouterr().err
    assert "MetricDefault 'metrics.accuracy' reads 'model.logits.sides'" in message
    assert "Nearest keys: 'model.logits.side' (written by ModelWrapSeqToDict 'model')" in message


def test_wiring_checks_the_prediction_keys(edited, capsys, run_command):
    edited("model.init_args.prediction_keys", ["model.output.side"])
    assert run_command("wiring") == 1
    assert "reads 'model.output.side'" in capsys.readouterr().err
