"""The options of the heads that predict once a sample, against the same computed by hand."""

import inspect

import pytest
import torch
from torch import nn

from fuse_models import Head1D, Head3D, HeadGlobalPoolingClassifier


@pytest.fixture
def batch():
    return {"f": torch.randn(4, 6, 2, 3, 3), "vector": torch.randn(4, 6), "clinical": torch.randn(4, 5)}


@pytest.mark.parametrize("head_class", [HeadGlobalPoolingClassifier, Head3D])
@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_feature_maps_are_pooled(batch, head_class, pooling):
    head = head_class(conv_inputs=[("f", 6)], layers_description=(), pooling=pooling).eval()
    pooled = batch["f"].flatten(2).mean(2) if pooling == "avg" else batch["f"].flatten(2).max(2).values
    torch.testing.assert_close(head(batch)["model.logits.head_0"], head.classifier(pooled))


@pytest.mark.parametrize("head_class", [HeadGlobalPoolingClassifier, Head3D])
def test_max_pooling_is_the_default_as_in_fusemedml(batch, head_class):
    assert head_class(conv_inputs=[("f", 6)]).pooling == "max"


def test_the_layers_of_a_head():
    head = Head1D(conv_inputs=[("f", 6)], num_outputs=3, layers_description=(8, 7), dropout_rate=0.2)
    assert [type(layer) for layer in head.classifier] == [nn.Linear, nn.ReLU, nn.Dropout] * 2 + [nn.Linear]
    assert [layer.p for layer in head.classifier if isinstance(layer, nn.Dropout)] == [0.2, 0.2]
    assert [tuple(p.shape) for p in head.classifier.parameters() if p.ndim == 2] == [(8, 6), (7, 8), (3, 7)]


@pytest.mark.parametrize("head_class", [Head1D, HeadGlobalPoolingClassifier, Head3D])
def test_appended_features_go_through_layers_of_their_own(batch, head_class):
    head = head_class(
        conv_inputs=[("vector", 6)],
        append_features=[("clinical", 5)],
        append_layers_description=(8, 3),
        append_dropout_rate=0.3,
        layers_description=(),
    ).eval()
    assert [layer.p for layer in head.append_layers if isinstance(layer, nn.Dropout)] == [0.3, 0.3]
    expected = head.classifier(torch.cat([batch["vector"], head.append_layers(batch["clinical"])], dim=1))
    torch.testing.assert_close(head(batch)["model.logits.head_0"], expected)
    assert head.classifier[0].in_features == 6 + 3


@pytest.mark.parametrize("head_class", [Head1D, HeadGlobalPoolingClassifier, Head3D])
@pytest.mark.parametrize("layers", [(), (8,)])
def test_appended_features_alone_are_enough(batch, head_class, layers):
    head = head_class(append_features=[("clinical", 5)], append_layers_description=layers, layers_description=()).eval()
    assert head.reads == ("clinical",)
    expected = head.classifier(head.append_layers(batch["clinical"]))
    torch.testing.assert_close(head(batch)["model.logits.head_0"], expected)


def test_numbers_collated_to_one_axis_are_vectors_of_size_1():
    head = Head1D(append_features=[("age", 1)]).eval()
    ages = torch.tensor([50.0, 60.0])
    assert head({"age": ages})["model.logits.head_0"].equal(head({"age": ages[:, None]})["model.logits.head_0"])


def test_a_head_of_one_sample_keeps_the_batch_axis():
    head = Head3D(conv_inputs=[("f", 6)], mode="regression", num_outputs=1)
    assert head({"f": torch.zeros(1, 6, 1, 1, 1)})["model.output.head_0"].shape == (1, 1)


def test_head_3d_drops_pooled_features_and_hidden_units_at_rates_of_their_own(batch):
    head = Head3D(conv_inputs=[("f", 6)], dropout_rate=0.4, fused_dropout_rate=0.3)
    assert head.pooled_dropout.p == 0.4
    assert [layer.p for layer in head.classifier if isinstance(layer, nn.Dropout)] == [0.3]


def test_head_3d_does_not_drop_appended_features():
    head = Head3D(
        conv_inputs=[("f", 2)],
        append_features=[("clinical", 2)],
        dropout_rate=0.9,
        shared_classifier_head=nn.Identity(),
        mode="regression",
    )
    batch = {"f": torch.ones(200, 2, 1, 1, 1), "clinical": torch.ones(200, 2)}
    seen = head(batch)["model.output.head_0"]
    assert (seen[:, :2] == 0).float().mean() > 0.8
    assert (seen[:, 2:] == 1).all()


def test_fused_dropout_rate_is_named_when_out_of_range():
    with pytest.raises(ValueError, match=r"Head3D\(fused_dropout_rate=\) takes a number from 0"):
        Head3D(conv_inputs=[("f", 2)], fused_dropout_rate=1.0)


def test_head_1d_takes_vectors_only(batch):
    message = r"Head1D 'head_0' expects 'f' to be vectors, .* its shape is \(4, 6, 2, 3, 3\)\. Pool it in the backbone"
    with pytest.raises(ValueError, match=message):
        Head1D(conv_inputs=[("f", 6)])(batch)


@pytest.mark.parametrize("head_class", [HeadGlobalPoolingClassifier, Head3D])
@pytest.mark.parametrize("pooling", ["mean", None])
def test_an_unknown_pooling_is_refused(head_class, pooling):
    with pytest.raises(
        ValueError, match=rf"{head_class.__name__}\(pooling=\) takes one of 'avg', 'max', got {pooling!r}"
    ):
        head_class(conv_inputs=[("f", 2)], pooling=pooling)


ORDER = {
    Head1D: """head_name mode conv_inputs num_outputs append_features layers_description append_layers_description
        append_dropout_rate dropout_rate""",
    Head3D: """head_name mode conv_inputs dropout_rate num_outputs append_features layers_description
        append_layers_description append_dropout_rate fused_dropout_rate""",
}


@pytest.mark.parametrize("head_class", ORDER)
def test_the_arguments_stand_in_fusemedmls_order(head_class):
    expected = ORDER[head_class].split()
    assert list(inspect.signature(head_class).parameters)[: len(expected)] == expected
