"""The Triton kernels compute what the blocks of torch's operations compute.

Without a GPU Triton's interpreter runs the kernels, on tensors of the CPU: conftest.py switches it on. The CPU builds
of torch come without Triton, and the Triton of torch 2.6 needs setuptools; the tests are skipped there.
"""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed, or cannot be imported", exc_type=ImportError)

from fuse_losses._fused import device_rules, triton_pass
from fuse_losses._fused.block_passes import Wanted
from fuse_losses._fused.memory_saving_gradient import one_pass
from fuse_losses.functional import (
    compound_loss,
    dice_loss,
    focal_loss,
    generalized_dice_loss,
    segmentation_cross_entropy,
    top_k_cross_entropy,
    tversky_loss,
)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
UNKNOWN = 255
WANTED = {
    "cross-entropy": {"gamma": 0.0},
    "focal": {"gamma": 2.0},
    "focal, gamma below 1": {"gamma": 0.5},
    "sums": {"sums": True},
    "squared sums": {"sums": True, "squared": True},
    "sums and cross-entropy": {"sums": True, "gamma": 0.0},
    "squared sums and focal": {"sums": True, "squared": True, "gamma": 1.5},
}
OPTIONS = {
    "plain": set(),
    "valid": {"valid"},
    "class factor": {"class_factor"},
    "voxel weights": {"voxel_weights"},
    "all": {"valid", "class_factor", "voxel_weights"},
}


@pytest.fixture(autouse=True)
def launches(monkeypatch):
    """Let the kernels serve the device at hand, and count their launches."""
    count = {"forward": 0, "backward": 0}

    def counted(name, function):
        def call(*arguments):
            count[name] += 1
            return function(*arguments)

        return call

    monkeypatch.setattr(device_rules, "_DEVICES_WITH_TRITON", {DEVICE})
    logits, target, _ = tensors((1, 2, 1))
    assert device_rules.kernels_for(logits, target, "softmax") is triton_pass  # its trial run is not counted
    for name in count:
        monkeypatch.setattr(triton_pass, name, counted(name, getattr(triton_pass, name)))
    return count


def tensors(shape, options=(), dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    samples, classes, voxels = shape
    logits = (3 * torch.randn(shape, generator=generator)).to(dtype)
    target = torch.randint(classes, (samples, voxels), generator=generator)
    others = {}
    if "valid" in options:
        others["valid"] = torch.rand(samples, voxels, generator=generator) < 0.7
        target[~others["valid"]] = UNKNOWN
    if "class_factor" in options:
        others["class_factor"] = torch.rand(classes, generator=generator) + 0.5
    if "voxel_weights" in options:
        others["voxel_weights"] = torch.rand(samples, voxels, generator=generator)
    return logits.to(DEVICE).requires_grad_(), target.to(DEVICE), {name: one.to(DEVICE) for name, one in others.items()}


def in_float64(others):
    return {name: one.double() if one.is_floating_point() else one for name, one in others.items()}


def results_and_gradient(logits, target, others, wanted):
    """The results, and the gradient by the logits of a sum of all with fixed weights."""
    others = {"valid": None, **others}
    results = one_pass(logits, target, wanted=Wanted("softmax", **wanted), **others)
    generator = torch.Generator().manual_seed(1)
    total = 0
    for name in ("overlap", "predicted", "losses"):
        result = getattr(results, name)
        weights = torch.rand(result.shape, generator=generator, dtype=torch.float64).to(result)
        total = total + (result * weights).sum()
    return results, torch.autograd.grad(total, logits)[0]


def assert_near(actual, expected, tolerance):
    assert actual.shape == expected.shape
    if expected.numel():
        error = (actual.double() - expected.double()).abs().max()
        assert error <= tolerance * expected.double().abs().max()


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("wanted", WANTED.values(), ids=WANTED)
def test_the_kernels_give_what_the_blocks_give(launches, wanted, options):
    logits, target, others = tensors((2, 5, 700), options)
    results, gradient = results_and_gradient(logits, target, others, wanted)
    assert launches == {"forward": 1, "backward": 1}
    double = logits.detach().double().requires_grad_()
    expected, expected_gradient = results_and_gradient(double, target, in_float64(others), wanted)
    assert launches == {"forward": 1, "backward": 1}
    for actual, one in zip(results, expected, strict=True):
        assert_near(actual, one, 1e-6)
    assert_near(gradient, expected_gradient, 2e-6)  # the blocks in float32 are 1.1e-6 off too: slopes cancel


@pytest.mark.parametrize("shape", [(1, 2, 1), (3, 14, 33), (1, 60, 130), (70, 3, 2), (2, 128, 40)])
def test_every_shape_is_covered(launches, shape):
    logits, target, others = tensors(shape, OPTIONS["all"])
    results, gradient = results_and_gradient(logits, target, others, WANTED["sums and cross-entropy"])
    double = logits.detach().double().requires_grad_()
    expected, expected_gradient = results_and_gradient(
        double, target, in_float64(others), WANTED["sums and cross-entropy"]
    )
    assert launches == {"forward": 1, "backward": 1}
    for actual, one in zip(results, expected, strict=True):
        assert_near(actual, one, 1e-6)
    assert_near(gradient, expected_gradient, 4e-6)  # slopes cancel


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 1e-3), (torch.bfloat16, 8e-3)])
def test_half_precision_is_summed_in_float32(launches, dtype, tolerance):
    logits, target, others = tensors((2, 5, 300), OPTIONS["all"], dtype)
    results, gradient = results_and_gradient(logits, target, others, WANTED["sums and cross-entropy"])
    double = logits.detach().double().requires_grad_()
    expected, expected_gradient = results_and_gradient(
        double, target, in_float64(others), WANTED["sums and cross-entropy"]
    )
    assert launches == {"forward": 1, "backward": 1}
    assert gradient.dtype == dtype
    for actual, one in zip(results, expected, strict=True):
        assert actual.dtype == torch.float32
        assert_near(actual, one, 1e-6)
    assert_near(gradient, expected_gradient, tolerance)


LOSSES = {
    "Dice + cross-entropy": lambda x, y, **o: compound_loss(x, y, {"dice": 1.0, "cross_entropy": 1.0}, **o),
    "Dice + focal": lambda x, y, **o: compound_loss(x, y, {"dice": {"squared": True}, "focal": 1.0}, **o),
    "Dice": dice_loss,
    "Tversky": lambda x, y, **o: tversky_loss(x, y, alpha=0.3, beta=0.7, **o),
    "generalized Dice": generalized_dice_loss,
    "cross-entropy": segmentation_cross_entropy,
    "focal": focal_loss,
    "top-k": top_k_cross_entropy,
}
LOSS_OPTIONS = {
    "plain": {},
    "class weights": {"class_weights": [0.5, 1.0, 2.0, 1.5]},
    "ignored voxels": {"ignore_index": UNKNOWN, "class_weights": [0.5, 1.0, 2.0, 1.5]},
    "sum": {"reduction": "sum"},
}


@pytest.mark.parametrize("options", LOSS_OPTIONS.values(), ids=LOSS_OPTIONS)
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_a_loss_is_the_same_with_and_without_the_kernels(launches, loss, options):
    logits, target, _ = tensors((2, 4, 17 * 19), {"valid"} if "ignore_index" in options else ())
    logits, target = logits.detach().unflatten(2, (17, 19)).requires_grad_(), target.unflatten(1, (17, 19))
    value = loss(logits, target, **options)
    (gradient,) = torch.autograd.grad(value, logits)
    assert launches["forward"] == launches["backward"] == 1
    double = logits.detach().double().requires_grad_()
    expected = loss(double, target, **options)
    (expected_gradient,) = torch.autograd.grad(expected, double)
    assert_near(value, expected, 1e-6)
    assert_near(gradient, expected_gradient, 1e-6)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.bool])
def test_class_indices_may_be_of_every_integer_type(launches, dtype):
    logits, target, _ = tensors((2, 2, 50))
    value, expected = (segmentation_cross_entropy(logits, one) for one in (target.to(dtype), target))
    assert launches["forward"] == 2
    assert torch.equal(value, expected)


def test_the_gradient_has_the_strides_of_channels_last_logits(launches):
    logits, target, _ = tensors((2, 5, 35))
    plain = logits.detach().unflatten(2, (5, 7)).requires_grad_()
    last = plain.detach().to(memory_format=torch.channels_last).requires_grad_()
    gradients = [torch.autograd.grad(dice_loss(one, target.unflatten(1, (5, 7))), one)[0] for one in (plain, last)]
    assert launches["backward"] == 2
    assert gradients[1].is_contiguous(memory_format=torch.channels_last)
    assert_near(gradients[1], gradients[0], 1e-6)  # on a GPU sums are taken in another order


def test_logits_that_are_a_part_of_a_tensor_get_their_own_gradient(launches):
    logits, target, _ = tensors((2, 5, 35))
    (gradient,) = torch.autograd.grad(segmentation_cross_entropy(logits[:, 1:, ::2], target[:, ::2] % 4), logits)
    part = logits.detach()[:, 1:, ::2].clone().requires_grad_()
    (expected,) = torch.autograd.grad(segmentation_cross_entropy(part, target[:, ::2] % 4), part)
    assert launches["backward"] == 2
    assert torch.equal(gradient[:, 1:, ::2], expected)
    assert not gradient[:, 0].any()


def test_nan_in_voxels_that_do_not_count_changes_nothing():
    logits, target, _ = tensors((2, 4, 50), {"valid"})
    nan = torch.where((target == UNKNOWN)[:, None], torch.nan, logits.detach()).requires_grad_()
    terms = {"dice": 1.0, "cross_entropy": 1.0}
    value, expected = (compound_loss(one, target, terms, ignore_index=UNKNOWN) for one in (nan, logits))
    assert torch.equal(value, expected)
    (gradient,) = torch.autograd.grad(value, nan)
    assert torch.equal(gradient, torch.autograd.grad(expected, logits)[0])


@pytest.mark.filterwarnings("ignore:All-NaN slice")  # the interpreter's NumPy
@pytest.mark.parametrize("wrong", [-1, 4, 2**32])
def test_a_class_index_out_of_range_makes_the_loss_nan(wrong):
    logits, target, _ = tensors((2, 4, 50))
    target[1, 7] = wrong
    results, gradient = results_and_gradient(logits, target, {}, WANTED["sums and cross-entropy"])
    assert results.losses.isnan().sum() == 1
    assert results.predicted[1].isnan().all()
    assert gradient[1, :, 7].isnan().all()


def test_every_run_gives_the_same_bits():
    logits, target, others = tensors((2, 5, 700), OPTIONS["all"])
    first, second = (results_and_gradient(logits, target, others, WANTED["sums"]) for _ in range(2))
    assert torch.equal(first[1], second[1])
    assert all(torch.equal(a, b) for a, b in zip(first[0], second[0], strict=True))


def test_the_gradient_can_be_differentiated(launches):
    logits, target, _ = tensors((1, 3, 20))
    (gradient,) = torch.autograd.grad(dice_loss(logits, target), logits, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), logits)
    assert launches["forward"] == 1
    double = logits.detach().double().requires_grad_()
    (gradient,) = torch.autograd.grad(dice_loss(double, target), double, create_graph=True)
    assert_near(second, torch.autograd.grad(gradient.square().sum(), double)[0], 1e-5)


def test_where_triton_fails_a_warning_says_so_and_the_blocks_are_used(monkeypatch):
    def fails(*arguments):
        raise RuntimeError("Failed to find C compiler")

    logits, target, _ = tensors((2, 4, 50))
    expected = dice_loss(logits, target)
    monkeypatch.setattr(triton_pass, "forward", fails)
    device_rules._triton_pass.cache_clear()
    try:
        with pytest.warns(UserWarning, match="Triton failed on .*Failed to find C compiler.*operations of torch"):
            value = dice_loss(logits, target)
        assert_near(value, expected, 1e-6)
        dice_loss(logits, target).backward()  # without another warning
    finally:
        device_rules._triton_pass.cache_clear()


def test_other_cases_are_left_to_the_blocks(launches):
    logits, target, _ = tensors((2, 4, 50))
    dice_loss(logits, target, activation="sigmoid").backward()
    dice_loss(logits, logits.detach().softmax(1)).backward()
    dice_loss(logits.double(), target).backward()
    many, target, _ = tensors((1, 129, 20))
    dice_loss(many, target).backward()
    assert launches == {"forward": 0, "backward": 0}
