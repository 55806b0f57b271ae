"""Each row of the guide's "Defaults" and each point of its "Behavior" is checked by what this repository does."""

import inspect
import re
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader
from torchmetrics import MeanSquaredError

import fuse_optim
import fuse_optim.lightning
from fuse_core import NDict, collate, uncollate
from fuse_lightning import (
    EpochLosses,
    LightningModuleDefault,
    MetricDefault,
    MetricError,
    convert_predictions_to_dataframe,
    step_losses,
    step_metrics,
)
from fuse_losses import (
    LossBase,
    LossDefault,
    LossDice,
    LossFocal,
    LossSegmentationCrossEntropy,
    LossSupervisedContrastive,
    LossWarmUp,
)
from fuse_models import (
    BackboneInceptionResnetV2,
    BackboneResnet,
    Head1D,
    Head3D,
    HeadGlobalPoolingClassifier,
    ModelEnsemble,
    ModelMultiHead,
    ModelMultistream,
    ModelSiamese,
    ModelWrapSeqToDict,
)

GUIDE = Path(__file__).parents[4] / "docs" / "migrating-from-fusemedml.md"
TEXT = GUIDE.read_text(encoding="utf-8") if GUIDE.exists() else ""
pytestmark = pytest.mark.skipif(not TEXT, reason="the documentation is not part of the package's sdist")

CHECKS = {}


def says(start):
    """Registers the check of the row or point that starts so."""

    def register(check):
        CHECKS[start] = check
        return check

    return register


def statements():
    """The first cells of the rows of "Defaults", and the points of "Behavior"."""
    parts = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", TEXT, flags=re.DOTALL | re.MULTILINE))
    rows = re.findall(r"^\| (.+?) \|", parts["Defaults"], flags=re.MULTILINE)
    return [row for row in rows if row != "call"] + re.findall(r"^- (.+)$", parts["Behavior"], flags=re.MULTILINE)


def logits_and_target(seed=0):
    torch.manual_seed(seed)
    return {"p": torch.randn(2, 3, 4, 4), "t": torch.randint(3, (2, 4, 4))}


def network():
    return ModelWrapSeqToDict(model=nn.Linear(3, 1), model_inputs=["data.x"], model_outputs=["model.y"])


def loader():
    torch.manual_seed(1)
    samples = [{"data.sample_id": i, "data.x": torch.rand(3), "data.y": torch.rand(1)} for i in range(8)]
    return DataLoader(samples, batch_size=4, collate_fn=collate)


def trained(folder, epochs=2, function=F.mse_loss, resume=None, **options):
    torch.manual_seed(0)
    model = network()
    losses = {"mse": LossDefault(pred="model.y", target="data.y", callable=function)}
    options = {"optimizers_and_lr_schs": torch.optim.SGD(model.parameters(), lr=0.01)} | options
    module = LightningModuleDefault(folder, model, losses, **options)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = pl.Trainer(max_epochs=epochs, default_root_dir=folder, num_sanity_val_steps=0, **quiet)
    trainer.fit(module, loader(), loader(), ckpt_path=resume)
    return trainer, module


# ------------------------------------------------------------------------------------------------------------ defaults


@says("segmentation cross-entropy")
def _(folder):
    batch = logits_and_target()
    loss = LossSegmentationCrossEntropy(pred="p", target="t")(batch)
    torch.testing.assert_close(loss, F.cross_entropy(batch["p"], batch["t"]))


@says("focal")
def _(folder):
    batch = logits_and_target()
    loss = LossFocal(pred="p", target="t", gamma=0.0)(batch)
    torch.testing.assert_close(loss, F.cross_entropy(batch["p"], batch["t"]))


@says("Dice")
def _(folder):
    batch = logits_and_target()
    of_probabilities = LossDice(pred="q", target="t", activation="none")(batch | {"q": batch["p"].softmax(1)})
    torch.testing.assert_close(LossDice(pred="p", target="t")(batch), of_probabilities)


@says("Dice of a class")
def _(folder):
    one_hot = F.one_hot(torch.zeros(1, 4, 4).long(), 3).movedim(-1, 1).float()
    batch = {"p": one_hot, "t": torch.zeros(1, 4, 4).long()}
    assert LossDice(pred="p", target="t", activation="none")(batch) == 0


@says("`resize_mode`")
def _(folder):
    with pytest.raises(ValueError, match="resize_mode"):
        LossDice(pred="p", target="t")({"p": torch.rand(1, 2, 2, 2), "t": torch.zeros(1, 4, 4).long()})


@says("`BackboneInceptionResnetV2(weights=)`")
def _(folder):
    assert inspect.signature(BackboneInceptionResnetV2).parameters["weights"].default is None


@says("`Head3D(num_outputs=)`")
def _(folder):
    assert inspect.signature(Head3D).parameters["num_outputs"].default == 2


@says("`LightningModuleDefault(test_metrics=None)`")
def _(folder):
    metric = MetricDefault(pred="a", target="b", metric=MeanSquaredError())
    module = LightningModuleDefault(folder, network(), validation_metrics={"mse": metric})
    assert len(module.test_metrics) == 0


@says("`convert_predictions_to_dataframe`")
def _(folder):
    table = convert_predictions_to_dataframe([{"data.sample_id": [0], "x": torch.rand(1, 2)}])
    assert list(table.columns) == ["data.sample_id", "x.0", "x.1"]


# ------------------------------------------------------------------------------------------------ NDict and collating


@says("It is a `dict`")
def _(folder):
    nd = NDict({"a": {"b": 1}})
    assert dict(nd) == {"a.b": 1}
    assert nd | {"c": 2} == {"a.b": 1, "c": 2}
    assert nd.setdefault("d", 3) == 3
    nd.clear()
    assert nd == {}


@says('`nd["a"]` on a branch is a live view')
def _(folder):
    nd = NDict({"a": {"b": 0}})
    copied = nd["a"].copy()
    nd["a"]["b"] = 1
    assert (nd["a.b"], copied["b"]) == (1, 0)


@says("Assigning a mapping replaces the branch")
def _(folder):
    nd = NDict({"a": {"b": 0}})
    nd["a"] = {"c": 1}
    assert nd == {"a.c": 1}
    nd.update({"a": {"d": 2}})
    assert nd == {"a.c": 1, "a.d": 2}
    nd["a"] = {}
    assert nd == {}


@says("`NDict(other)` is a copy")
def _(folder):
    nd = NDict(a=1)
    NDict(nd)["a"] = 2
    assert nd["a"] == 1


@says("`to_dict` and `flatten`")
def _(folder):
    nd = NDict({"a.b": 1})
    assert type(nd.to_dict()) is type(nd.flatten()) is dict
    nd.to_dict()["a.b"] = 2
    assert nd["a.b"] == 1
    with pytest.raises(ValueError, match="leaf"):
        NDict({"a": 1, "a.b": 2}).unflatten()


@says("`indices`")
def _(folder):
    nd = NDict({"x": torch.arange(3), "n": [0, 1, 2]})
    for chosen in ([0, 2], torch.tensor([0, 2]), slice(0, 3, 2), torch.tensor([True, False, True])):
        assert nd.indices(chosen)["n"] == [0, 2]
    with pytest.raises(ValueError, match="'n'"):
        NDict({"x": torch.arange(3), "n": [0, 1]}).indices([0])


@says("`describe`")
def _(folder):
    nd = NDict({"b.x": 1, "a": 2})
    assert "b.x" in str(nd.describe())
    assert list(nd.top_level_keys()) == ["b", "a"]


@says("Keys must be strings")
def _(folder):
    with pytest.raises(ValueError, match="non-empty segments"):
        NDict({"a..b": 1})


@says("Samples that disagree")
def _(folder):
    with pytest.raises(ValueError, match="sample at position 1"):
        collate([{"a": torch.zeros(2)}, {"a": torch.zeros(3)}])
    with pytest.raises(ValueError, match="number of samples"):
        uncollate({"global_step": 1})


# -------------------------------------------------------------------------------------------------------------- losses


@says("A loss of your own")
def _(folder):
    class Own(LossBase):
        def compute(self, batch_dict):
            return batch_dict["p"].mean()

    batch = {"p": torch.ones(2)}
    assert Own(weight=3.0)(batch) == 3
    assert Own(preprocess_func=lambda batch_dict: {"p": batch_dict["p"] * 2})(batch) == 2

    class AsThere(LossBase):
        def forward(self, batch_dict):
            return batch_dict["p"].sum()

    assert AsThere()(batch) == 2


@says("**The focal loss has its whole gradient.**")
def _(folder):
    logits, target = torch.randn(2, 3, dtype=torch.double, requires_grad=True), torch.tensor([0, 2])
    loss = LossFocal(pred="p", target="t")
    assert torch.autograd.gradcheck(lambda x: loss({"p": x, "t": target}), logits)


@says("**`LossWarmUp` returns a zero")
def _(folder):
    pred = torch.rand(2, requires_grad=True)
    loss = LossWarmUp(LossDefault(pred="p", target="t", callable=F.mse_loss), 1)
    batch = {"p": pred, "t": torch.zeros(2)}
    zero = loss(batch)
    zero.backward()
    assert (zero.item(), pred.grad.tolist()) == (0, [0, 0])
    assert loss(batch) > 0
    assert loss.state_dict()
    assert loss(batch | {"global_step": 0}) == 0


@says("**`ignore_index`")
def _(folder):
    batch = logits_and_target()
    batch["t"][0, 0] = -100
    loss = LossSegmentationCrossEntropy(pred="p", target="t", ignore_index=-100)(batch)
    torch.testing.assert_close(loss, F.cross_entropy(batch["p"], batch["t"], ignore_index=-100))


@says('**`"maxpool"` pools each class by itself**')
def _(folder):
    batch = {"p": torch.tensor([0.0, 1.0, 1.0]).reshape(1, 3, 1, 1), "t": torch.tensor([[[1, 2], [2, 1]]])}
    assert LossDice(pred="p", target="t", activation="none", resize_mode="maxpool")(batch) == 0


@says('**`"ipw"` weights are N / (K n)**')
def _(folder):
    batch = logits_and_target()
    weights = batch["t"].numel() / (3 * batch["t"].flatten().bincount(minlength=3))
    loss = LossSegmentationCrossEntropy(pred="p", target="t", class_weights="ipw")(batch)
    torch.testing.assert_close(loss, F.cross_entropy(batch["p"], batch["t"], weight=weights))


@says("**Numeric class weights are a buffer**")
def _(folder):
    assert "class_weights" in LossFocal(pred="p", target="t", class_weights=[1.0, 2.0]).state_dict()


@says("**The contrastive loss averages")
def _(folder):
    features = torch.randn(2, 3, requires_grad=True)
    loss = LossSupervisedContrastive(feat_i="a", target_i="t")
    zero = loss({"a": features, "t": torch.tensor([0, 1])})
    assert (zero.item(), zero.requires_grad) == (0, True)


@says("**A batch that `preprocess_func` filtered to nothing")
def _(folder):
    loss = LossDefault(
        pred="p", target="t", callable=F.mse_loss, preprocess_func=lambda batch: NDict(batch).indices(slice(0))
    )
    zero = loss(NDict({"p": torch.rand(2, requires_grad=True), "t": torch.rand(2)}))
    assert (zero.item(), zero.requires_grad) == (0, True)


@says("**`preprocess_func` is given a shallow copy**")
def _(folder):
    batch = NDict({"p": torch.rand(2), "t": torch.rand(2)})

    def add(batch_dict):
        batch_dict["more"] = 1
        return batch_dict

    LossDefault(pred="p", target="t", callable=F.mse_loss, preprocess_func=add)(batch)
    assert "more" not in batch


@says("**Wrong arguments are errors at construction.**")
def _(folder):
    with pytest.raises(TypeError):
        LossDefault(pred="p", target="t", callable=F.mse_loss, weight="1")
    batch = logits_and_target()
    with pytest.raises(ValueError, match="3"):
        LossDice(pred="p", target="t")(batch | {"t": batch["t"] + 3})


# -------------------------------------------------------------------------------------------------------------- models


@says("`ModelWrapSeqToDict` raises")
def _(folder):
    model = ModelWrapSeqToDict(model=nn.LSTM(4, 2), model_inputs=["x"], model_outputs=["y"])
    with pytest.raises(ValueError, match="writes 1 outputs"):
        model({"x": torch.rand(1, 2, 4)})


@says("`ModelMultiHead(backbone_args=)`")
def _(folder):
    model = ModelMultiHead(backbone=nn.Linear(4, 2), heads=[], backbone_args=["x"])
    assert model({"x": torch.rand(3, 4)})["model.backbone_features"].shape == (3, 2)
    with pytest.raises(ValueError, match="channels"):
        ModelMultiHead(nn.Identity(), [], conv_inputs=[("x", 2)])({"x": torch.rand(1, 3, 4, 4)})


@says("`ModelMultistream` needs")
def _(folder):
    with pytest.raises(ValueError, match="streams"):
        ModelMultistream(("x", 3), [nn.Identity(), nn.Identity()], heads=[])
    model = ModelMultistream(("x", 2), [nn.Conv1d(1, 2, 1), nn.Conv1d(1, 2, 1)], heads=[])
    assert all(name.startswith("backbone_streams.") for name in model.state_dict())
    assert model({"x": torch.rand(1, 2, 5)})["model.backbone_features"].shape == (1, 4, 5)


@says("`ModelSiamese`")
def _(folder):
    model = ModelSiamese(conv_inputs_0=(("a", 1),), conv_inputs_1=(("b", 1),), backbone=nn.Conv2d(1, 2, 1), heads=[])
    batch = model({"a": torch.rand(3, 1, 4, 4), "b": torch.rand(3, 1, 4, 4)})
    assert batch["model.backbone_features"].shape == (3, 4, 4, 4)


@says("`ModelEnsemble` writes")
def _(folder):
    def member():
        head = Head1D("h", conv_inputs=[("model.backbone_features", 3)])
        return ModelMultiHead(nn.Identity(), [head], conv_inputs=["x"]).eval()

    result = ModelEnsemble([member(), member()])({"x": torch.rand(2, 3)})
    assert {"model.output.h_ensemble_0", "model.output.h_ensemble_1", "model.output.h_ensemble_average"} < set(result)


@says("Pretrained weights must fit")
def _(folder):
    weights = BackboneResnet().state_dict()
    with pytest.raises(ValueError, match=r"missing: conv1\.weight"):
        BackboneResnet(weights={name: weights[name] for name in weights if name != "conv1.weight"})
    two = BackboneResnet(in_channels=2, weights=weights).conv1.weight
    torch.testing.assert_close(two, weights["conv1.weight"][:, :2] * 1.5)


@says("`BackboneInceptionResnetV2` cut to 384")
def _(folder):
    backbone = BackboneInceptionResnetV2(logical_units_num=12, in_channels=1)
    backbone(torch.rand(2, 1, 76, 76)).sum().backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())
    assert {module.momentum for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)} == {0.1}


@says("Heads concatenate inputs on the channel axis")
def _(folder):
    head = Head1D("h", conv_inputs=[("a", 3), ("b", 2)], append_features=[("c", 1)])
    batch = head({"a": torch.rand(4, 3), "b": torch.rand(4, 2), "c": torch.rand(4, 1)})
    assert batch["model.logits.h"].shape == (4, 2)


@says("A regression writes `(batch, num_outputs)`")
def _(folder):
    head = Head1D("h", mode="regression", conv_inputs=[("a", 3)], num_outputs=1)
    assert head({"a": torch.rand(4, 3)})["model.output.h"].shape == (4, 1)


@says("A `shared_classifier_head`")
def _(folder):
    shared = nn.Linear(3, 2)
    head = HeadGlobalPoolingClassifier("h", conv_inputs=[("a", 3)], shared_classifier_head=shared)
    features = torch.rand(4, 3, 5, 5)
    torch.testing.assert_close(head({"a": features})["model.logits.h"], shared(features.amax((2, 3))))


# ---------------------------------------------------------------------------------------------------------- optimizers


def after_steps(with_closure):
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    x, optimizer = torch.rand(4, 3), fuse_optim.SAM(model.parameters(), torch.optim.SGD, rho=0.05, lr=0.1, momentum=0.9)

    def loss():
        return model(x).square().mean()

    def closure():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    if with_closure:
        at_the_weights = loss().item()
        assert optimizer.step(closure).item() == pytest.approx(at_the_weights)
    else:
        loss().backward()
        optimizer.first_step(zero_grad=True)
        loss().backward()
        optimizer.second_step(zero_grad=True)
    return model, optimizer


@says("`SAM(params, base_optimizer")
@says("`step(closure)` evaluates the closure")
def _(folder):
    models = [after_steps(with_closure)[0].state_dict() for with_closure in (False, True)]
    torch.testing.assert_close(dict(models[0]), dict(models[1]))


@says("Checkpoints carry the base optimizer's state")
def _(folder):
    _, optimizer = after_steps(with_closure=True)
    assert "momentum_buffer" in str(optimizer.state_dict())


@says("The callback for optimizers")
def _(folder):
    assert issubclass(fuse_optim.lightning.OptimizerClosureCallback, pl.Callback)


# ----------------------------------------------------------------------------------------------------------- Lightning


@says("Losses and metrics are submodules")
def _(folder):
    loss = LossFocal(pred="p", target="t", class_weights=[1.0, 2.0])
    assert "losses.focal.class_weights" in LightningModuleDefault(folder, network(), {"focal": loss}).state_dict()


@says("Epoch losses are means over all processes")
def _(folder):
    losses = EpochLosses()
    for value, samples in ((1.0, 3), (5.0, 1)):
        losses.update({"data.sample_id": list(range(samples)), "losses.a": torch.tensor(value)})
    assert losses.means()["a"] == 2


@says("Losses are kept on the device")
@says("`losses.*` in the batch_dict are detached")
def _(folder):
    batch = {"p": torch.rand(2, requires_grad=True), "t": torch.rand(2)}
    step_losses({"mse": LossDefault(pred="p", target="t", callable=F.mse_loss)}, batch)
    assert isinstance(batch["losses.mse"], torch.Tensor)
    assert not batch["losses.mse"].requires_grad


class Collected:
    """A metric in fuse.eval's manner."""

    def reset(self):
        self.values = []

    def collect(self, batch):
        self.values.append(batch["losses.total_loss"])

    def eval(self, results=None):
        return sum(self.values)


@says("Metrics are torchmetrics")
def _(folder):
    trainer, _ = trained(folder, epochs=1, validation_metrics={"sum": Collected()})
    logged = trainer.callback_metrics
    assert logged["validation.metrics.sum"] == pytest.approx(2 * logged["validation.losses.mse"].item())


@says("An error in a metric stops the run")
def _(folder):
    metric = MetricDefault(pred="p", target="t", metric=MeanSquaredError())
    with pytest.raises(MetricError, match="The metric 'mse'"):
        step_metrics({"mse": metric}, {"p": torch.rand(2), "t": torch.rand(3)})
    module = LightningModuleDefault(None, network(), train_metrics={"a": metric}, validation_metrics={"a": metric})
    assert module.train_metrics["a"] is not module.validation_metrics["a"]


@says("`save_model` writes")
@says("The epoch summary's file holds the last table")
@says("`best_epoch_source` is not changed")
def _(folder):
    source = {"monitor": "validation.losses.mse", "mode": "min"}
    given = dict(source)
    trained(folder, save_model=True, best_epoch_source=source)
    assert source == given
    names = {"model.safetensors", "model.md", "last.ckpt", "best_epoch.ckpt", "epoch_summary_validation.losses.mse.txt"}
    assert names <= {path.name for path in folder.iterdir()}
    summary = (folder / "epoch_summary_validation.losses.mse.txt").read_text()
    assert summary.count("losses.mse *") == 1


@says("`last.ckpt` is written after every epoch")
def _(folder):
    _, whole = trained(folder / "whole", epochs=2)
    trained(folder / "resumed", epochs=1)
    with pytest.warns(UserWarning, match="exists and is not empty"):
        _, resumed = trained(folder / "resumed", epochs=2, resume=folder / "resumed" / "last.ckpt")
    torch.testing.assert_close(dict(resumed.state_dict()), dict(whole.state_dict()), rtol=0, atol=0)


@says("A total loss that is NaN or infinite")
def _(folder):
    with pytest.raises(Exception, match="mse"):
        trained(folder, function=lambda pred, target: pred.sum() * float("nan"))


@pytest.mark.parametrize("statement", statements() if TEXT else [])
def test_the_difference_is_as_told(statement, tmp_path):
    starts = [start for start in CHECKS if statement.startswith(start)]
    assert starts, f"no check of {statement!r}"
    CHECKS[max(starts, key=len)](tmp_path)


def test_each_check_belongs_to_a_statement():
    told = statements()
    assert [start for start in CHECKS if not any(statement.startswith(start) for statement in told)] == []
