"""Options are checked once, by the annotations of the loss, and named with all options of that loss."""

import inspect
from typing import get_type_hints

import numpy as np
import pytest
import torch

import fuse_losses
from fuse_losses import (
    LossDense,
    LossDice,
    LossFocal,
    LossLinearCompound,
    LossSegmentationCrossEntropy,
    LossTversky,
    functional,
)
from fuse_losses._dense.options import DenseOptions
from fuse_losses.functional.cross_entropy import CrossEntropyOptions
from fuse_losses.functional.dice import DiceOptions
from fuse_losses.functional.focal import FocalOptions
from fuse_losses.functional.generalized_dice import GeneralizedDiceOptions
from fuse_losses.functional.top_k_cross_entropy import TopKOptions
from fuse_losses.functional.tversky import TverskyOptions

KEYS = {"pred": "model.logits", "target": "data.seg"}
OPTIONS = {
    functional.segmentation_cross_entropy: CrossEntropyOptions,
    functional.top_k_cross_entropy: TopKOptions,
    functional.focal_loss: FocalOptions,
    functional.dice_loss: DiceOptions,
    functional.tversky_loss: TverskyOptions,
    functional.generalized_dice_loss: GeneralizedDiceOptions,
}
CLASSES = [one for one in vars(fuse_losses).values() if isinstance(one, type) and issubclass(one, LossDense)]
CLASSES = [one for one in CLASSES if one not in (LossDense, LossLinearCompound)]


@pytest.mark.parametrize(("function", "options"), OPTIONS.items())
def test_the_options_of_a_class_have_the_names_and_types_of_the_functions(function, options):
    hints = get_type_hints(options)
    own = {name: hint for name, hint in hints.items() if name not in get_type_hints(DenseOptions)}
    signature = inspect.signature(function).parameters.values()
    expected = {one.name: one.annotation for one in signature if one.kind is one.KEYWORD_ONLY and one.name != "mask"}
    assert own == expected


@pytest.mark.parametrize(
    ("loss", "option", "nearest"),
    [
        (LossFocal, "gama", "gamma"),
        (LossDice, "smooth_nr", "smooth_numerator"),
        (LossDice, "smooth", "smooth_numerator' or 'smooth_denominator"),
        (LossTversky, "betta", "beta"),
        (LossSegmentationCrossEntropy, "mask_keys", "mask_key"),
    ],
)
def test_an_unknown_option_names_the_nearest_of_all_options_of_that_loss(loss, option, nearest):
    message = f"^{loss.__name__} has no option '{option}'. Did you mean '{nearest}'"
    with pytest.raises(TypeError, match=message):
        loss(**KEYS, **{option: 1.0})


def test_an_unknown_option_unlike_all_others_lists_them():
    with pytest.raises(TypeError, match=r"LossDice has no option 'batch'\. Its options: .*jaccard.*weight\."):
        LossDice(**KEYS, batch=True)


def test_a_weight_for_each_class_is_sent_to_class_weights():
    with pytest.raises(TypeError, match=r"LossFocal\(weight=\) takes a number, got tensor.* use class_weights"):
        LossFocal(**KEYS, weight=torch.ones(3))


@pytest.mark.parametrize("loss", CLASSES)
def test_numbers_of_numpy_are_numbers(loss):
    own = {"terms": {"cross_entropy": 1.0, "dice": 1.0}} if loss.__name__ == "LossCompound" else {}
    logits, target = torch.randn(2, 3, 4), torch.randint(3, (2, 4))
    batch = {"model.logits": logits, "data.seg": target}
    ours = {"class_weights": np.array([1.0, 2.0, 0.5]), "ignore_index": np.int64(1), "ignore_classes": [np.int32(2)]}
    plain = {"class_weights": [1.0, 2.0, 0.5], "ignore_index": 1, "ignore_classes": [2]}
    value = loss(**KEYS, weight=np.float32(2.0), **own, **ours)(batch)
    assert torch.equal(value, loss(**KEYS, weight=2.0, **own, **plain)(batch))


def test_numbers_of_numpy_are_numbers_of_a_losss_own_options_too():
    logits, target = torch.randn(2, 3, 4), torch.randint(3, (2, 4))
    alpha = [0.1, 0.2, 0.7]
    expected = functional.focal_loss(logits, target, gamma=1.5, alpha=alpha)
    assert torch.equal(functional.focal_loss(logits, target, gamma=np.float32(1.5), alpha=np.array(alpha)), expected)


@pytest.mark.parametrize("value", [True, np.True_])
def test_a_bool_is_no_number(value):
    with pytest.raises(TypeError, match=r"LossFocal\(gamma=\) takes a number"):
        LossFocal(**KEYS, gamma=value)
    with pytest.raises(TypeError, match=r"LossFocal\(class_weights=\) takes a number"):
        LossFocal(**KEYS, class_weights=[value, 1.0])
    with pytest.raises(TypeError, match=r"LossFocal\(ignore_index=\) takes an int or None"):
        LossFocal(**KEYS, ignore_index=value)


@pytest.mark.parametrize("of", [np.array, torch.tensor, np.float64])
def test_an_array_or_a_tensor_of_one_number_is_a_number(of):
    logits, target = torch.randn(2, 3, 4), torch.randint(3, (2, 4))
    expected = LossFocal(gamma=1.5, alpha=0.25, label_smoothing=0.1, ignore_index=1, weight=2.0)(logits, target)
    numbers = {"gamma": of(1.5), "alpha": of(0.25), "label_smoothing": of(0.1), "weight": of(2.0)}
    index = of(1) if of is not np.float64 else np.int64(1)
    assert LossFocal(**numbers, ignore_index=index)(logits, target) == expected
    alpha = [of(0.25)] * 3
    value = functional.focal_loss(logits, target, gamma=of(1.5), alpha=alpha, label_smoothing=of(0.1), ignore_index=1)
    assert 2 * value == expected


@pytest.mark.parametrize("of", [np.bool_, np.array, torch.tensor])
def test_bools_and_class_indices_of_numpy_and_torch_are_accepted(of):
    classes = np.array([1]) if of is not torch.tensor else torch.tensor([1])
    loss = LossDice(include_background=of(False), ignore_classes=classes)
    assert loss.options["ignore_classes"] == (0, 1)


@pytest.mark.parametrize(
    ("loss", "options", "message"),
    [
        (LossFocal, {"gamma": torch.nn.Parameter(torch.tensor(2.0))}, r"LossFocal\(gamma=\) takes a number"),
        (LossFocal, {"weight": torch.nn.Parameter(torch.tensor(2.0))}, r"LossFocal\(weight=\) takes a number"),
        (LossDice, {"class_weights": torch.nn.Parameter(torch.ones(3))}, "LossDice gives no gradient to class_weights"),
    ],
)
def test_a_parameter_as_an_option_is_an_error_as_it_would_get_no_gradient(loss, options, message):
    with pytest.raises(TypeError, match=message):
        loss(**options)


@pytest.mark.parametrize("weights", [{0: 1.0, 1: 2.0}, {1.0, 2.0}])
def test_numbers_of_classes_without_an_order_are_an_error(weights):
    with pytest.raises(
        TypeError, match=r"LossDice\(class_weights=\) takes a number for each class, 'ipw' or None, got"
    ):
        LossDice(class_weights=weights)


def test_weights_of_predictions_are_called_so():
    with pytest.raises(TypeError, match=r"LossDice\(deep_supervision_weights=\) takes a number for each prediction"):
        LossDice(deep_supervision_weights=1.0)


def test_an_option_of_other_losses_names_them():
    losses = "segmentation_cross_entropy, focal_loss, top_k_cross_entropy"
    with pytest.raises(TypeError, match=rf"LossDice has no option 'pos_weight'\. It is an option of {losses}\."):
        LossDice(pos_weight=2.0)


def test_a_misspelt_tensor_of_a_function_names_the_nearest():
    with pytest.raises(TypeError, match=r"dice_loss has no option 'voxel_weight'\. Did you mean 'voxel_weights'"):
        functional.dice_loss(torch.zeros(1, 2, 4), torch.zeros(1, 4).long(), voxel_weight=torch.ones(1, 4))


@pytest.mark.parametrize("alpha", [[2.0], torch.tensor([2.0])])
def test_alpha_of_a_single_channel_is_at_most_1(alpha):
    with pytest.raises(ValueError, match=r"LossFocal\(alpha=\) is a finite number of at least 0 and at most 1, got 2"):
        LossFocal(activation="none", alpha=alpha)


def test_nothing_is_checked_again_in_a_batch(monkeypatch):
    loss = LossDice(**KEYS, include_background=False)
    monkeypatch.setattr("fuse_losses._dense.loss_decorator.DenseLoss.checked", None)
    assert loss({"model.logits": torch.zeros(1, 2, 4), "data.seg": torch.zeros(1, 4, dtype=torch.long)}) == 0


def test_dir_shows_the_public_names():
    assert dir(fuse_losses) == sorted(fuse_losses.__all__)
    assert dir(functional) == sorted(functional.__all__)


@pytest.mark.parametrize("loss", [LossSegmentationCrossEntropy, LossFocal, LossDice])
def test_across_processes_where_nothing_is_summed_is_an_error(loss):
    with pytest.raises(ValueError, match=rf"{loss.__name__}\(across_processes=True\) changes nothing with reduction"):
        loss(across_processes=True, reduction="none")
    loss(across_processes=True, reduction="none", class_weights="ipw")  # counts the classes of all processes


def test_merging_classes_without_a_softmax_is_an_error():
    with pytest.raises(ValueError, match=r"LossDice\(merge_unannotated=True\) merges .* got activation='sigmoid'"):
        LossDice(merge_unannotated=True, activation="sigmoid")
