"""The head in the loss: a compound loss of logits that never exist whole."""

import pytest
import torch
from peak_memory import PeakMemory
from torch.testing import assert_close

from fuse_losses import LossLinearCompound
from fuse_losses.functional import compound_loss, linear_compound_loss

TERMS = [
    {"cross_entropy": 1.0, "dice": {"weight": 0.5, "include_background": False}},
    {"top_k_cross_entropy": {"k": 0.3}, "tversky": {"alpha": 0.3, "beta": 0.7}},
    {"focal": {"gamma": 1.5, "alpha": [0.1, 0.2, 0.3]}},
    {"generalized_dice": 1.0},
]


def batch(dtype=torch.float64, spatial=(4, 6)):
    torch.manual_seed(0)
    tensors = torch.randn(2, 5, *spatial), torch.randn(3, 5), torch.randn(3)
    target = torch.randint(3, (2, *spatial))
    return [one.to(dtype).requires_grad_() for one in tensors], target


def unfused(features, weight, bias, target, terms, **options):
    logits = torch.einsum("cf,bf...->bc...", weight, features)
    return compound_loss(logits + bias.view(-1, *[1] * (features.ndim - 2)), target, terms, **options)


@pytest.mark.parametrize("terms", TERMS, ids=["+".join(one) for one in TERMS])
@pytest.mark.parametrize("options", [{}, {"ignore_index": 255, "class_weights": "ipw"}, {"voxels": True}])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_value_and_all_gradients_are_those_of_the_logits(terms, options, dtype, tolerance, monkeypatch):
    tensors, target = batch(dtype)
    options = dict(options)
    if options.pop("voxels", False):
        options = {"voxel_weights": torch.rand(2, 4, 6), "mask": torch.rand(2, 4, 6) < 0.7}
    if "ignore_index" in options:
        target[0, 0] = 255
    expected = unfused(*tensors, target, terms, **options)
    monkeypatch.setattr(
        "fuse_losses._fused.linear_pass.voxel_chunks",
        lambda shape, device: ((slice(b, b + 1), slice(v, v + 8)) for b in (0, 1) for v in (0, 8, 16)),
    )
    value = linear_compound_loss(*tensors, target, terms, **options)
    assert_close(value, expected, rtol=tolerance, atol=0)
    for grad, other in zip(torch.autograd.grad(value, tensors), torch.autograd.grad(expected, tensors), strict=True):
        assert_close(grad, other, rtol=0, atol=tolerance * float(other.abs().max()))


def test_half_precision_features_are_summed_in_float32():
    tensors, target = batch(torch.float16)
    exact = [one.detach().double().requires_grad_() for one in tensors]
    value = linear_compound_loss(*tensors, target, TERMS[0])
    expected = unfused(*exact, target, TERMS[0])
    assert value.dtype == torch.float32
    assert_close(value.double(), expected, rtol=1e-5, atol=0)
    value.backward()
    expected.backward()
    for one, other in zip(tensors, exact, strict=True):
        assert_close(one.grad.double(), other.grad, rtol=2e-3, atol=1e-5)


def test_the_peak_of_memory_is_that_of_the_features_and_little_more():
    torch.manual_seed(0)
    features = torch.randn(1, 32, 48, 48, 48, requires_grad=True)
    weight, bias = torch.randn(118, 32, requires_grad=True), torch.zeros(118, requires_grad=True)
    target = torch.randint(118, (1, 48, 48, 48))
    with PeakMemory(features, weight, bias, target) as memory:
        linear_compound_loss(features, weight, bias, target, {"cross_entropy": 1.0, "dice": 1.0}).backward()
    assert 1 <= memory.peak / features.nbytes <= 1.5  # blocks have a size of their own, so less for larger inputs


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("terms", [*TERMS[:2], {"dice": {"squared": True}}, {"cross_entropy": 1.0}])
def test_it_compiles_in_one_graph(terms, bias):
    torch._dynamo.reset()
    loss = LossLinearCompound(layer=torch.nn.Conv2d(5, 3, 1, bias=bias), terms=terms, ignore_index=255)
    (layer,) = loss._layer
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for spatial in ((4, 6), (6, 8)):
        (features, _, _), target = batch(torch.float32, spatial)
        target[0, 0] = 255
        tensors = [features, *layer.parameters()]
        found, expected = compiled(features, target), loss(features, target)
        assert_close(found, expected)
        for pair in zip(torch.autograd.grad(found, tensors), torch.autograd.grad(expected, tensors), strict=True):
            assert_close(*pair)


def test_the_module_uses_the_layer_of_the_model_without_registering_it():
    layer = torch.nn.Conv2d(5, 3, 1)
    loss = LossLinearCompound(layer=layer, pred="model.features", target="data.seg", terms=TERMS[0])
    (features, _, _), target = batch(torch.float32)
    value = loss({"model.features": features, "data.seg": target})
    assert_close(value, compound_loss(layer(features), target, TERMS[0]))
    assert not list(loss.parameters())
    assert not loss.state_dict()
    assert set(loss.terms) == {"cross_entropy", "dice"}
    value.backward()
    assert layer.weight.grad.abs().sum() > 0


def test_a_kernel_of_1_may_have_the_padding_same():
    (features, *_), target = batch()
    layer = torch.nn.Conv2d(5, 3, 1, padding="same", dtype=features.dtype)
    expected = compound_loss(layer(features), target, TERMS[0])
    assert_close(LossLinearCompound(layer=layer, terms=TERMS[0])(features, target), expected)


def test_bad_input_is_an_error():
    tensors, target = batch()
    features, weight, bias = tensors
    with pytest.raises(
        ValueError, match=r"takes features \[B, F, \*spatial\] and weight .*\(2, 5, 4, 6\) and \(3, 4\)"
    ):
        linear_compound_loss(features, weight[:, :4], bias, target, TERMS[0])
    with pytest.raises(ValueError, match=r"takes bias \[3\], got shape \(2,\)"):
        linear_compound_loss(features, weight, bias[:2], target, TERMS[0])
    with pytest.raises(TypeError, match="takes a floating-point tensor as bias, got list"):
        linear_compound_loss(features, weight, [0.0, 0.0, 0.0], target, TERMS[0])
    with pytest.raises(TypeError, match="takes a floating-point tensor as features, got list"):
        linear_compound_loss([1.0], weight, bias, target, TERMS[0])
    with pytest.raises(ValueError, match="takes no activation='none'"):
        linear_compound_loss(features, weight, bias, target, TERMS[0], activation="none")
    with pytest.raises(ValueError, match="term 'focal' does not fit into one pass with the other terms"):
        linear_compound_loss(features, weight, bias, target, {"cross_entropy": 1.0, "focal": 1.0})
    options = {"merge_unannotated": True, "deep_supervision_weights": [1.0]}
    with pytest.raises(ValueError, match=r"^LossLinearCompound takes no merge_unannotated and no deep_supervision"):
        LossLinearCompound(layer=torch.nn.Conv2d(5, 3, 1), terms=TERMS[0], **options)
    with pytest.raises(ValueError, match="takes no deep_supervision_weights"):
        linear_compound_loss(*tensors, target, TERMS[0], deep_supervision_weights=torch.tensor([1.0, 0.5]))
    with pytest.raises(TypeError, match=r"layer=\) takes an nn.Linear or a convolution, got ReLU"):
        LossLinearCompound(layer=torch.nn.ReLU(), terms=TERMS[0])
    with pytest.raises(ValueError, match=r"takes a convolution with a kernel of 1 and nothing else, got Conv2d"):
        LossLinearCompound(layer=torch.nn.Conv2d(5, 3, 3), terms=TERMS[0])


def test_functional_derivatives_work_and_vmap_is_an_error_that_says_what_to_use():
    (features, weight, bias), target = batch()

    def loss(features):
        return linear_compound_loss(features, weight.detach(), bias.detach(), target, TERMS[0])

    (expected,) = torch.autograd.grad(loss(features), features)
    assert_close(torch.func.grad(loss)(features.detach()), expected)
    with pytest.raises(NotImplementedError, match=r"no jacrev\. Use torch\.func\.grad or vjp"):
        torch.func.jacrev(loss)(features.detach())
    with pytest.raises(NotImplementedError, match=r"not in torch\.vmap"):
        torch.func.vmap(lambda one: loss(one.expand(2, 5, 4, 6)))(features.detach()[:, None])
