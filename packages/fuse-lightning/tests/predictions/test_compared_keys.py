from torch import nn
from torchmetrics.classification import MulticlassAccuracy

from fuse_lightning import LightningModuleDefault, MetricDefault
from fuse_lightning.predictions.compared_keys import Task, compared_keys, names_of_classes, tasks_of
from fuse_losses import LossDefault

KEYS = ["data.sample_id", "model.logits.a", "model.output.a", "model.output.b", "data.a", "data.b"]
COMPARED = {"model.logits.a": "data.a", "model.logits.b": "data.b"}


def test_losses_and_metrics_tell_what_is_compared():
    loss = LossDefault(pred="model.logits.a", target="data.a", callable=nn.functional.cross_entropy)
    accuracy = MulticlassAccuracy(num_classes=2, average=None)
    metric = MetricDefault(pred="model.output.b", target="data.b", metric=accuracy, class_names=["no", "yes"])
    module = LightningModuleDefault(None, nn.Identity(), {"a": loss}, test_metrics={"b": metric})
    assert compared_keys(module) == COMPARED
    assert names_of_classes(module, "data.b") == ("no", "yes")
    assert names_of_classes(module, "data.a") == ()


def test_each_prediction_is_compared_with_its_own_target_and_outputs_come_first():
    assert tasks_of(KEYS, COMPARED) == [
        Task("a", "model.output.a", "data.a"),
        Task("b", "model.output.b", "data.b"),
        Task("a", "model.logits.a", "data.a"),
    ]


def test_the_only_target_is_that_of_every_prediction():
    assert tasks_of(["model.y", "data.y"], {}) == [Task("y", "model.y", "data.y")]
    assert tasks_of(KEYS, {}) == []


def test_only_predictions_are_compared():
    keys = ["loader", "sample_id", "model.output.a", "model.uncertainty", "data.a"]
    assert tasks_of(keys, COMPARED) == [Task("a", "model.output.a", "data.a")]
    assert [task.pred for task in tasks_of(keys, {})] == ["model.output.a", "model.uncertainty"]


def test_heads_with_one_last_name_keep_their_whole_names():
    keys = ["model.output.left.cls", "model.logits.left.cls", "model.output.right.cls", "data.cls"]
    assert [task.name for task in tasks_of(keys, {})] == ["left.cls", "right.cls", "left.cls"]


def test_the_given_keys_are_taken():
    assert tasks_of(KEYS, {}, pred="model.output.a", target="data.b") == [Task("a", "model.output.a", "data.b")]


def test_an_ensemble_is_compared_and_its_members_are_not():
    keys = [f"model.output.a_ensemble_{end}" for end in ("0", "1", "average")] + ["data.a", "data.b"]
    assert tasks_of(keys, COMPARED) == [Task("a", "model.output.a_ensemble_average", "data.a")]


def test_a_segmentation_needs_no_column_of_its_target():
    assert tasks_of(["model.seg"], {}, with_target={"model.seg"}) == [Task("seg", "model.seg", "")]
