import json
import os
import re

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torchmetrics.classification import MulticlassF1Score
from torchmetrics.functional.classification import multiclass_f1_score

from fuse_core import NDict, collate
from fuse_lightning import LightningModuleDefault, MetricDefault, PredictionsToFile, RunReport, resumable_loader
from fuse_lightning.report import worst_cases
from fuse_lightning.report.png import png_bytes
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
def module(make_module):
    return make_module()


@pytest.fixture
def make_module(tmp_path):
    return lambda **changed: _module(tmp_path, **changed)


def _module(tmp_path, **changed):
    torch.manual_seed(0)
    model = ModelWrapSeqToDict(
        model=nn.Sequential(nn.Flatten(), nn.Linear(16, 2)),
        model_inputs=["data.image"],
        model_outputs=["model.logits.cls", "model.output.cls"],
        post_forward_processing_function=lambda logits: (logits, logits.softmax(dim=1)),
    )
    arguments = {
        "model_dir": tmp_path,
        "model": model,
        "losses": {
            "cls": LossDefault(pred="model.logits.cls", target="data.label", callable=nn.functional.cross_entropy)
        },
        "optimizers_and_lr_schs": lambda module: torch.optim.SGD(module.parameters(), lr=0.1),
        "best_epoch_source": {"monitor": "validation.losses.cls"},
        "prediction_keys": ["model.output.cls", "data.label"],
    }
    return LightningModuleDefault(**{**arguments, **changed})


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


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_new_training_shows_nothing_of_the_earlier_model(tmp_path, make_trainer, module, loader):
    report = RunReport(tmp_path)
    trainer = make_trainer(max_epochs=3, callbacks=[report, PredictionsToFile(tmp_path / "predictions.csv")])
    trainer.fit(module, loader, loader)
    trainer.test(module, loader, verbose=False)
    trainer.predict(module, loader, return_predictions=False)
    make_trainer(max_epochs=1, callbacks=[report]).fit(module, loader, loader)
    assert titles(tmp_path) == ["Learning curves", "Epochs", "Wiring", "Environment"]
    data = json.loads((tmp_path / "report.json").read_text())
    assert list(data["epochs"]) == ["0"]
    assert "test" not in data
    make_trainer(callbacks=[RunReport(tmp_path)]).test(module, loader, verbose=False)
    assert titles(tmp_path) == ["Learning curves", "Epochs", "Test", "Wiring", "Environment"]


def test_a_module_without_checks_trains_without_a_drawing(tmp_path, make_trainer, make_module, loader):
    module = make_module(check="off")
    module.model.reads = ("data.image", "data.missing")
    make_trainer(max_epochs=1, callbacks=[RunReport(tmp_path)]).fit(module, loader, loader)
    assert titles(tmp_path) == ["Learning curves", "Epochs", "Environment"]


def test_a_file_of_earlier_predictions_is_left_out(tmp_path, make_trainer, module, loader):
    writer = PredictionsToFile(tmp_path / "predictions.csv")
    make_trainer(callbacks=[writer]).predict(module, loader, return_predictions=False)
    make_trainer(callbacks=[RunReport(tmp_path)]).predict(module, loader, return_predictions=False)
    assert titles(tmp_path) == ["Environment"]
    make_trainer(callbacks=[RunReport(tmp_path), writer]).predict(module, loader, return_predictions=False)
    assert "Confusion matrix" in titles(tmp_path)


def test_a_training_that_stops_leaves_a_page_of_its_whole_epochs(tmp_path, make_trainer, module, loader):
    class FullDisk(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if (trainer.current_epoch, batch_idx) == (2, 3):
                raise OSError("full")

    with pytest.raises(OSError, match="full"):
        make_trainer(max_epochs=4, callbacks=[RunReport(tmp_path), FullDisk()]).fit(module, loader, loader)
    assert titles(tmp_path) == ["Learning curves", "Epochs", "Wiring", "Environment"]
    assert list(json.loads((tmp_path / "report.json").read_text())["epochs"]) == ["0", "1"]


@pytest.mark.filterwarnings("ignore:A checkpoint is written inside an epoch")
def test_the_best_value_may_be_of_a_validation_inside_an_epoch(tmp_path, make_trainer, make_module, loader):
    module = make_module(
        optimizers_and_lr_schs=lambda module: torch.optim.SGD(module.parameters(), lr=0.1, maximize=True)
    )
    trainer = make_trainer(max_epochs=1, val_check_interval=0.2, callbacks=[RunReport(tmp_path)])
    trainer.fit(module, loader, loader)
    best = float(trainer.checkpoint_callback.best_model_score)
    assert best < float(trainer.callback_metrics["validation.losses.cls"])
    assert f"<b>{best:.4g}</b><span>best " in (tmp_path / "index.html").read_text()


def test_values_named_with_slashes_have_learning_curves(tmp_path, make_trainer, make_module, loader):
    module = make_module(tensorboard_sep="/", best_epoch_source={"monitor": "validation/losses/cls"})
    make_trainer(max_epochs=2, callbacks=[RunReport(tmp_path)]).fit(module, loader, loader)
    assert (tmp_path / "index.html").read_text().count("<polyline") == 2  # training and validation


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
    worst = json.loads((tmp_path / "report.json").read_text())["worst"]["model.output.cls"]
    assert [case["id"] for case in worst] == [row[0] for row in by_probability[:24]]


def test_a_prediction_that_cannot_be_compared_is_named(tmp_path, make_trainer, module, loader):
    module.model.model[1].weight.data[0] = float("nan")
    trainer = make_trainer(callbacks=[RunReport(tmp_path), PredictionsToFile(tmp_path / "predictions.csv")])
    trainer.predict(module, loader, return_predictions=False)
    assert titles(tmp_path) == ["Not compared", "Environment"]
    assert "model.output.cls and data.label in predictions.csv are neither" in (tmp_path / "index.html").read_text()


def test_the_samples_of_several_loaders_are_said_to_be_taken_together(tmp_path, make_trainer, module, loader):
    trainer = make_trainer(callbacks=[RunReport(tmp_path), PredictionsToFile(tmp_path / "predictions.csv")])
    trainer.predict(module, loader, return_predictions=False)
    assert "taken together" not in (tmp_path / "index.html").read_text()
    trainer.predict(module, {"inside": loader, "outside": loader}, return_predictions=False)
    page = (tmp_path / "index.html").read_text()
    assert "80 samples of predictions.csv" in page
    assert "The loaders are taken together: inside, outside." in page


def test_pictures_are_made_of_the_worst_cases_only(tmp_path, make_trainer, module, loader, monkeypatch):
    made = []
    monkeypatch.setattr(worst_cases, "png_bytes", lambda image: made.append(image) or png_bytes(image))
    trainer = make_trainer(callbacks=[RunReport(tmp_path)])
    trainer.predict(module, loader, return_predictions=False)
    worst = {case["id"] for case in json.loads((tmp_path / "report.json").read_text())["worst"]["model.output.cls"]}
    made.clear()
    worst_first = sorted(loader.dataset, key=lambda sample: sample["data.sample_id"] not in worst)
    trainer.predict(module, torch.utils.data.DataLoader(worst_first, 8, collate_fn=collate), return_predictions=False)
    assert len(made) == len(worst) == 24


@pytest.mark.parametrize("shape", [(6, 6), (3, 6, 6)])
def test_a_segmentation_shows_dice_and_the_worst_cases_side_by_side(tmp_path, make_trainer, shape):
    generator = torch.Generator().manual_seed(0)
    masks = torch.randint(3, (20, *shape), generator=generator)
    predicted = torch.where(torch.rand(masks.shape, generator=generator) < 0.3, 0, masks)
    samples = [
        NDict({"data.sample_id": f"s{index}", "data.image": one[None].float(), "data.mask": mask})
        for index, (one, mask) in enumerate(zip(predicted, masks, strict=True))
    ]
    model = ModelWrapSeqToDict(
        model=nn.Identity(),
        model_inputs=["data.image"],
        model_outputs=["model.output.seg"],
        post_forward_processing_function=lambda image: image.long(),
    )
    accuracy = MulticlassF1Score(num_classes=3, average=None)
    names = ["ground", "liver", "kidney"]
    metric = MetricDefault(pred="model.output.seg", target="data.mask", metric=accuracy, class_names=names)
    module = LightningModuleDefault(
        None, model, test_metrics={"dice": metric}, prediction_keys=["model.output.seg", "data.mask"]
    )
    loader = torch.utils.data.DataLoader(samples, batch_size=8, collate_fn=collate)
    callbacks = [RunReport(tmp_path), PredictionsToFile(tmp_path / "predictions.csv")]
    make_trainer(callbacks=callbacks).predict(module, loader, return_predictions=False)
    assert titles(tmp_path) == ["Classes", "Confusion matrix of pixels", "Worst cases", "Environment"]
    page = (tmp_path / "index.html").read_text()
    assert all(f"</span> {name}</span>" in page for name in names[1:])
    assert page.count("<img") == 3 * 12
    over_pixels = multiclass_f1_score(predicted, masks, num_classes=3, average=None)[1:].mean()
    assert f"<b>{over_pixels:.4f}</b><span>mean Dice over pixels</span>" in page
    by_image = [
        float(multiclass_f1_score(*pair, num_classes=3, average=None)[1:].mean())
        for pair in zip(predicted, masks, strict=True)
    ]
    worst = json.loads((tmp_path / "report.json").read_text())["worst"]["model.output.seg"]
    assert [case["id"] for case in worst] == [f"s{index}" for index in np.argsort(by_image)[:12]]
    assert [case["value"] for case in worst] == pytest.approx(sorted(by_image)[:12])


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


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_run_resumed_inside_an_epoch_shows_the_values_of_that_epoch(tmp_path, make_trainer, make_module, loader):
    class Kill(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 8:
                raise OSError("killed")

    def train(folder, *callbacks, **options):
        module = make_module(model_dir=folder, save_every_n_steps=4)  # 5 steps are an epoch
        trainer = make_trainer(max_epochs=3, callbacks=[RunReport(folder), *callbacks])
        trainer.fit(module, resumable_loader(loader.dataset, batch_size=8, seed=0), loader, **options)

    train(tmp_path / "whole")
    with pytest.raises(OSError, match="killed"):
        train(tmp_path / "killed", Kill())
    train(tmp_path / "killed", ckpt_path=tmp_path / "killed" / "last.ckpt", weights_only=True)
    whole, resumed = (json.loads((tmp_path / run / "report.json").read_text())["epochs"] for run in ("whole", "killed"))
    assert resumed == whole


def test_epochs_without_a_validation_show_no_values_of_it(tmp_path, make_trainer, module, loader):
    trainer = make_trainer(max_epochs=2, check_val_every_n_epoch=2, callbacks=[RunReport(tmp_path)])
    module._best_epoch_source = None
    trainer.fit(module, loader, loader)
    epochs = json.loads((tmp_path / "report.json").read_text())["epochs"]
    assert ["validation.losses.cls" in epochs[epoch] for epoch in ("0", "1")] == [False, True]


def test_a_run_folder_that_cannot_be_written_is_found_before_training(tmp_path, make_trainer, module, loader):
    (tmp_path / "file").touch()
    trainer = make_trainer(max_epochs=2, callbacks=[RunReport(tmp_path / "file" / "run")])
    with pytest.raises(OSError, match="file/run"):
        trainer.fit(module, loader, loader)
    assert trainer.global_step == 0


def test_names_that_are_no_valid_text_are_shown_by_their_bytes(tmp_path, make_trainer, module, loader):
    name = os.fsdecode(b"caf\xe9.png")  # Latin-1, as Python reads it where file names are UTF-8
    for sample in loader.dataset:
        sample["data.sample_id"] = name
    trainer = make_trainer(callbacks=[RunReport(tmp_path), PredictionsToFile(tmp_path / "predictions.csv")])
    trainer.predict(module, loader, return_predictions=False)
    assert r"caf\udce9.png" in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_a_checkpoint_after_validation_holds_no_training_values_of_the_epoch_before(
    tmp_path, make_trainer, module, loader
):
    class Saved(pl.Callback):
        def on_validation_end(self, trainer, pl_module):
            saved.append(dict(report.state_dict()["epochs"][trainer.current_epoch]))

    saved, report = [], RunReport(tmp_path)
    make_trainer(max_epochs=2, callbacks=[report, Saved()]).fit(module, loader, loader)
    assert [sorted(values) for values in saved] == [["validation.losses.cls", "validation.losses.total_loss"]] * 2


def test_values_of_a_test_may_have_any_name(tmp_path, make_trainer, module, loader):
    class Logged(pl.Callback):
        def on_test_batch_end(self, trainer, pl_module, *batch):
            pl_module.log("accuracy", 0.5, batch_size=8)

    trainer = make_trainer(max_epochs=1, callbacks=[RunReport(tmp_path), Logged()])
    trainer.fit(module, loader, loader)
    trainer.test(module, loader, verbose=False)
    values = json.loads((tmp_path / "report.json").read_text())["test"]
    assert sorted(values) == ["accuracy", "test.losses.cls", "test.losses.total_loss"]


def test_a_trial_run_leaves_no_page(tmp_path, make_trainer, module, loader):
    make_trainer(fast_dev_run=True, callbacks=[RunReport(tmp_path)]).fit(module, loader, loader)
    assert not (tmp_path / "index.html").exists()
