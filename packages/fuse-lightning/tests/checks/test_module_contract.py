import functools
import warnings

import pytest
import torch
from torch import nn
from torchmetrics.classification import BinaryAccuracy, BinaryAUROC, MulticlassAccuracy

from fuse_core import ContractError, NDict, TensorSpec
from fuse_lightning import LightningModuleDefault, MetricDefault, check_module_contract
from fuse_losses import LossDefault
from fuse_models import ModelWrapSeqToDict

SPEC = {"data.x": TensorSpec((None, 3)), "data.y": TensorSpec((None, 1))}


def linear(inputs=3, outputs=1, key="model.y"):
    return ModelWrapSeqToDict(model=nn.Linear(inputs, outputs), model_inputs=["data.x"], model_outputs=[key])


class TwoHeads(nn.Module):
    reads, writes = ("data.x",), ("model.y", "model.logits.side")

    def __init__(self):
        super().__init__()
        self.y, self.side = nn.Linear(3, 1), nn.Linear(3, 2)

    def forward(self, batch_dict):
        batch_dict["model.y"] = self.y(batch_dict["data.x"])
        batch_dict["model.logits.side"] = self.side(batch_dict["data.x"])
        return batch_dict


def test_a_head_without_a_loss_stops_before_the_first_step(make_module, make_trainer, make_loader):
    trainer = make_trainer()
    with pytest.raises(ContractError, match=r"TwoHeads 'model': no loss trains 'side\.weight', 'side\.bias'") as info:
        trainer.fit(make_module(model=TwoHeads()), make_loader(8))
    assert trainer.global_step == 0
    assert info.value.__notes__ == ["To train without this check: LightningModuleDefault(check='wiring')."]


def test_a_loss_with_a_cached_window_trains(make_module, make_trainer, make_loader):
    window = functools.lru_cache(torch.ones)

    def weighted(pred, y):
        return ((pred - y) * window(1)).square().mean()

    module = make_module(losses={"mse": LossDefault(pred="model.y", target="data.y", callable=weighted)})
    before = module.model.model.weight.clone()
    make_trainer().fit(module, make_loader(8))
    assert not torch.equal(module.model.model.weight, before)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_loss_that_keeps_a_fake_tensor_does_not_train_on_it(make_module, make_trainer, make_loader):
    state = {"mean": torch.zeros(1)}

    def centered(pred, y):
        state["mean"] = 0.9 * state["mean"] + 0.1 * pred.detach().mean(0)
        return (pred - state["mean"] - y).square().mean()

    module = make_module(losses={"mse": LossDefault(pred="model.y", target="data.y", callable=centered)})
    with pytest.raises(RuntimeError, match=r"The losses are fake tensors .* LightningModuleDefault\(check='wiring'\)"):
        make_trainer().fit(module, make_loader(8))


class Sometimes(nn.Module):
    """Uses one of its layers later, as layer drop, warm-ups and alternating losses do."""

    reads, writes = ("data.x",), ("model.y",)

    def __init__(self):
        super().__init__()
        self.layer, self.later = nn.Linear(3, 1), nn.Linear(3, 1)

    def forward(self, batch_dict):
        layer = self.later if batch_dict["global_step"] > 0 else self.layer
        batch_dict["model.y"] = layer(batch_dict["data.x"])
        return batch_dict


def test_a_problem_that_may_be_meant_is_a_warning(make_module, make_trainer, make_loader):
    trainer = make_trainer()
    with pytest.warns(UserWarning, match=r"Training goes on, with 1 problem .*\n- .*no loss trains 'later\.weight'"):
        trainer.fit(make_module(model=Sometimes()), make_loader(8))
    assert trainer.global_step == 2


def test_a_head_that_only_validation_reads_is_a_warning(make_module, make_trainer, make_loader):
    metric = MetricDefault(pred="model.logits.side", target="data.y", metric=MulticlassAccuracy(num_classes=2))
    trainer = make_trainer()
    with pytest.warns(UserWarning, match=r"no loss trains 'side\.weight'"):
        trainer.fit(make_module(model=TwoHeads(), validation_metrics={"side": metric}), make_loader(8))
    assert trainer.global_step == 2


def test_what_fails_on_fake_tensors_only_trains_without_a_warning(make_module, make_trainer, make_loader):
    class OnlyTensors(Sometimes):
        def forward(self, batch_dict):
            if type(batch_dict["data.x"]) is not torch.Tensor:
                raise TypeError("only tensors")
            batch_dict["model.y"] = self.layer(batch_dict["data.x"]) + self.later(batch_dict["data.x"])
            return batch_dict

    trainer = make_trainer()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "(?s).*(contract|Training goes on)")
        trainer.fit(make_module(model=OnlyTensors()), make_loader(8))
    assert trainer.global_step == 2


def test_what_also_fails_in_the_step_is_explained(make_module, make_trainer, make_loader):
    trainer = make_trainer()
    with pytest.raises(ContractError, match=r"ModelWrapSeqToDict 'model' fails for a batch of 4: .*'data\.x'") as info:
        trainer.fit(make_module(model=linear(inputs=4)), make_loader(8))
    assert trainer.global_step == 0
    assert isinstance(info.value.__cause__, RuntimeError)


@pytest.mark.parametrize("check", ["wiring", "off"])
def test_the_check_can_be_left_out(make_module, make_trainer, make_loader, check):
    trainer = make_trainer()
    trainer.fit(make_module(model=TwoHeads(), check=check), make_loader(8))
    assert trainer.global_step == 2


def test_without_any_check_a_missing_key_is_found_by_the_step(make_module, make_trainer, make_loader):
    loss = LossDefault(pred="model.why", target="data.y", callable=nn.functional.mse_loss)
    with pytest.raises(KeyError, match=r"LossDefault reads 'model\.why'"):
        make_trainer().fit(make_module(losses={"mse": loss}, check="off"), make_loader(4))


def test_a_target_that_would_be_compared_with_each_prediction_stops(make_module, make_trainer, make_loader):
    class Flat(nn.Module):
        reads, writes = ("data.x",), ("model.y",)

        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 1)

        def forward(self, batch_dict):
            batch_dict["model.y"] = self.layer(batch_dict["data.x"]).squeeze(1)
            return batch_dict

    with pytest.raises(ContractError, match=r"'losses\.mse' compares each sample with each other one"):
        make_trainer().fit(make_module(model=Flat()), make_loader(8))


def test_frozen_parameters_are_meant_to_be_frozen(make_module, make_trainer, make_loader):
    model = TwoHeads()
    model.side.requires_grad_(False)
    trainer = make_trainer()
    trainer.fit(make_module(model=model, prediction_keys=["model.logits.side"]), make_loader(8))
    assert trainer.global_step == 2


def test_a_training_gives_the_same_numbers_with_and_without_the_check(make_module, make_trainer, make_loader, tmp_path):
    weights = []
    for check in ("contract", "off"):
        model = ModelWrapSeqToDict(
            model=nn.Sequential(nn.Linear(3, 8), nn.Dropout(), nn.Linear(8, 1)),
            model_inputs=["data.x"],
            model_outputs=["model.y"],
        )
        module = make_module(check=check, model_dir=tmp_path / check)
        torch.manual_seed(1)
        for layer in (model.model[0], model.model[2]):
            layer.reset_parameters()
        module.model = model
        make_trainer(max_epochs=2).fit(module, make_loader(8))
        weights.append(torch.cat([one.detach().flatten() for one in model.parameters()]))
    assert torch.equal(*weights)


def test_losses_of_training_only_do_not_run_in_eval_mode(make_module, make_trainer, make_loader, mse_loss):
    class Auxiliary(TwoHeads):
        def forward(self, batch_dict):
            batch_dict["model.y"] = self.y(batch_dict["data.x"])
            if self.training:
                batch_dict["model.logits.side"] = self.side(batch_dict["data.x"])
            return batch_dict

    side = LossDefault(
        pred="model.logits.side", target="data.y", callable=lambda pred, y: (pred.sum(1) - y[:, 0]).mean()
    )
    module = make_module(model=Auxiliary(), losses={"mse": mse_loss, "side": side}, validation_losses={"mse": mse_loss})
    trainer = make_trainer()
    trainer.fit(module, make_loader(8), make_loader(4))
    assert trainer.global_step == 2
    contract = check_module_contract(module, SPEC)
    assert contract.keys["model.logits.side"].shape == ("B", 2)
    assert contract.trained_by["Auxiliary 'model'"]["side.bias"] == ["LossDefault 'losses.side'"]


def test_losses_do_not_run_in_eval_mode_without_a_validation(make_module, make_trainer, make_loader):
    class OnlyInTraining(Sometimes):
        def forward(self, batch_dict):
            if self.training:
                batch_dict["model.y"] = self.layer(batch_dict["data.x"]) + self.later(batch_dict["data.x"])
            return batch_dict

    trainer = make_trainer()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "(?s).*Training goes on")
        trainer.fit(make_module(model=OnlyInTraining(), validation_metrics={}), make_loader(8))
    assert trainer.global_step == 2


@pytest.mark.parametrize("step", ["training_step", "forward"])
def test_a_module_with_a_step_of_its_own_is_checked_for_keys_only(
    make_module, make_trainer, make_loader, tmp_path, step
):
    own = {step: lambda self, *arguments: getattr(LightningModuleDefault, step)(self, *arguments)}
    kind = type("Own", (LightningModuleDefault,), own)
    arguments = {"optimizers_and_lr_schs": lambda module: torch.optim.SGD(module.parameters(), lr=0.1)}
    loss = LossDefault(pred="model.y", target="data.y", callable=nn.functional.mse_loss)
    trainer = make_trainer()
    trainer.fit(kind(model_dir=tmp_path, model=TwoHeads(), losses={"mse": loss}, **arguments), make_loader(8))
    assert trainer.global_step == 2


def test_a_component_that_cannot_be_checked_does_not_stop_training(make_module, make_trainer, make_loader):
    class NeedsValues(TwoHeads):
        def forward(self, batch_dict):
            super().forward(batch_dict)
            batch_dict["model.y"] = batch_dict["model.y"] * float(batch_dict["data.x"].numpy().shape[0])
            return batch_dict

    trainer = make_trainer()
    trainer.fit(make_module(model=NeedsValues()), make_loader(8))
    assert trainer.global_step == 2


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_the_trainers_precision_is_used(make_module, make_trainer, make_loader, precision):
    loss = LossDefault(
        pred="model.y", target="data.y", callable=lambda pred, y: ((pred - y.to(pred.dtype)) ** 2).mean()
    )
    trainer = make_trainer(precision=precision)
    trainer.fit(make_module(losses={"mse": loss}), make_loader(8))
    assert trainer.global_step == 2


def test_validation_and_prediction_can_be_checked(make_module):
    metric = MetricDefault(pred="model.y", target="data.z", metric=BinaryAccuracy())
    module = make_module(validation_metrics={"accuracy": metric}, prediction_keys=["model.z"])
    check_module_contract(module, SPEC)
    with pytest.raises(ContractError, match=r"MetricDefault 'metrics\.accuracy' reads 'data\.z', which nothing"):
        check_module_contract(module, SPEC, "validation")
    with pytest.raises(ContractError, match=r"The prediction key 'model\.z' is not in the batch at the end"):
        check_module_contract(module, SPEC, "predict")
    with pytest.raises(ValueError, match=r"is 'train', 'validation', 'test' or 'predict', got 'val'"):
        check_module_contract(module, SPEC, "val")


def test_keys_that_a_preprocessing_makes_are_no_problem(make_module, make_trainer, make_loader):
    def derive(batch_dict):
        batch_dict["data.doubled"] = 2 * batch_dict["data.y"]
        return batch_dict

    loss = LossDefault(pred="model.y", target="data.doubled", callable=nn.functional.mse_loss, preprocess_func=derive)
    module = make_module(losses={"mse": loss})
    assert check_module_contract(module, SPEC).trained_by["ModelWrapSeqToDict 'model'"]["model.bias"]
    trainer = make_trainer()
    trainer.fit(module, make_loader(8))
    assert trainer.global_step == 2


class Classes(nn.Module):
    """A module whose metric reads two classes' logits."""

    def __init__(self, metric):
        super().__init__()
        self.model = linear(outputs=2, key="model.logits.cls")
        self.train_metrics = nn.ModuleDict(
            {"one": MetricDefault(pred="model.logits.cls", target="data.label", metric=metric)}
        )


LABELS = {"data.x": TensorSpec((None, 3)), "data.label": TensorSpec((None,), torch.int64)}


def test_a_metric_of_another_number_of_classes_is_found():
    check_module_contract(Classes(MulticlassAccuracy(num_classes=2)), LABELS)
    with pytest.raises(ContractError, match=r"MetricDefault 'metrics\.one' fails .*number of classes"):
        check_module_contract(Classes(MulticlassAccuracy(num_classes=3)), LABELS)


def test_a_metric_of_probabilities_that_reads_logits_is_found(make_module, make_trainer, make_loader):
    module = make_module(model=linear(key="model.logits.y"))
    module.losses["mse"].pred = "model.logits.y"
    module.losses["mse"].reads = ("model.logits.y", "data.y")
    module.validation_metrics["auc"] = MetricDefault(pred="model.logits.y", target="data.y", metric=BinaryAUROC())
    message = r"BinaryAUROC expects probabilities: .* 'model\.logits\.y'.* such as 'model\.output\.y'"
    with pytest.raises(ContractError, match=message):
        check_module_contract(module, SPEC, "validation")
    with pytest.warns(UserWarning, match=message):
        make_trainer().fit(module, make_loader(4))


def test_a_batch_of_a_packed_sequence_trains(make_module, make_trainer):
    class Recurrent(nn.Module):
        reads, writes = ("data.sequence",), ("model.y",)

        def __init__(self):
            super().__init__()
            self.gru, self.head = nn.GRU(3, 4), nn.Linear(4, 1)

        def forward(self, batch_dict):
            batch_dict["model.y"] = self.head(self.gru(batch_dict["data.sequence"])[1][0])
            return batch_dict

    packed = nn.utils.rnn.pack_sequence([torch.ones(3, 3), torch.ones(2, 3)])
    batch = NDict({"data.sequence": packed, "data.y": torch.zeros(2, 1), "data.sample_id": ["a", "b"]})
    trainer = make_trainer()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Trying to infer the `batch_size`")
        trainer.fit(make_module(model=Recurrent()), torch.utils.data.DataLoader([batch] * 2, batch_size=None))
    assert trainer.global_step == 2
