"""`fuse-lightning check`."""

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


def test_check_prints_tables_and_writes_the_drawings(project, capsys, run_command):
    assert run_command("check", "--output", "docs/contract.md") == 0
    printed = capsys.readouterr().out
    row = r"model\.logits\.side +\(B, 2\) +float32 +cpu +ModelWrapSeqToDict 'model' +LossDefault 'losses\.side'"
    assert re.search(row, printed)
    titles = ["train", "validation, test", "predict"]
    assert re.findall(r"(?:^|\n)(.*)\n\nkey ", printed) == titles
    assert re.search(r"ModelWrapSeqToDict 'model' +2 +LossDefault 'losses\.side'", printed)
    written = Path("docs/contract.md").read_text()
    drawings = re.findall(r"## (.*)\n\n```\nkey[^`]*```\n\n```mermaid\n(flowchart LR[^`]*)```\n", written)
    assert [title for title, _ in drawings] == titles
    assert ["MetricDefault" in drawing for _, drawing in drawings] == [False, True, False]
    assert '-- "(B, 2) float32" -->' in drawings[0][1]
    assert not Path("run").exists()


@pytest.mark.parametrize("command", ["check", "wiring"])
def test_check_writes_contract_md_and_has_an_old_name(project, command, run_command):
    assert run_command(command) == 0
    assert Path("contract.md").read_text().startswith("# Contract\n\n## train\n")


def test_all_problems_of_all_modes_are_told_at_once(edited, project, capsys, run_command):
    configuration = yaml.safe_load(Path("run.yaml").read_text())
    arguments = configuration["model"]["init_args"]
    arguments["model"]["init_args"]["model"]["init_args"]["in_features"] = 4
    arguments["validation_metrics"]["accuracy"]["init_args"]["target"] = "data.labels"
    arguments["prediction_keys"] = ["model.logits.sides"]
    Path("run.yaml").write_text(yaml.safe_dump(configuration))
    assert run_command("check") == 2
    message = capsys.readouterr().err
    assert "error: 3 problems in how components fit together:" in message
    for problem in (
        r"ModelWrapSeqToDict 'model' fails for a batch of 2: .* It reads 'data\.x' \(B, 5\) float32",
        r"MetricDefault 'metrics\.accuracy' reads 'data\.labels', which nothing before it provides\.",
        r"The prediction key 'model\.logits\.sides' is not in the batch at the end",
    ):
        assert re.search(problem, message)
        assert re.search(problem, Path("contract.md").read_text())


SPEC = {"data.x": [None, 5], "data.label": {"shape": [None], "dtype": "int64"}}


def test_a_batch_spec_takes_the_place_of_data(edited, project, capsys, run_command):
    configuration = yaml.safe_load(Path("run.yaml").read_text())
    configuration["data"]["init_args"]["train"] = {"class_path": "points.Broken"}
    configuration["batch_spec"] = SPEC
    Path("run.yaml").write_text(yaml.safe_dump(configuration))
    assert run_command("check") == 0
    assert re.search(r"\ndata\.x +\(B, 5\) +float32 +cpu", capsys.readouterr().out)
    configuration["batch_spec"] = SPEC | {"data.label": {"shape": [None, 1], "dtype": "int64"}}
    Path("run.yaml").write_text(yaml.safe_dump(configuration))
    assert run_command("check") == 2
    assert "LossDefault 'losses.side' fails for a batch of 6" in capsys.readouterr().err


def test_training_ignores_the_batch_spec(project, run_command):
    Path("run.yaml").write_text(Path("run.yaml").read_text() + yaml.safe_dump({"batch_spec": SPEC}))
    assert run_command("fit", "--trainer.max_epochs", "1") == 0


def test_a_wrong_batch_spec_is_told(project, capsys, run_command):
    spec = {"data.x": "B, 5", "data.label": {"shape": [None], "dtype": "int46"}}
    Path("run.yaml").write_text(Path("run.yaml").read_text() + yaml.safe_dump({"batch_spec": spec}))
    assert run_command("check") == 2
    message = capsys.readouterr().err
    assert "batch_spec.data.x: it takes {shape: [null, 1, 28, 28], dtype: float32}, with null for the batch" in message
    assert "batch_spec.data.label: it takes" in message


def test_logits_for_a_metric_of_probabilities_are_told(edited, project, capsys, run_command):
    edited(f"{METRIC}.metric.class_path", "torchmetrics.classification.MulticlassAUROC")
    assert run_command("check") == 2
    assert "MetricDefault 'metrics.accuracy': MulticlassAUROC expects probabilities" in capsys.readouterr().err


def test_check_follows_a_custom_module_with_parts_of_the_same_names(edited, project, capsys, run_command):
    edited("model", {"class_path": "points.Own"})
    Path("points.py").write_text(Path("points.py").read_text() + OWN)
    assert run_command("check") == 0
    printed = capsys.readouterr().out
    assert "train\n\nkey" in printed
    assert "test\n\nkey" in printed
    assert "LossDefault 'losses.side'" in printed
    assert "validation\n\nkey" in printed
    assert "LossDefault 'losses.other'" in printed


def test_check_tells_several_loaders_apart(edited, project, capsys, run_command, configuration_text):
    Path("points.py").write_text(Path("points.py").read_text() + LOADERS)
    metrics = yaml.safe_load(configuration_text)["model"]["init_args"]["validation_metrics"]
    edited("model.init_args.validation_metrics", {"near": metrics, "far": {}})
    configuration = yaml.safe_load(Path("run.yaml").read_text())
    configuration["data"] = {"class_path": "points.TwoLoaders"}
    configuration["model"]["init_args"]["best_epoch_source"]["monitor"] = "validation.far.losses.total_loss"
    Path("run.yaml").write_text(yaml.safe_dump(configuration))
    assert run_command("check") == 0
    printed = capsys.readouterr().out
    assert "train\n\nkey" in printed
    assert "validation.far\n\nkey" in printed
    assert "validation.near\n\nkey" in printed


def test_check_fails_where_a_key_is_missing(edited, capsys, run_command):
    edited(f"{METRIC}.pred", "model.logits.sides")
    assert run_command("check") == 2
    message = capsys.readouterr().err
    assert "MetricDefault 'metrics.accuracy' reads 'model.logits.sides'" in message
    assert "Nearest keys: 'model.logits.side' (written by ModelWrapSeqToDict 'model')" in message


def test_check_checks_the_prediction_keys(edited, capsys, run_command):
    edited("model.init_args.prediction_keys", ["model.output.side"])
    assert run_command("check") == 2
    assert "The prediction key 'model.output.side' is not in the batch" in capsys.readouterr().err


def test_check_tells_a_monitor_that_is_never_logged(edited, capsys, run_command):
    edited("model.init_args.best_epoch_source.monitor", "validation.losses.total")
    assert run_command("check") == 2
    message = capsys.readouterr().err
    assert "best_epoch_source monitors 'validation.losses.total', which is never logged. Did you mean " in message
    assert "Did you mean 'validation.losses.total_loss'?" in message
    assert not Path("run").exists()


def test_check_asks_for_no_monitor_where_nothing_trains(edited, run_command):
    edited("data.init_args.train", None)
    assert run_command("check") == 0
