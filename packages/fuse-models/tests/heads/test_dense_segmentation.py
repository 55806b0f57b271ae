import pytest
import torch
from torch import nn

from fuse_models import HeadDenseSegmentation, ModelWrapDictToSeq


def head_of(**options):
    return HeadDenseSegmentation(conv_inputs=[("f", 4)], **{"layers_description": (5,)} | options).eval()


@pytest.mark.parametrize(("spatial", "convolution"), [((7, 5), nn.Conv2d), ((4, 6, 5), nn.Conv3d)])
def test_it_computes_what_convolutions_of_kernel_1_do(spatial, convolution):
    head = head_of(layers_description=(5, 6), num_classes=3)
    layers = nn.Sequential(*[convolution(*sizes, 1) for sizes in ((4, 5), (5, 6), (6, 3))]).eval()
    own = [layer for layer in head.classifier.layers if isinstance(layer, nn.Conv1d)]
    for layer, source in zip(layers, own, strict=True):
        layer.weight.data = source.weight.detach().reshape(layer.weight.shape)
        layer.bias.data = source.bias.detach()
    f = torch.randn(2, 4, *spatial)
    expected = layers[2](layers[1](layers[0](f).relu()).relu())
    torch.testing.assert_close(head({"f": f})["model.logits.head_0"], expected)


def test_it_takes_channels_last():
    head, f = head_of(), torch.randn(2, 4, 6, 5)
    expected = head({"f": f})["model.logits.head_0"]
    actual = head({"f": f.contiguous(memory_format=torch.channels_last)})["model.logits.head_0"]
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("spatial", [(3, 4), (2, 3, 4)])
def test_vectors_reach_every_location(spatial):
    """Each location gives what a map of that one location gives."""
    head = head_of(post_concat_inputs=[("a", 2), ("b", 1)])
    batch = {"f": torch.randn(2, 4, *spatial), "a": torch.randn(2, 2), "b": torch.randn(2)}
    logits = head(dict(batch))["model.logits.head_0"]
    for location in torch.cartesian_prod(*map(torch.arange, spatial)).tolist():
        index = (slice(None), slice(None), *[slice(i, i + 1) for i in location])
        one = head(batch | {"f": batch["f"][index]})["model.logits.head_0"]
        torch.testing.assert_close(logits[index], one)


def test_vectors_change_the_result_and_receive_gradients():
    head = head_of(post_concat_inputs=[("a", 2)])
    a = torch.randn(2, 2, requires_grad=True)
    batch = {"f": torch.randn(2, 4, 3, 3), "a": a}
    scores = head(batch)["model.logits.head_0"]
    scores[:, 0].sum().backward()
    assert a.grad.count_nonzero() == 4
    other = head({"f": batch["f"], "a": a.detach() + 1})["model.logits.head_0"]
    assert not torch.isclose(other, scores).any(dim=1).all()


@pytest.mark.parametrize(
    ("spatial", "kernel", "pooling"),
    [
        ((6, 9), 3, nn.MaxPool2d),
        ((6, 9), (2, 3), nn.MaxPool2d),
        ((4, 6, 8), 2, nn.MaxPool3d),
        ((4, 6, 8), [1, 2, 2], nn.MaxPool3d),
    ],
)
def test_max_pooling_goes_first(spatial, kernel, pooling):
    pooled_head = head_of(maxpool_kernel=kernel)
    head = head_of()
    head.load_state_dict(pooled_head.state_dict())
    f = torch.randn(2, 4, *spatial)
    smaller = pooling(tuple(kernel) if isinstance(kernel, list) else kernel)(f)
    expected = head({"f": smaller})["model.output.head_0"]
    torch.testing.assert_close(pooled_head({"f": f})["model.output.head_0"], expected)


def test_probabilities_sum_to_one_at_every_location():
    output = head_of(num_classes=4)({"f": torch.randn(2, 4, 3, 5)})["model.output.head_0"]
    torch.testing.assert_close(output.sum(1), torch.ones(2, 3, 5))


def test_a_shared_classifier_gets_the_whole_map():
    classifier = nn.Conv3d(6, 2, kernel_size=3, padding=1)
    head = head_of(post_concat_inputs=[("a", 2)], shared_classifier_head=classifier)
    assert head({"f": torch.randn(2, 4, 3, 4, 5), "a": torch.randn(2, 2)})["model.logits.head_0"].shape == (
        2,
        2,
        3,
        4,
        5,
    )


def test_maps_of_other_sizes_are_named():
    head = HeadDenseSegmentation(conv_inputs=[("f", 4), ("g", 2)])
    with pytest.raises(ValueError, match=r"other axes must be equal, got 'f' \(1, 4, 3, 3\), 'g' \(1, 2, 6, 6\)"):
        head({"f": torch.zeros(1, 4, 3, 3), "g": torch.zeros(1, 2, 6, 6)})


@pytest.mark.parametrize(("shape", "kernel"), [((2, 4), None), ((2, 4, 3, 3, 3, 3), None), ((2, 4, 6, 6, 6), (2, 2))])
def test_the_rank_of_the_maps_is_checked(shape, kernel):
    message = r"with 1 to 3 spatial axes, as many as maxpool_kernel has, got 'f' of shape \(2, 4.*maxpool_kernel="
    with pytest.raises(ValueError, match=message):
        head_of(maxpool_kernel=kernel)({"f": torch.zeros(shape)})


@pytest.mark.parametrize("kernel", [0, (2, 0), True, "2"])
def test_the_kernel_is_positive(kernel):
    with pytest.raises(ValueError, match=r"maxpool_kernel=\) takes a (positive integer|sequence of .*), got"):
        head_of(maxpool_kernel=kernel)


def test_vectors_alone_are_not_enough():
    with pytest.raises(ValueError, match=r"HeadDenseSegmentation 'lesion' has no feature map to classify"):
        HeadDenseSegmentation("lesion", post_concat_inputs=[("a", 2)])


@pytest.mark.parametrize("hidden", [(), (5, 6)])
def test_it_hands_over_the_features_before_its_last_layer(hidden):
    head = head_of(layers_description=hidden, num_classes=3, features_key="model.features.seg")
    plain = head_of(layers_description=hidden, num_classes=3)
    plain.load_state_dict(head.state_dict())
    f = torch.randn(2, 4, 3, 4, 5)
    batch = head({"f": f})
    assert set(head.writes) == {"model.features.seg", "model.logits.head_0", "model.output.head_0"}
    torch.testing.assert_close(batch["model.output.head_0"], plain({"f": f})["model.output.head_0"])
    features = batch["model.features.seg"]
    assert features.shape == (2, hidden[-1] if hidden else 4, 3, 4, 5)
    layer = head.last_layer
    scores = torch.einsum("cf,bfxyz->bcxyz", layer.weight[..., 0], features) + layer.bias[:, None, None, None]
    torch.testing.assert_close(batch["model.logits.head_0"], scores)


def test_in_training_it_hands_over_the_features_alone():
    head = head_of(features_key="model.features.seg").train()
    assert set(head({"f": torch.randn(2, 4, 3, 3)})) == {"f", "model.features.seg"}


def test_a_shared_classifier_has_no_last_layer():
    assert head_of(shared_classifier_head=nn.Conv2d(4, 2, 1)).last_layer is None


@pytest.mark.parametrize(
    "options",
    [{"deep_supervision": (8,)}, {"upsample_to": "data.image"}, {"shared_classifier_head": nn.Conv2d(4, 2, 1)}],
)
def test_features_are_handed_over_by_plain_heads_only(options):
    with pytest.raises(ValueError, match=r"features_key works without deep_supervision, upsample_to and shared_class"):
        head_of(features_key="model.features.seg", **options)


@pytest.mark.parametrize("options", [{"maxpool_kernel": 2}, {"upsample_to": "x"}, {"features_key": "model.f"}])
def test_fx_traces_it_with_every_option(options):
    head = head_of(**options)
    plain = ModelWrapDictToSeq(head, "model.output.head_0", ["f", "x"])
    inputs = torch.randn(2, 4, 6, 8), torch.randn(2, 1, 12, 16)
    torch.testing.assert_close(torch.fx.symbolic_trace(plain)(*inputs), plain(*inputs))


def test_deep_supervision_compiles_in_one_graph():
    torch._dynamo.reset()
    head = head_of(deep_supervision=(6,), num_classes=3)
    maps = [torch.randn(2, 4, 8, 8), torch.randn(2, 6, 4, 4)]
    compiled = torch.compile(head, fullgraph=True, backend="eager")({"f": maps})["model.logits.head_0"]
    torch.testing.assert_close(compiled, head({"f": maps})["model.logits.head_0"])
