import pytest
import torch
from torch.testing import assert_close

from fuse_losses import LossDense, LossDice, LossFocal, LossSegmentationCrossEntropy, functional

CROSS_ENTROPY = torch.nn.functional.cross_entropy
KEYS = {"pred": "model.logits", "target": "data.label"}


class LossBrier(LossDense):
    values_for = "voxel and class"

    def values(self, probabilities, truth):
        return (probabilities - truth).square()


def make_batch():
    torch.manual_seed(0)
    return {"model.logits": torch.randn(4, 3, 5, requires_grad=True), "data.label": torch.randint(3, (4, 5))}


def test_numeric_class_weights_and_alphas_are_buffers():
    weights = torch.tensor([1.0, 2.0])
    loss = LossFocal(**KEYS, class_weights=weights, alpha=[0.25, 0.75])
    assert set(loss.state_dict()) == {"class_weights", "alpha"}
    weights.zero_()
    assert torch.equal(loss.class_weights, torch.tensor([1.0, 2.0]).double())


def test_class_weights_and_alphas_stay_exact_whatever_type_the_module_is_cast_to():
    loss = LossFocal(**KEYS, class_weights=[0.1, 1 / 3, 1.0], alpha=[0.3, 0.2, 0.1], mask=torch.ones(1, 5)).half()
    batch = make_batch()
    batch["model.logits"] = batch["model.logits"].double()
    expected = functional.focal_loss(
        batch["model.logits"], batch["data.label"], class_weights=[0.1, 1 / 3, 1.0], alpha=[0.3, 0.2, 0.1]
    )
    assert torch.equal(loss(batch), expected)
    assert torch.equal(loss.type(torch.float16)(batch), expected)
    assert loss.to("meta").class_weights.device.type == "meta"
    assert loss.to_empty(device="cpu").class_weights.dtype == torch.float64


def test_class_weights_can_be_shared_between_processes():
    assert LossFocal(**KEYS, class_weights=[0.1, 0.2, 0.7]).share_memory().class_weights.is_shared()


def test_a_loss_without_numbers_has_no_state():
    assert not LossFocal(**KEYS, class_weights="ipw", alpha=0.25, mask=torch.ones(1, 4)).state_dict()


def test_the_module_follows_its_class_weights():
    loss = LossSegmentationCrossEntropy(**KEYS, class_weights=[1.0, 1.0, 1.0])
    loss.load_state_dict({"class_weights": torch.tensor([0.0, 0.0, 2.0])})
    batch = make_batch()
    expected = CROSS_ENTROPY(batch["model.logits"], batch["data.label"], torch.tensor([0.0, 0.0, 2.0]))
    torch.testing.assert_close(loss(batch), expected)


@pytest.mark.parametrize(("activation", "warned"), [("softmax", True), ("none", False), ("sigmoid", False)])
def test_a_prediction_that_had_its_softmax_is_warned_of_once(activation, warned, recwarn):
    probabilities = torch.rand(2, 3, 4).softmax(1)
    loss = LossDice(pred="model.output.seg", target="data.seg", activation=activation)
    batch = {"model.output.seg": probabilities, "data.seg": torch.randint(3, (2, 4))}
    loss(batch)
    loss(batch)
    messages = [str(one.message) for one in recwarn]
    assert len(messages) == warned
    if warned:
        assert "LossDice(pred='model.output.seg', target='data.seg') applies a softmax" in messages[0]


def test_classes_merged_into_the_background_do_not_count_in_a_loss_of_ones_own():
    torch.manual_seed(0)
    logits, target = torch.randn(2, 3, 5), torch.randint(2, (2, 5))
    annotated = torch.tensor([[True, True, False]] * 2)
    value = LossBrier(merge_unannotated=True)(logits, target, annotated=annotated)
    p = logits.softmax(1)
    merged = torch.stack([p[:, 0] + p[:, 2], p[:, 1]], 1)
    assert_close(value, LossBrier(activation="none")(merged, target))


class LossDiceWithValues(LossDice):
    def values(self, probabilities, truth):
        return probabilities - truth


class LossOfTorch(LossDense):
    function = staticmethod(CROSS_ENTROPY)


class LossDiceOfVoxels(LossDice):
    values_for = "voxel"


@pytest.mark.parametrize("loss", [LossDiceWithValues, LossDiceOfVoxels, LossOfTorch])
def test_a_formula_that_would_not_be_computed_is_an_error(loss):
    with pytest.raises(TypeError, match=f"{loss.__name__}.* your own subclass LossDense and define"):
        loss(ignore_index=1)


def test_a_misspelt_argument_of_a_subclass_is_named_as_its_options_are():
    class LossPower(LossDense):
        def __init__(self, power=2.0, **arguments):
            super().__init__(**arguments)
            self.power = power

        def values(self, probabilities, truth):
            return (probabilities - truth).abs() ** self.power

    with pytest.raises(TypeError, match=r"^LossPower has no option 'powr'\. Did you mean 'power'"):
        LossPower(powr=3.0)
    with pytest.raises(TypeError, match=r"^LossPower has no option 'mask_ky'\. Did you mean 'mask_key'"):
        LossPower(mask_ky="data.mask")
