"""Each option, changed alone, changes the loss or is an error; so no option is silently without effect."""

import pytest
import torch

from fuse_losses import functional

SHARED = {
    "activation": ["sigmoid"],
    "class_weights": [[1.0, 2.0, 0.5, 3.0], "ipw"],
    "ignore_index": [1],
    "include_background": [False],
    "ignore_classes": [[1]],
    "reduction": ["sum", "none"],
    "regions": [[[1], [2], [0], [1, 2]]],
    "merge_unannotated": [True],
    "mask": [torch.tensor([[True, True, False, True, True, False], [True] * 6])],
    "voxel_weights": [torch.tensor([[1.0, 2.0, 0.5, 1.0, 0.0, 3.0], [1.0, 1.0, 1.0, 0.0, 1.0, 2.0]])],
    "annotated": [torch.tensor([[True, True, False, True], [True] * 4])],
}
OVERLAP = {"smooth_numerator": [1.0], "smooth_denominator": [1.0], "per_sample": [False]}
VOXELS = {"label_smoothing": [0.1], "pos_weight": [2.0, "ipw"]}
OWN = {
    functional.segmentation_cross_entropy: VOXELS,
    functional.top_k_cross_entropy: {**VOXELS, "k": [0.3]},
    functional.focal_loss: {**VOXELS, "gamma": [1.0], "alpha": [0.3, [0.1, 0.2, 0.3, 0.4]]},
    functional.dice_loss: {
        **OVERLAP, "squared": [True], "jaccard": [True], "log": [True], "empty": ["zero", "penalize"],
    },
    functional.tversky_loss: {
        **OVERLAP, "alpha": [0.3], "beta": [0.3], "gamma": [2.0], "empty": ["zero", "penalize"],
    },
    functional.generalized_dice_loss: {
        **OVERLAP, "volume_weights": ["simple", "uniform"], "empty": ["penalize"],
    },
}  # fmt: skip
# What these do shows only where a batch needs it: other sizes, a list of predictions, other processes, other devices.
ONLY_WHERE_NEEDED = {"resize_mode", "deep_supervision_weights", "across_processes", "validate"}
CASES = [
    (loss, name, value) for loss, own in OWN.items() for name, values in {**SHARED, **own}.items() for value in values
]


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize(("loss", "option", "value"), CASES)
def test_an_option_changes_the_loss_or_is_an_error(loss, option, value, activation):
    torch.manual_seed(0)
    logits, target = torch.randn(2, 4, 6), torch.tensor([[0, 1, 2, 1, 0, 2], [2, 2, 1, 0, 0, 0]])
    if option == "activation" and value == activation:
        pytest.skip("it is not changed")
    usual = {"activation": activation, **({"k": 0.9} if loss is functional.top_k_cross_entropy else {})}
    plain = loss(logits, target, **usual)
    try:
        changed = loss(logits, target, **{**usual, option: value})
    except (TypeError, ValueError) as error:
        assert option in str(error)  # noqa: PT017  either is right
    else:
        assert changed.shape != plain.shape or not torch.allclose(changed, plain)


def test_no_option_is_left_out():
    for loss, own in OWN.items():
        known = {*SHARED, *own, *ONLY_WHERE_NEEDED} - {"mask", "voxel_weights", "annotated"}
        assert known == set(loss.dense_loss.checks)
