"""Bad input to dense losses: errors that say the rule, the value and the fix."""

import pytest
import torch

from fuse_losses import LossDice, LossFocal, LossGeneralizedDice, LossSegmentationCrossEntropy, LossTversky
from fuse_losses.functional import (
    dice_loss,
    focal_loss,
    generalized_dice_loss,
    segmentation_cross_entropy,
    tversky_loss,
)

FUNCTIONS = [segmentation_cross_entropy, focal_loss, dice_loss, tversky_loss, generalized_dice_loss]
CLASSES = [LossSegmentationCrossEntropy, LossFocal, LossDice, LossTversky, LossGeneralizedDice]
LOGITS, TARGET = torch.zeros(2, 3, 4), torch.zeros(2, 4, dtype=torch.long)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"activaton": "softmax"}, TypeError, "has no option 'activaton'. Did you mean 'activation'"),
        ({"activation": "relu"}, ValueError, "activation=.* is one of 'softmax', 'sigmoid', 'none', got 'relu'"),
        ({"reduction": "avg"}, ValueError, "reduction=.* is one of 'none', 'mean', 'sum', got 'avg'"),
        ({"resize_mode": "cubic"}, ValueError, "resize_mode=.* 'nearest', 'maxpool', 'area', None, got 'cubic'"),
        ({"ignore_index": 1.0}, TypeError, "ignore_index=.* takes an int or None, got 1.0"),
        ({"ignore_classes": 1}, TypeError, "ignore_classes=.* takes several ints, got 1"),
        ({"ignore_classes": [-1]}, ValueError, r"ignore_classes=.* takes class indices from 0, got \[-1\]"),
        (
            {"class_weights": "inverse"},
            TypeError,
            "class_weights=.* a number for each class, 'ipw' or None, got 'inverse'",
        ),
        ({"class_weights": 2.0}, TypeError, "class_weights=.* a number for each class, 'ipw' or None, got 2.0"),
        (
            {"class_weights": [1.0, float("nan"), 1.0]},
            ValueError,
            "class_weights=.* finite number of at least 0, got nan",
        ),
        ({"class_weights": torch.tensor([1.0, torch.nan, 1.0])}, ValueError, "finite number of at least 0, got nan"),
        ({"class_weights": torch.tensor([1.0, -2.0, 1.0])}, ValueError, "finite number of at least 0, got -2.0"),
        ({"include_background": "no"}, TypeError, "include_background=.* takes True or False, got 'no'"),
        ({"validate": 1}, TypeError, "validate=.* takes True or False, got 1"),
        ({"class_weights": torch.ones(1, 3)}, ValueError, r"has one axis, over the classes, got shape \(1, 3\)"),
    ],
)
def test_a_bad_option_is_an_error_in_functions_and_at_construction(options, error, message):
    for function in FUNCTIONS:
        with pytest.raises(error, match=f"{function.__name__}.*{message}"):
            function(LOGITS, TARGET, **options)
    for loss in CLASSES:
        with pytest.raises(error, match=f"{loss.__name__}.*{message}"):
            loss(pred="pred", target="target", **options)


@pytest.mark.parametrize(
    ("function", "loss", "options", "error", "message"),
    [
        (focal_loss, LossFocal, {"gamma": -1.0}, ValueError, "gamma=.* finite number of at least 0, got -1.0"),
        (focal_loss, LossFocal, {"gamma": float("nan")}, ValueError, "gamma=.* finite number of at least 0, got nan"),
        (focal_loss, LossFocal, {"gamma": "2"}, TypeError, "gamma=.* takes a number, got '2'"),
        (
            focal_loss,
            LossFocal,
            {"alpha": "ipw"},
            TypeError,
            "alpha=.* takes a number for each class, a number for all or None, got 'ipw'",
        ),
        (focal_loss, LossFocal, {"alpha": [0.1, -0.1, 0.2]}, ValueError, "alpha=.* at least 0, got -0.1"),
        (
            focal_loss,
            LossFocal,
            {"alpha": 1.5, "activation": "sigmoid"},
            ValueError,
            "at least 0 and at most 1, got 1.5",
        ),
        (dice_loss, LossDice, {"empty": "one"}, ValueError, "empty=.* 'skip', 'zero', 'penalize', got 'one'"),
        (dice_loss, LossDice, {"smooth_numerator": -1.0}, ValueError, "smooth_numerator=.* at least 0, got -1.0"),
        (dice_loss, LossDice, {"squared": 2}, TypeError, "squared=.* takes True or False, got 2"),
        (dice_loss, LossDice, {"per_sample": None}, TypeError, "per_sample=.* takes True or False, got None"),
        (tversky_loss, LossTversky, {"alpha": -0.1}, ValueError, "alpha=.* at least 0, got -0.1"),
        (
            tversky_loss,
            LossTversky,
            {"gamma": float("inf")},
            ValueError,
            "gamma=.* finite number of at least 0, got inf",
        ),
        (
            generalized_dice_loss,
            LossGeneralizedDice,
            {"volume_weights": "cube"},
            ValueError,
            "volume_weights=.* 'square', 'simple', 'uniform', got 'cube'",
        ),
        (generalized_dice_loss, LossGeneralizedDice, {"empty": "zero"}, ValueError, "empty=.* 'skip', 'penalize', got"),
        (
            generalized_dice_loss,
            LossGeneralizedDice,
            {"per_sample": 1},
            TypeError,
            "per_sample=.* True or False, got 1",
        ),
    ],
)
def test_a_bad_argument_of_one_loss_is_an_error_there_too(function, loss, options, error, message):
    with pytest.raises(error, match=f"{function.__name__}.*{message}"):
        function(LOGITS, TARGET, **options)
    with pytest.raises(error, match=f"{loss.__name__}.*{message}"):
        loss(pred="pred", target="target", **options)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    ("logits", "target", "options", "error", "message"),
    [
        (LOGITS.long(), TARGET, {}, TypeError, "takes a floating-point prediction, got torch.int64"),
        (torch.zeros(3), TARGET, {}, ValueError, r"0 to 3 spatial axes, got shape \(3,\)"),
        (torch.zeros(1, 2, 1, 1, 1, 1), TARGET, {}, ValueError, r"0 to 3 spatial axes, got shape \(1, 2, 1, 1, 1, 1\)"),
        (
            torch.zeros(2, 1, 4),
            TARGET,
            {},
            ValueError,
            "one class, .* whose softmax is always 1. Use activation='sigmoid'",
        ),
        (
            LOGITS,
            TARGET[0],
            {},
            ValueError,
            r"\[B, 3, \*spatial\] for a prediction of shape \(2, 3, 4\), got shape \(4,\)",
        ),
        (LOGITS, torch.zeros(2, 2, 4), {}, ValueError, r"for a prediction of shape \(2, 3, 4\), got shape \(2, 2, 4\)"),
        (LOGITS, TARGET[:1], {}, ValueError, r"as many targets as predictions, got shapes \(1, 4\) and \(2, 3, 4\)"),
        (
            LOGITS,
            TARGET[:, :2],
            {},
            ValueError,
            r"shape \(2, 2\) for .* \(2, 3, 4\). Resize .* with resize_mode='nearest'",
        ),
        (LOGITS, TARGET.float(), {}, TypeError, r"class indices of an integer type, got torch.float32. .* .long\(\)"),
        (LOGITS, LOGITS.to(torch.complex64), {}, TypeError, "indices or real probabilities .*, got torch.complex64"),
        (LOGITS, torch.zeros(2, 3, 4, requires_grad=True), {}, TypeError, r"no gradient to the target.*\.detach\(\)"),
        (
            LOGITS,
            TARGET + 3,
            {},
            ValueError,
            "class indices from 0 to 2, got 3 at 8 voxels. Fix .* ignore_index or a mask",
        ),
        (LOGITS, TARGET - 1, {}, ValueError, "class indices from 0 to 2, got -1 at 8 voxels"),
        (LOGITS, TARGET + 255, {"ignore_index": 254}, ValueError, "class indices from 0 to 2, got 255 at 8 voxels"),
        (LOGITS, LOGITS + 1.5, {}, ValueError, "probabilities from 0 to 1, got 1.5 at 24 voxels"),
        (LOGITS, LOGITS + torch.nan, {}, ValueError, "probabilities from 0 to 1, got nan"),
        (
            LOGITS,
            TARGET,
            {"class_weights": [1.0, 2.0]},
            ValueError,
            "got 2 class_weights for a prediction of 3 classes",
        ),
        (LOGITS, TARGET, {"ignore_classes": [3]}, ValueError, r"got ignore_classes=\[3\], .* classes 0 to 2"),
        (LOGITS, TARGET, {"ignore_classes": [0, 1, 2]}, ValueError, "no class left: the prediction has 3, and all are"),
        (
            torch.zeros(2, 1, 4),
            TARGET,
            {"include_background": False, "activation": "sigmoid"},
            ValueError,
            "the prediction has 1, and all are ignored. Leave out include_background=False",
        ),
        ({"out": LOGITS, "aux": LOGITS}, TARGET, {}, TypeError, "got dict. Pass one of its values: 'out', 'aux'"),
        (LOGITS.numpy(), TARGET, {}, TypeError, "takes a tensor as prediction, got ndarray"),
        (LOGITS, TARGET.tolist(), {}, TypeError, "takes a tensor as target, got list"),
        (LOGITS, TARGET, {"mask": [1, 1, 0, 1]}, TypeError, "takes a tensor as mask, got list"),
        (
            LOGITS + 3,
            TARGET,
            {"activation": "none"},
            ValueError,
            "probabilities from 0 to 1, got values from 3 to 3. Use activation='softmax' or 'sigmoid' for logits",
        ),
        (
            LOGITS,
            TARGET,
            {"mask": torch.ones(2, 5)},
            ValueError,
            r"mask \[2, .*spatial size \(4,\), got shape \(2, 5\)",
        ),
        (
            LOGITS,
            TARGET,
            {"mask": torch.ones(3, 4)},
            ValueError,
            r"mask \[2, .*spatial size \(4,\), got shape \(3, 4\)",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_an_error(function, logits, target, options, error, message):
    with pytest.raises(error, match=f"{function.__name__}.*{message}"):
        function(logits, target, **options)


def test_a_class_index_out_of_range_is_no_error_where_it_does_not_count():
    target = torch.full((2, 4), 7)
    target[:, 0] = 1
    mask = target == 1
    assert dice_loss(LOGITS, target, mask=mask) == dice_loss(LOGITS, target, ignore_index=7)


def test_a_wrong_number_of_alphas_is_an_error():
    with pytest.raises(ValueError, match="got 2 values of alpha for a prediction of 3 classes"):
        focal_loss(LOGITS, TARGET, alpha=[0.5, 0.5])


def test_an_alpha_above_1_is_an_error_for_a_single_channel_of_probabilities():
    with pytest.raises(ValueError, match=r"at least 0 and at most 1, got 2\.0"):
        focal_loss(torch.rand(2, 1, 4), TARGET, alpha=2.0, activation="none")


@pytest.mark.parametrize("loss", CLASSES)
def test_both_mask_and_mask_key_are_an_error(loss):
    with pytest.raises(
        ValueError, match=f"{loss.__name__} takes a mask or a mask_key, got both: 'data.mask' and a tensor"
    ):
        loss(pred="pred", target="target", mask=torch.ones(1, 4), mask_key="data.mask")


@pytest.mark.parametrize("loss", CLASSES)
def test_a_mask_in_the_call_beside_that_of_the_loss_is_an_error(loss):
    with pytest.raises(ValueError, match=f"{loss.__name__} was made with a mask, and is called with another"):
        loss(mask=torch.ones(1, 4))(LOGITS, TARGET, mask=torch.ones(2, 4))


@pytest.mark.parametrize("loss", CLASSES)
def test_a_mask_that_is_no_tensor_is_an_error_at_construction(loss):
    with pytest.raises(TypeError, match=rf"{loss.__name__}\(mask=\) takes a tensor, got \[1, 0\]"):
        loss(pred="pred", target="target", mask=[1, 0])


@pytest.mark.parametrize("loss", CLASSES)
def test_a_key_that_is_no_string_is_an_error_at_construction(loss):
    with pytest.raises(TypeError, match=rf"{loss.__name__} reads keys that are strings, got \['pred', 3\]"):
        loss(pred="pred", target=3)


def test_probabilities_that_do_not_count_or_round_out_of_range_are_no_error():
    prediction = torch.tensor([[[-0.001, 7.0], [1.001, 0.0]]])
    value = dice_loss(prediction, torch.tensor([[1, 0]]), activation="none", mask=torch.tensor([[1, 0]]))
    torch.testing.assert_close(value, torch.tensor(0.0), atol=1e-3, rtol=0)


@pytest.mark.parametrize("index", [-1, 3])
@pytest.mark.parametrize("function", [segmentation_cross_entropy, dice_loss])
def test_a_class_index_out_of_range_is_an_error_of_torch_when_compiled(function, index):
    torch.compiler.reset()
    with pytest.raises((RuntimeError, IndexError), match=f"index {index} is out of bounds"):
        torch.compile(function, fullgraph=True, backend="eager")(LOGITS, TARGET + index)


@pytest.mark.parametrize("loss", CLASSES)
@pytest.mark.parametrize("missing", ["model.logits", "data.seg", "data.mask"])
def test_a_missing_key_is_an_error_that_names_the_loss_and_the_nearest(loss, missing):
    module = loss(pred="model.logits", target="data.seg", mask_key="data.mask")
    batch = {"model.logits": LOGITS, "data.seg": TARGET, "data.mask": TARGET == 0}
    batch[missing + "s"] = batch.pop(missing)
    with pytest.raises(KeyError, match=f"{loss.__name__} reads '{missing}', .* Nearest keys: '{missing}s'"):
        module(batch)


@pytest.mark.parametrize("loss", CLASSES)
@pytest.mark.parametrize(
    ("logits", "target", "message"),
    [
        (LOGITS, TARGET[:, :2], r"got a target of shape \(2, 2\)"),
        (LOGITS, TARGET + 3, "takes class indices from 0 to 2, got 3"),
        (LOGITS.numpy(), TARGET, "takes a tensor as prediction, got ndarray"),
        (LOGITS.long(), TARGET, "takes a floating-point prediction, got torch.int64"),
    ],
)
def test_an_error_in_a_batch_names_the_class_and_its_keys(loss, logits, target, message):
    module = loss(pred="model.logits.seg", target="data.seg")
    owner = rf"^{loss.__name__}\(pred='model.logits.seg', target='data.seg'\) "
    with pytest.raises((TypeError, ValueError), match=owner + message):
        module({"model.logits.seg": logits, "data.seg": target})


@pytest.mark.parametrize("loss", CLASSES)
def test_a_nested_dictionary_is_told_about_ndict(loss):
    module = loss(pred="model.logits", target="data.seg")
    with pytest.raises(KeyError, match=rf"{loss.__name__} reads 'model.logits'.* Pass NDict\(batch_dict\)"):
        module({"model": {"logits": LOGITS}, "data": {"seg": TARGET}})
