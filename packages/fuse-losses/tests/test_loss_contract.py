"""The losses over a batch_dict."""

import copy
import pickle

import pytest
import torch

from fuse_core import NDict, NestedKeyError, check_contract
from fuse_losses import (
    LossBase,
    LossDefault,
    LossDice,
    LossExtractFromBatchDict,
    LossFocal,
    LossGeneralizedDice,
    LossSegmentationCrossEntropy,
    LossSupervisedContrastive,
    LossTversky,
    LossWarmUp,
    LossWrapToDict,
    functional,
)

CROSS_ENTROPY = torch.nn.functional.cross_entropy
KEYS = {"pred": "model.logits", "target": "data.label"}
DENSE = {
    LossSegmentationCrossEntropy: (functional.segmentation_cross_entropy, {"class_weights": [1.0, 2.0, 0.5]}),
    LossFocal: (functional.focal_loss, {"gamma": 1.5, "alpha": [0.2, 0.3, 0.5]}),
    LossDice: (functional.dice_loss, {"squared": True, "per_sample": False, "empty": "penalize"}),
    LossTversky: (functional.tversky_loss, {"alpha": 0.3, "beta": 0.7, "gamma": 0.75, "class_weights": "ipw"}),
    LossGeneralizedDice: (functional.generalized_dice_loss, {"volume_weights": "simple", "empty": "penalize"}),
}


def make_losses():
    wrapped = LossWrapToDict(
        loss_module=CROSS_ENTROPY, loss_arg_to_batch_key={"input": "model.logits", "target": "data.label"}
    )
    return {
        "default": LossDefault(callable=CROSS_ENTROPY, **KEYS),
        "wrap_to_dict": wrapped,
        "extract": LossExtractFromBatchDict(key="model.loss"),
        "contrastive": LossSupervisedContrastive(feat_i="model.feat", target_i="data.patient"),
        "warm_up": LossWarmUp(loss=LossDice(**KEYS), nof_iterations=1, ramp="cosine"),
        **{loss.__name__: loss(**KEYS, **options) for loss, (_, options) in DENSE.items()},
    }


every_loss = pytest.mark.parametrize("loss", make_losses().values(), ids=make_losses())


def make_batch():
    torch.manual_seed(0)
    logits = torch.randn(4, 3, 5, requires_grad=True)
    feat = torch.randn(4, 8, requires_grad=True)
    return NDict(
        {
            "model": {"logits": logits, "feat": feat, "loss": logits.mean()},
            "data": {"label": torch.randint(3, (4, 5)), "patient": torch.tensor([0, 0, 1, 1])},
        }
    )


@every_loss
def test_a_loss_can_be_pickled(loss):
    assert torch.equal(pickle.loads(pickle.dumps(loss))(make_batch()), copy.deepcopy(loss)(make_batch()))


@every_loss
def test_a_loss_is_a_scalar_of_the_graph_times_its_weight(loss):
    value = copy.deepcopy(loss)(make_batch())
    assert value.shape == ()
    assert value.requires_grad
    weighted = copy.deepcopy(loss)
    weighted.weight = 3.0
    assert torch.equal(weighted(make_batch()), 3 * value)


@every_loss
def test_a_loss_changes_neither_the_batch_dict_nor_its_tensors_nor_its_state_dict(loss):
    loss = copy.deepcopy(loss)
    batch = make_batch()
    before = {key: (value, value.detach().clone()) for key, value in batch.items()}
    state = {key: value.shape for key, value in loss.state_dict().items()}
    loss(batch).backward()
    assert list(batch) == list(before)
    for key, (value, original) in before.items():
        assert batch[key] is value
        assert torch.equal(value, original)
    assert {key: value.shape for key, value in loss.state_dict().items()} == state


@every_loss
@pytest.mark.parametrize("real", [False, True])
def test_the_contract_of_a_loss_raises_no_alarm(loss, real):
    class Model(torch.nn.Module):
        reads, writes = ("data.x",), ("model.logits", "model.feat", "model.loss")

        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(8, 15)

        def forward(self, batch_dict):
            scores = self.layer(batch_dict["data.x"])
            written = scores.reshape(-1, 3, 5), scores[:, :8], scores.mean()
            return batch_dict | dict(zip(self.writes, written, strict=True))

    batch = make_batch().select("data") | {"data.x": torch.randn(4, 8)}
    contract = check_contract({"model": Model(), "loss": loss}, batch, real=real)
    assert all(contract.trained_by["Model 'model'"].values())
    assert not any("was not checked" in note for note in contract.notes)


@every_loss
def test_a_loss_names_the_keys_that_it_reads(loss):
    batch = make_batch()
    read = []

    class Recorder(dict):
        def __getitem__(self, key):
            read.append(key)
            return batch[key]

    copy.deepcopy(loss)(Recorder(batch))
    assert set(read) == set(loss.reads)


@pytest.mark.parametrize("loss", [one for name, one in make_losses().items() if name != "extract"])
def test_a_batch_filtered_to_nothing_gives_a_zero_that_is_part_of_the_graph(loss):
    loss = copy.deepcopy(loss)
    loss.preprocess_func = lambda batch: batch.select("model.logits", "model.feat", "data").indices([False] * 4)
    batch = make_batch()
    value = loss(batch)
    assert value == 0
    grads = torch.autograd.grad(value, [batch["model.logits"], batch["model.feat"]], allow_unused=True)
    assert any(grad is not None and (grad == 0).all() for grad in grads)


@pytest.mark.parametrize(("loss", "function", "options"), [(k, *v) for k, v in DENSE.items()])
def test_a_dense_loss_is_the_function_of_what_its_keys_hold(loss, function, options):
    batch = make_batch()
    batch["data.mask"] = torch.rand(4, 5) < 0.6
    arguments = (batch["model.logits"], batch["data.label"])
    expected = function(*arguments, mask=batch["data.mask"], ignore_index=2, include_background=False, **options)
    module = loss(**KEYS, mask_key="data.mask", ignore_index=2, include_background=False, **options)
    assert torch.equal(module(batch), expected)
    roi = batch["data.mask"][:1]
    assert torch.equal(loss(**KEYS, mask=roi, **options)(batch), function(*arguments, mask=roi, **options))


@pytest.mark.parametrize("loss", [LossSegmentationCrossEntropy, LossFocal])
def test_a_classification_is_a_dense_prediction_without_spatial_axes(loss):
    torch.manual_seed(0)
    logits, label = torch.randn(6, 3), torch.randint(3, (6,))
    options = {"gamma": 0.0} if loss is LossFocal else {}
    value = loss(**KEYS, **options)({"model.logits": logits, "data.label": label})
    torch.testing.assert_close(value, CROSS_ENTROPY(logits, label))


def test_a_preprocess_func_gets_a_copy_that_it_may_write_to():
    def second_half(batch):
        batch["data.label"] = batch["data.label"] * 0
        return batch

    batch = make_batch()
    label = batch["data.label"]
    value = LossDefault(callable=CROSS_ENTROPY, preprocess_func=second_half, **KEYS)(batch)
    assert batch["data.label"] is label
    torch.testing.assert_close(value, CROSS_ENTROPY(batch["model.logits"], torch.zeros_like(label)))


def test_what_is_not_a_function_is_no_preprocess_func():
    with pytest.raises(TypeError, match=r"LossDice\(preprocess_func=\) takes a function, got 3"):
        LossDice(**KEYS, preprocess_func=3)


@pytest.mark.parametrize("loss", [LossDice(**KEYS), LossDefault(callable=CROSS_ENTROPY, **KEYS)])
def test_a_preprocess_func_without_a_return_is_an_error_that_says_so(loss):
    loss.preprocess_func = lambda batch: batch.update({"data.label": batch["data.label"] * 0})
    message = rf"^{type(loss).__name__}\(preprocess_func=\) returns a batch_dict, got NoneType. End the function with"
    with pytest.raises(TypeError, match=message):
        loss(make_batch())


def test_a_subclass_defines_compute():
    with pytest.raises(TypeError, match="compute"):
        LossBase()


def test_what_is_not_a_function_is_no_callable():
    with pytest.raises(TypeError, match=r"LossDefault\(callable=\) takes a function or a module, got 'mse'"):
        LossDefault(callable="mse", **KEYS)


def test_a_class_in_place_of_its_object_is_an_error():
    with pytest.raises(TypeError, match=r"^LossDefault\(callable=\) takes .*HuberLoss'>\. Give HuberLoss\(\.\.\.\)\."):
        LossDefault(callable=torch.nn.HuberLoss, **KEYS)
    keys = {"input": "model.logits", "target": "data.label"}
    with pytest.raises(TypeError, match=r"^LossWrapToDict\(loss_module=\) takes .* Give HuberLoss\(\.\.\.\)\."):
        LossWrapToDict(loss_module=torch.nn.HuberLoss, loss_arg_to_batch_key=keys)


def test_a_missing_key_is_named_with_its_nearest():
    with pytest.raises(KeyError, match=r"LossDefault reads 'model.logits', .* Nearest keys: 'model.logit'"):
        LossDefault(callable=CROSS_ENTROPY, **KEYS)({"model.logit": torch.zeros(1)})


class LossOfOnesOwn(LossBase):
    def compute(self, batch_dict):
        return {"mean": torch.mean}[self.kind](batch_dict["model.logits"])


def test_a_missing_key_is_named_by_a_loss_of_ones_own_too():
    loss = LossOfOnesOwn(reads=["model.logits"])
    loss.kind = "mean"
    with pytest.raises(NestedKeyError, match=r"LossOfOnesOwn reads 'model.logits', .* Nearest keys: 'model.logit'"):
        loss({"model.logit": torch.zeros(1)})


def test_a_key_error_of_another_dictionary_is_left_as_it_is():
    loss = LossOfOnesOwn(reads=["model.logits"])
    loss.kind = "median"
    with pytest.raises(KeyError, match=r"^'median'$"):
        loss({"model.logits": torch.zeros(1)})


def test_a_key_error_of_another_dictionary_is_not_one_of_the_batch():
    loss = LossOfOnesOwn(reads=["model.logits", "data.mask"])  # the mask is optional, and this batch has none
    loss.kind = "median"
    with pytest.raises(KeyError, match=r"^'median'$"):
        loss({"model.logits": torch.zeros(1)})


def test_a_key_error_of_a_loss_that_takes_a_nested_dictionary_is_left_as_it_is():
    class Nested(LossBase):
        def compute(self, batch_dict):
            return {"mean": torch.mean}["median"](batch_dict["model"]["logits"])

    with pytest.raises(KeyError, match=r"^'median'$"):
        Nested(reads=["model.logits"])({"model": {"logits": torch.zeros(1)}})


def test_keys_to_read_may_come_from_a_generator():
    assert LossOfOnesOwn(reads=(f"model.{name}" for name in ("logits", "features"))).reads == (
        "model.logits",
        "model.features",
    )


@pytest.mark.parametrize("batch", [[torch.zeros(2, 3)], torch.zeros(2, 3), None])
def test_what_is_no_dictionary_is_an_error_that_names_the_loss_and_its_keys(batch):
    loss = LossDice(pred="model.logits", target="data.seg")
    with pytest.raises(TypeError, match=r"^LossDice takes a dictionary that holds 'model.logits', 'data.seg', got"):
        loss(batch)
