import json
import re

import pytest
import torch
from torch import nn

from fuse_core import NDict, collate
from fuse_lightning import LightningModuleDefault, PredictionsToFile, RunReport
from fuse_losses import LossDefault
from fuse_models import ModelWrapSeqToDict


@pytest.fixture
def loader():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(40, 1, 4, 4, generator=generator)
    samples = [
        NDict({"data.sample_id": f"s{index}", "data.image": image, "data.label": (image.sum() > 0).long()})
        for index, image in enumerate(images)
    ]
    return torch.utils.data.DataLoader(samples, batch_size=8, collate_fn=collate)


@pytest.fixture
def module(tmp_path):
    torch.manual_seed(0)
    model = ModelWrapSeqToDict(
        model=nn.Sequential(nn.Flatten(), nn.Linear(16, 2)),
        model_inputs=["data.image"],
        model_outputs=["model.logits.cls", "model.output.cls"],
        post_forward_processing_function=lambda logits: (logits, logits.softmax(dim=1)),
    )
    return LightningModuleDefault(
        model_dir=tmp_path,
        model=model,
        losses={"cls": LossDefault(pred="model.logits.cls", target="data.label", callable=nn.functional.cross_entropy)},
        optimizers_and_lr_schs=lambda module: torch.optim.SGD(module.parameters(), lr=0.1),
        best_epoch_source={"monitor": "validation.losses.cls"},
        prediction_keys=["model.output.cls", "data.label"],
    )


def titles(tmp_path):
    return re.findall("<h2>(.*?)</h2>", (tmp_path / "index.html").read_text())


def test_the_page_grows_with_training_testing_and_predicting(tmp_path, make_trainer, module, loader):
    report = RunReport(tmp_path, class_names=["dark", "bright"])
    trainer = make_trainer(max_epochs=3, callbacks=[report, PredictionsToFile(tmp_path / "predictions.csv")])
    trainer.fit(module, loader, loader)
    assert titles(tmp_path) == ["Learning curves", "Epochs", "Wiring", "Environment"]
    data = json.loads((tmp_path / "report.json").read_text())
    assert list(data["epochs"]) == ["0", "1", "2"]
    logged = trainer.callback_metrics
    assert data["epochs"]["2"]["train.losses.cls"] == pytest.approx(float(logged["train.losses.cls"]))
    assert data["monitor"] == "validation.losses.cls"
    trainer.test(module, loader, verbose=False)
    assert "Test" in titles(tmp_path)
    trainer.predict(module, loader, return_predictions=False)
    assert titles(tmp_path) == [
        "Learning curves", "Epochs", "Test", "Confusion matrix", "Classes", "Calibration", "Worst cases", "Wiring",
        "Environment",
    ]  # fmt: skip
    page = (tmp_path / "index.html").read_text()
    assert page.count("<img") == 24
    assert "bright" in page
    assert "http" not in re.sub(r"base64,[^\"]+", "", page)
    rows = [line.split(",") for line in (tmp_path / "predictions.csv").read_text().splitlines()[1:]]
    right = sum((float(row[2]) > float(row[1])) == int(row[3]) for row in rows)
    assert f"<b>{right / len(rows):.4f}</b><span>accuracy</span>" in page


def test_the_epochs_are_a_table_without_the_means_of_steps(tmp_path, make_trainer, module, loader):
    make_trainer(max_epochs=2, callbacks=[RunReport(tmp_path)], log_every_n_steps=1).fit(module, loader, loader)
    assert "train.losses.cls_step" in json.loads((tmp_path / "report.json").read_text())["epochs"]["1"]
    page = (tmp_path / "index.html").read_text()
    assert "cls_step" not in page
    header = re.findall(r'<th scope="col">(.*?)</th>', page)
    assert header[:5] == ["value", "best train", "best validation", "last train", "last validation"]


def test_the_worst_cases_are_those_of_the_lowest_probability(tmp_path, make_trainer, module, loader):
    report = RunReport(tmp_path)
    trainer = make_trainer(callbacks=[report, PredictionsToFile(tmp_path / "predictions.csv")])
    trainer.predict(module, loader, return_predictions=False)
    rows = [line.split(",") for line in (tmp_path / "predictions.csv").read_text().splitlines()[1:]]
    by_probability = sorted(rows, key=lambda row: float(row[1 + int(row[3])]))
    worst = json.loads((tmp_path / "report.json").read_text())["worst"]
    assert [case["id"] for case in worst] == [row[0] for row in by_probability[:24]]


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_resumed_run_shows_the_epochs_before(tmp_path, make_trainer, module, loader):
    make_trainer(max_epochs=2, callbacks=[RunReport(tmp_path)]).fit(module, loader, loader)
    before = json.loads((tmp_path / "report.json").read_text())["epochs"]
    resumed = make_trainer(max_epochs=3, callbacks=[RunReport(tmp_path)])
    resumed.fit(module, loader, loader, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    epochs = json.loads((tmp_path / "report.json").read_text())["epochs"]
    assert list(epochs) == ["0", "1", "2"]
    for epoch in ("0", "1"):
        assert epochs[epoch]["train.losses.cls"] == before[epoch]["train.losses.cls"]
        assert epochs[epoch]["validation.losses.cls"] == before[epoch]["validation.losses.cls"]


def test_epochs_without_a_validation_show_no_values_of_it(tmp_path, make_trainer, module, loader):
    trainer = make_trainer(max_epochs=2, check_val_every_n_epoch=2, callbacks=[RunReport(tmp_path)])
    module._best_epoch_source = None
    trainer.fit(module, loader, loader)
    epochs = json.loads((tmp_path / "report.json").read_text())["epochs"]
    assert ["validation.losses.cls" in epochs[epoch] for epoch in ("0", "1")] == [False, True]


def test_a_trial_run_leaves_no_page(tmp_path, make_trainer, module, loader):
    make_trainer(fast_dev_run=True, callbacks=[RunReport(tmp_path)]).fit(module, loader, loader)
    assert not (tmp_path / "index.html").exists()
