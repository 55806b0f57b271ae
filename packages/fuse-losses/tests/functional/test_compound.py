"""A compound loss is the sum of its losses, in one pass."""

import pytest
import torch
from torch.testing import assert_close

from fuse_losses import LossCompound, functional

TERMS = {
    "cross_entropy": functional.segmentation_cross_entropy,
    "focal": functional.focal_loss,
    "top_k_cross_entropy": functional.top_k_cross_entropy,
    "dice": functional.dice_loss,
    "tversky": functional.tversky_loss,
    "generalized_dice": functional.generalized_dice_loss,
}
COMBINATIONS = [
    {"cross_entropy": 1.0, "dice": {"weight": 0.5, "include_background": False}},
    {"focal": {"gamma": 1.5, "alpha": [0.1, 0.2, 0.3, 0.4]}, "tversky": {"alpha": 0.3, "beta": 0.7}},
    {"dice": {"squared": True}, "top_k_cross_entropy": {"k": 0.3, "weight": 2.0}, "tversky": 1.0},
    {"cross_entropy": {"class_weights": [1.0, 2.0, 3.0, 0.5]}, "focal": 0.3, "generalized_dice": 1.0},
    {"cross_entropy": {"label_smoothing": 0.1}, "top_k_cross_entropy": 1.0},
    {"dice": 2.0},
]
SHARED = [
    {},
    {"ignore_index": 1, "class_weights": "ipw"},
    {"reduction": "sum", "resize_mode": "area"},
    {"activation": "sigmoid", "class_weights": [1.0, 0.5, 2.0, 1.0]},
    {"per_class": True},
]
every_combination = pytest.mark.parametrize("terms", COMBINATIONS, ids=["+".join(one) for one in COMBINATIONS])


def batch(dtype=torch.float64, soft=False, size=(6, 5)):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 6, 5, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    target = torch.randint(4, (2, *size), generator=generator)
    if soft:
        target = torch.rand(2, 4, *size, generator=generator, dtype=torch.float64).softmax(1).to(dtype)
    return logits, target, torch.rand(2, *size, generator=generator) < 0.8


def by_single_losses(logits, target, terms, **options):
    total = 0
    for name, own in terms.items():
        own = dict(own) if isinstance(own, dict) else {"weight": own}
        total = total + own.pop("weight", 1.0) * TERMS[name](logits, target, **{**options, **own})
    return total


@every_combination
@pytest.mark.parametrize("shared", SHARED, ids=["plain", "ignored", "sum", "sigmoid", "soft"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_it_is_the_sum_of_the_single_losses_in_value_and_gradient(terms, shared, dtype, tolerance):
    soft = shared.get("per_class", False)
    logits, target, mask = batch(dtype, soft, (9, 8) if "resize_mode" in shared else (6, 5))
    options = {"mask": mask, **{name: one for name, one in shared.items() if name != "per_class"}}
    value, expected = (
        functional.compound_loss(logits, target, terms, **options),
        by_single_losses(logits, target, terms, **options),
    )
    assert_close(value, expected, rtol=tolerance, atol=0)
    (grad,), (expected_grad,) = torch.autograd.grad(value, logits), torch.autograd.grad(expected, logits)
    assert_close(grad, expected_grad, rtol=0, atol=tolerance * float(expected_grad.abs().max()))


@every_combination
def test_it_is_the_sum_compiled_and_under_autocast_too(terms):
    logits, target, _ = batch(torch.float32)
    expected = by_single_losses(logits, target, terms)
    (expected_grad,) = torch.autograd.grad(expected, logits)
    torch.compiler.reset()
    compiled = torch.compile(
        lambda logits, target: functional.compound_loss(logits, target, terms), fullgraph=True, backend="aot_eager"
    )
    value = compiled(logits, target)
    assert_close(value, expected, rtol=1e-6, atol=0)
    assert_close(torch.autograd.grad(value, logits)[0], expected_grad, rtol=1e-5, atol=1e-8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = functional.compound_loss(logits, target, terms)
        assert_close(value, expected, rtol=1e-6, atol=0)


@every_combination
def test_its_gradient_and_the_gradients_gradient_are_right(terms):
    logits, target, mask = batch()
    logits = logits[..., :2, :2].detach().requires_grad_()
    target, mask = target[..., :2, :2], mask[..., :2, :2]

    def loss(logits):
        return functional.compound_loss(logits, target, terms, mask=mask)

    assert torch.autograd.gradcheck(loss, (logits,))
    assert torch.autograd.gradgradcheck(loss, (logits,))


def test_saturated_logits_give_a_finite_loss_and_gradient():
    logits = torch.tensor([[[1e4, -1e4, 3e38], [-1e4, 1e4, -3e38]]], requires_grad=True)
    value = functional.compound_loss(logits[..., :2], torch.tensor([[1, 0]]), {"cross_entropy": 1.0, "dice": 1.0})
    (grad,) = torch.autograd.grad(value, logits)
    assert_close(value, torch.tensor(20001.0))
    assert grad.isfinite().all()
    assert_close(grad[0, :, 0], torch.tensor([0.5, -0.5]))


def test_the_module_keeps_each_terms_value_by_name():
    logits, target, _ = batch(torch.float32)
    loss = LossCompound(pred="model.logits", target="data.seg", terms=COMBINATIONS[0], weight=3.0)
    value = loss({"model.logits": logits, "data.seg": target})
    assert_close(loss.terms["cross_entropy"], functional.segmentation_cross_entropy(logits, target).detach())
    assert_close(loss.terms["dice"], functional.dice_loss(logits, target, include_background=False).detach())
    assert_close(value, 3 * (loss.terms["cross_entropy"] + 0.5 * loss.terms["dice"]))
    assert not any(one.requires_grad for one in loss.terms.values())
    assert loss.counted == 60


@pytest.mark.parametrize(
    ("terms", "error", "message"),
    [
        ({}, TypeError, r"terms=\) takes a dictionary of losses \(cross_entropy, .*got \{\}"),
        (None, TypeError, r"terms=\) takes a dictionary of losses"),
        ({"dise": 1.0}, ValueError, r"terms=\) takes 'cross_entropy', .*, got 'dise'"),
        ({"dice": {"smooth": 1.0}}, TypeError, "term 'dice' has no option 'smooth'"),
        ({"dice": {"wieght": 1.0}}, TypeError, "term 'dice' has no option 'wieght'. Did you mean 'weight'"),
        ({"dice": "1"}, TypeError, r"term 'dice'\(weight=\) takes a number, got '1'"),
        ({"dice": {"ignore_index": 1}}, TypeError, "term 'dice' takes no 'ignore_index', which holds for all terms"),
        ({"focal": {"gamma": -1.0}}, ValueError, r"term 'focal'\(gamma=\) is a finite number of at least 0, got -1.0"),
    ],
)
def test_wrong_terms_are_an_error_at_construction(terms, error, message):
    with pytest.raises(error, match=f"LossCompound.*{message}"):
        LossCompound(pred="a", target="b", terms=terms)


def test_without_a_reduction_it_is_an_error():
    with pytest.raises(ValueError, match=r"adds losses of different shapes, .* got 'none'"):
        LossCompound(pred="a", target="b", terms={"dice": 1.0}, reduction="none")


def test_a_batch_in_which_no_term_counts_counts_nothing():
    loss = LossCompound(terms={"cross_entropy": 1.0, "dice": 1.0}, include_background=False)
    assert loss(torch.randn(1, 2, 5), torch.zeros(1, 5).long()) == 0
    assert loss.counted == 0
    loss(torch.randn(1, 2, 5), torch.ones(1, 5).long())
    assert loss.counted == 5


@pytest.mark.parametrize(
    ("shared", "own"),
    [
        ({"include_background": False}, {"include_background": True}),
        ({"include_background": False, "ignore_classes": [2]}, {"include_background": True}),
        ({"include_background": False}, {"ignore_classes": [2]}),
        ({"ignore_classes": [2]}, {"include_background": False}),
    ],
)
def test_a_terms_own_option_replaces_the_shared_one_of_the_same_name_only(shared, own):
    torch.manual_seed(0)
    logits, target = torch.randn(2, 4, 6), torch.randint(4, (2, 6))
    value = functional.compound_loss(logits, target, {"dice": own}, **shared)
    assert_close(value, functional.dice_loss(logits, target, **{**shared, **own}))


def test_an_option_of_a_term_is_sent_to_the_terms():
    with pytest.raises(TypeError, match=r"LossCompound has no option 'pos_weight'. It is an option of single terms"):
        LossCompound(terms={"cross_entropy": 1.0}, activation="sigmoid", pos_weight=2.0)


def test_an_error_in_a_batch_names_the_term():
    loss = LossCompound(terms={"cross_entropy": 1.0, "dice": {"class_weights": [1.0, 2.0]}})
    with pytest.raises(ValueError, match="LossCompound term 'dice' got 2 class_weights for a prediction of 3 classes"):
        loss(torch.zeros(1, 3, 4), torch.zeros(1, 4).long())


def test_the_options_that_a_term_has_are_its_own():
    with pytest.raises(
        TypeError, match=r"'dice' has no option 'batch'\. Its options: class_weights, empty, .*weight\."
    ):
        LossCompound(terms={"dice": {"batch": True}})
    with pytest.raises(TypeError, match=r"'dice' takes no 'mask', which holds for all terms\. Give it to LossCompound"):
        LossCompound(terms={"dice": {"mask": torch.ones(1, 4)}})


def test_errors_of_the_function_name_it():
    with pytest.raises(TypeError, match=r"^compound_loss has no option 'ignoreindex'\. Did you mean 'ignore_index'"):
        functional.compound_loss(torch.zeros(1, 2, 4), torch.zeros(1, 4).long(), {"dice": 1.0}, ignoreindex=1)
