"""What every dense loss keeps to, whatever its formula."""

from functools import partial

import pytest
import torch
from dense_batches import dense_batches
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from fuse_losses import functional

LOSSES = {
    "cross_entropy": functional.segmentation_cross_entropy,
    "focal": functional.focal_loss,
    "focal_half": partial(functional.focal_loss, gamma=0.5, alpha=0.25),
    "dice": functional.dice_loss,
    "dice_log": partial(functional.dice_loss, log=True, squared=True, empty="penalize"),
    "tversky": partial(functional.tversky_loss, alpha=0.3, beta=0.7, gamma=0.75),
    "generalized_dice": functional.generalized_dice_loss,
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
any_loss = st.sampled_from(list(LOSSES.values()))
both_activations = pytest.mark.parametrize("activation", ["softmax", "sigmoid"])


def batch(*shape, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    return logits, torch.randint(shape[1], (shape[0], *shape[2:]), generator=generator)


@every_loss
@both_activations
@pytest.mark.parametrize("soft", [False, True])
def test_the_gradient_and_its_gradient_are_those_of_the_formula(loss, activation, soft):
    logits, target = batch(2, 3, 3, dtype=torch.float64)
    if soft:
        target = torch.rand(2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([[True, False, True]])
    function = partial(loss, target=target, activation=activation, mask=mask, class_weights=[1.0, 2.0, 0.5])
    assert torch.autograd.gradcheck(function, (logits,))
    assert torch.autograd.gradgradcheck(function, (logits,))


@every_loss
def test_the_gradient_of_probabilities_is_that_of_the_formula(loss):
    logits, target = batch(2, 3, 4, dtype=torch.float64)
    probabilities = logits.softmax(1).detach().requires_grad_()
    assert torch.autograd.gradcheck(partial(loss, target=target, activation="none"), (probabilities,))


@every_loss
@both_activations
def test_blocks_of_voxels_do_not_show(loss, activation, monkeypatch):
    logits, target = batch(3, 4, 5, 7, dtype=torch.float64)
    whole = loss(logits, target, activation=activation, ignore_index=1)
    (whole_grad,) = torch.autograd.grad(whole, logits)
    for module in ("_fused.block_passes", "_dense.class_weights"):
        monkeypatch.setattr(f"fuse_losses.{module}.voxel_chunks", _small_chunks)
    parts = loss(logits, target, activation=activation, ignore_index=1)
    assert_close(parts, whole, rtol=1e-12, atol=0)
    assert_close(torch.autograd.grad(parts, logits)[0], whole_grad, rtol=1e-11, atol=1e-14)


@every_loss
@pytest.mark.parametrize("masked", [False, True])
def test_sums_by_comparison_as_on_a_gpu_are_those_by_index(loss, masked, monkeypatch):
    logits, target = batch(3, 4, 5, 7, dtype=torch.float64)
    options = {"class_weights": "ipw", "ignore_index": 1 if masked else None}
    by_index = loss(logits, target, **options)
    for module in ("_fused.block_passes", "_dense.class_weights"):
        monkeypatch.setattr(f"fuse_losses.{module}.adds_by_index", lambda device: False)
    assert_close(loss(logits, target, **options), by_index, rtol=1e-12, atol=0)


def _small_chunks(shape, device):
    for sample in range(shape[0]):
        for voxel in range(0, shape[2], 8):
            yield slice(sample, sample + 1), slice(voxel, min(voxel + 8, shape[2]))


@given(drawn=dense_batches(), loss=any_loss)
def test_a_mask_is_as_good_as_leaving_the_voxels_out(drawn, loss):
    logits, target = drawn.logits[:1].reshape(1, drawn.classes, -1), drawn.target[:1]
    target = target.reshape(1, drawn.classes, -1) if target.is_floating_point() else target.reshape(1, -1)
    options = {**drawn.options, "reduction": "mean"}
    mask = torch.rand(1, logits.shape[2], generator=torch.Generator().manual_seed(0)) < 0.6
    masked = loss(logits, target, mask=mask, **options)
    left_out = loss(logits[..., mask[0]], target[..., mask[0]], **options)
    assert_close(masked, left_out, rtol=1e-10, atol=1e-12)


@given(drawn=dense_batches(), loss=any_loss)
def test_one_hot_targets_are_as_good_as_class_indices(drawn, loss):
    target = torch.randint(
        drawn.classes, (len(drawn.logits), *drawn.spatial), generator=torch.Generator().manual_seed(0)
    )
    one_hot = torch.nn.functional.one_hot(target, drawn.classes).movedim(-1, 1)
    options = {**drawn.options, "ignore_index": None, "mask": drawn.mask}
    expected = loss(drawn.logits, target, **options)
    for dtype in (torch.bool, torch.uint8, torch.float64):
        assert_close(loss(drawn.logits, one_hot.to(dtype), **options), expected, rtol=1e-10, atol=1e-12)


@given(drawn=dense_batches(), loss=any_loss, ignore_index=st.sampled_from([0, 1, 255, -100]))
def test_ignore_index_in_one_hot_targets_is_that_of_class_indices(drawn, loss, ignore_index):
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(drawn.classes, (len(drawn.logits), *drawn.spatial), generator=generator)
    target = torch.where(torch.rand(target.shape, generator=generator) < 0.3, ignore_index, target)
    one_hot = (target[:, None] == torch.arange(drawn.classes).reshape(-1, *[1] * len(drawn.spatial))).long()
    if ignore_index not in range(drawn.classes):
        one_hot = torch.where(target[:, None] == ignore_index, ignore_index, one_hot)
    options = {**drawn.options, "ignore_index": ignore_index, "mask": drawn.mask}
    assert_close(loss(drawn.logits, one_hot, **options), loss(drawn.logits, target, **options), rtol=1e-10, atol=1e-12)


@every_loss
@both_activations
def test_an_ignored_voxel_has_no_gradient(loss, activation):
    logits, target = batch(2, 3, 8)
    target[:, :3] = 255
    loss(logits, target, ignore_index=255, activation=activation).backward()
    assert (logits.grad[..., :3] == 0).all()
    assert (logits.grad[..., 3:] != 0).any()


@every_loss
@both_activations
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_batch_with_nothing_valid_gives_a_zero_that_is_part_of_the_graph(loss, activation, reduction):
    logits, target = batch(2, 3, 4)
    for options in ({"mask": torch.zeros(2, 4)}, {"ignore_index": 7}):
        target = torch.full_like(target, 7) if "ignore_index" in options else target
        value = loss(logits, target, activation=activation, reduction=reduction, class_weights="ipw", **options)
        (grad,) = torch.autograd.grad(value, logits)
        assert value == 0
        assert (grad == 0).all()


@every_loss
@both_activations
@pytest.mark.parametrize("shape", [(0, 3, 4), (0, 3), (2, 3, 0), (0, 3, 2, 2)])
def test_a_batch_without_samples_or_voxels_gives_a_zero_that_is_part_of_the_graph(loss, activation, shape):
    logits = torch.randn(shape, requires_grad=True)
    value = loss(logits, torch.zeros(shape[0], *shape[2:], dtype=torch.long), activation=activation)
    (grad,) = torch.autograd.grad(value, logits)
    assert value == 0
    assert grad.shape == shape


@every_loss
@both_activations
@pytest.mark.parametrize("size", [1e4, 60000.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_saturated_logits_give_a_finite_loss_and_gradient(loss, activation, size, dtype):
    signs = torch.tensor([[[1.0, -1, 1, -1], [-1, 1, -1, 1], [-1, -1, -1, 1]]])
    logits = (size * signs).to(dtype).requires_grad_()
    for target in (torch.tensor([[0, 1, 0, 1]]), torch.tensor([[1, 0, 2, 2]]), torch.zeros(1, 4, dtype=torch.long)):
        value = loss(logits, target, activation=activation)
        (grad,) = torch.autograd.grad(value, logits)
        assert value.isfinite()
        assert grad.isfinite().all()


@every_loss
@both_activations
def test_a_single_voxel_is_enough(loss, activation):
    logits, target = batch(1, 3, 1)
    value = loss(logits, target, activation=activation)
    (grad,) = torch.autograd.grad(value, logits)
    assert value > 0
    assert grad.isfinite().all()


@every_loss
@pytest.mark.parametrize("default", [torch.float64, torch.float16])
def test_the_dtype_of_the_result_is_not_torchs_default(loss, default):
    logits, target = batch(2, 3, 4)
    try:
        torch.set_default_dtype(default)
        assert loss(logits, target, class_weights=[1.0, 2.0, 0.5], ignore_index=2).dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


@every_loss
@both_activations
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_as_exact_as_its_logits(loss, activation, dtype):
    logits, target = batch(2, 4, 300, dtype=dtype)
    exact_logits = logits.detach().double().requires_grad_()
    value = loss(logits, target, activation=activation)
    exact = loss(exact_logits, target, activation=activation)
    assert value.dtype == torch.float32
    assert_close(value.double(), exact, rtol=2e-6, atol=0)
    (grad,), (exact_grad,) = torch.autograd.grad(value * 1e4, logits), torch.autograd.grad(exact * 1e4, exact_logits)
    assert grad.dtype == dtype
    epsilon = torch.finfo(dtype).eps
    assert_close(grad.double(), exact_grad, rtol=epsilon, atol=epsilon * 1e-2)


@every_loss
def test_fp16_sums_over_many_voxels_do_not_overflow(loss):
    logits = torch.zeros(
        1, 2, 512, 512, dtype=torch.float16, requires_grad=True
    )  # sums of 131072, above fp16's largest
    target = torch.arange(512 * 512).reshape(1, 512, 512) % 2
    value = loss(logits, target)
    assert_close(value, loss(logits.detach().float(), target), rtol=1e-6, atol=0)
    assert torch.autograd.grad(value, logits)[0].isfinite().all()


@every_loss
@both_activations
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(loss, activation, dtype):
    logits, target = batch(2, 3, 50)
    plain = loss(logits, target, activation=activation)
    (plain_grad,) = torch.autograd.grad(plain, logits)
    with torch.autocast("cpu", dtype=dtype):
        value = loss(logits, target, activation=activation)
        (grad,) = torch.autograd.grad(value, logits)
    assert torch.equal(value, plain)
    assert torch.equal(grad, plain_grad)


@every_loss
@both_activations
def test_one_graph_compiles_and_computes_the_same(loss, activation):
    logits, target = batch(2, 3, 5, 6)
    target[0, 0] = 255
    options = {"activation": activation, "ignore_index": 255, "class_weights": "ipw", "include_background": False}
    torch.compiler.reset()
    compiled = torch.compile(partial(loss, **options), fullgraph=True, backend="aot_eager")
    value, eager = compiled(logits, target), loss(logits, target, **options)
    assert_close(value, eager, rtol=1e-5, atol=0)
    (grad,), (eager_grad,) = torch.autograd.grad(value, logits), torch.autograd.grad(eager, logits)
    assert_close(grad, eager_grad, rtol=1e-5, atol=1e-8)


@every_loss
def test_saturated_logits_give_a_finite_gradient_when_compiled(loss):
    logits = (1e4 * torch.tensor([[[1.0, -1, 1, -1], [-1, 1, -1, 1]]])).requires_grad_()
    torch.compiler.reset()
    value = torch.compile(loss, fullgraph=True, backend="aot_eager")(logits, torch.tensor([[0, 1, 1, 0]]))
    (grad,) = torch.autograd.grad(value, logits)
    assert value.isfinite()
    assert grad.isfinite().all()


@every_loss
def test_inference_mode_computes_the_same(loss):
    logits, target = batch(2, 3, 10)
    with torch.inference_mode():
        value = loss(logits, target)
    assert torch.equal(value, loss(logits, target).detach())


@every_loss
def test_torch_func_gives_the_same_gradient(loss):
    logits, target = batch(2, 3, 10, dtype=torch.float64)
    (grad,) = torch.autograd.grad(loss(logits, target), logits)
    assert_close(torch.func.grad(partial(loss, target=target))(logits.detach()), grad)
    value, vector_jacobian_product = torch.func.vjp(partial(loss, target=target), logits.detach())
    assert_close(vector_jacobian_product(torch.ones_like(value))[0], grad)


@every_loss
def test_strided_and_channels_last_logits_give_the_same(loss):
    logits, target = batch(2, 3, 4, 5)
    value = loss(logits, target)
    (grad,) = torch.autograd.grad(value, logits)
    strided = logits.detach().transpose(2, 3).contiguous().transpose(2, 3)
    for other in (strided, logits.detach().to(memory_format=torch.channels_last)):
        other = other.requires_grad_()
        other_value = loss(other, target)
        assert_close(other_value, value)
        assert_close(torch.autograd.grad(other_value, other)[0], grad)


@every_loss
def test_arguments_are_not_changed(loss):
    logits, target = batch(2, 3, 8)
    mask, weights = torch.rand(2, 8) < 0.5, torch.tensor([1.0, 2.0, 3.0])
    before = [one.detach().clone() for one in (logits, target, mask, weights)]
    loss(logits, target, mask=mask, class_weights=weights, ignore_classes=[1], ignore_index=0).backward()
    for one, original in zip((logits, target, mask, weights), before, strict=True):
        assert torch.equal(one, original)


@every_loss
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_class_indices_may_be_of_any_integer_type(loss, dtype):
    logits, target = batch(2, 3, 8)
    assert torch.equal(loss(logits, target.to(dtype)), loss(logits, target))


@every_loss
@pytest.mark.parametrize(("dtype", "index"), [(torch.uint8, 156), (torch.int8, -1)])
def test_small_integers_do_not_wrap_around(loss, dtype, index):
    """156 is -100, and 299 is 43, as uint8; -1 is 255 as int8."""
    logits = torch.randn(1, 300, 4, generator=torch.Generator().manual_seed(0))
    target = torch.tensor([[0, 50, 100, abs(index)]])
    expected = loss(logits, target)
    for ignore_index in (-100, 255, 1000):
        assert torch.equal(loss(logits, target.to(torch.uint8), ignore_index=ignore_index), expected)
    if index < 0:
        marked = torch.tensor([[0, 1, index]], dtype=dtype)
        with pytest.raises(ValueError, match="got -1 at 1 voxels"):
            loss(logits[..., :3], marked, ignore_index=255)


@every_loss
def test_backward_can_run_twice(loss):
    logits, target = batch(2, 3, 8)
    value = loss(logits, target)
    (first,) = torch.autograd.grad(value, logits, retain_graph=True)
    assert torch.equal(torch.autograd.grad(value, logits)[0], first)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.uint32, torch.int16])
def test_any_integer_type_holds_classes(dtype):
    logits, target = torch.randn(2, 3, 4), torch.tensor([[0, 1, 2, 2], [1, 1, 0, 255]])
    expected = functional.dice_loss(logits, target, ignore_index=255)
    torch.testing.assert_close(functional.dice_loss(logits, target.to(dtype), ignore_index=255), expected)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_a_smoothed_tversky_loss_of_a_perfect_prediction_is_not_below_zero(gamma):
    target = torch.tensor([[0, 1, 1]])
    logits = torch.nn.functional.one_hot(target, 2).movedim(-1, 1) * 60.0 - 30
    loss = functional.tversky_loss(logits, target, smooth_numerator=1.0, gamma=gamma)
    assert 0 <= loss <= 1


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch.func.jvp's own
@pytest.mark.parametrize("loss", [functional.segmentation_cross_entropy, functional.dice_loss])
def test_forward_mode_derivatives_are_an_error_that_says_what_to_use(loss):
    logits, target = batch(2, 3, 4)
    with pytest.raises(
        NotImplementedError, match=r"no forward-mode derivatives \(jvp, jacfwd\)\. Use torch\.func\.grad"
    ):
        torch.func.jvp(partial(loss, target=target), (logits.detach(),), (torch.ones(2, 3, 4),))


@pytest.mark.parametrize("loss", [functional.segmentation_cross_entropy, functional.dice_loss])
def test_gradients_by_sample_with_vmap_are_an_error_that_says_what_to_use(loss):
    logits, target = batch(2, 3, 4)
    gradient = torch.func.grad(lambda one, truth: loss(one[None], truth[None], ignore_index=255))
    with pytest.raises(NotImplementedError, match=r"not in torch\.vmap\. reduction='none' keeps samples apart"):
        torch.func.vmap(gradient)(logits.detach(), target)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@every_loss
def test_jacobians_in_reverse_mode_are_right_and_so_is_the_hessian(loss, activation):
    logits, target = batch(2, 2, 3, dtype=torch.float64)
    of_target = partial(loss, target=target, activation=activation)
    jacobian = torch.func.jacrev(partial(of_target, reduction="none"))(logits.detach())
    for place, one in enumerate(of_target(logits, reduction="none").flatten()):
        (row,) = torch.autograd.grad(one, logits, retain_graph=True)
        assert_close(jacobian.flatten(0, jacobian.ndim - 4)[place], row)
    hessian = torch.func.jacrev(torch.func.jacrev(of_target))(logits.detach())
    assert_close(hessian, torch.autograd.functional.hessian(of_target, logits.detach()))
