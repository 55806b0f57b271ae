"""Modalities that a batch or a sample lacks, in heads and in models of several streams."""

import pytest
import torch
from torch import nn

from fuse_core import NDict, check_wiring, collate
from fuse_models import BackboneResnet, Head1D, HeadDenseSegmentation, ModelMultiHead, ModelMultistream

NAN = torch.nan


def head(substitute="learned", **options):
    inputs = {"conv_inputs": [("x", 4)], "append_features": [("data.clinical", 3), ("data.age", 1)]}
    optional = {"data.clinical": substitute, "data.age": "zero"}
    return Head1D("risk", "regression", num_outputs=1, optional_inputs=optional, **inputs | options).eval()


def batch():
    generator = torch.Generator().manual_seed(0)
    return NDict(
        {
            "x": torch.randn(4, 4, generator=generator),
            "data.clinical": torch.randn(4, 3, generator=generator),
            "data.age": torch.rand(4, generator=generator),
        }
    )


def without(samples, key):
    """A batch in which samples lack an input, with a mask."""
    result = batch()
    present = torch.ones(4, dtype=torch.bool)
    present[samples] = False
    result[key][samples] = NAN
    result[f"{key}_present"] = present
    return result


def test_optional_inputs_are_declared_as_such():
    assert head().reads == ("x",)
    assert head().optional_reads == ("data.clinical", "data.clinical_present", "data.age", "data.age_present")
    model = ModelMultiHead(nn.Identity(), [head(conv_inputs=[("model.backbone_features", 4)])], conv_inputs=["x"])
    assert model.reads == ("x",)
    assert model.optional_reads == head().optional_reads
    check_wiring([model], ["x"])


@pytest.mark.parametrize("substitute", ["learned", "zero"])
@pytest.mark.parametrize("kind", [dict, NDict])
def test_a_batch_without_an_input_gives_the_same_as_samples_without_it(substitute, kind):
    network = head(substitute)
    if substitute == "learned":
        nn.init.normal_(network.optional_inputs.data__clinical)
    lacking = kind(batch())
    del lacking["data.clinical"]
    none = kind(batch() | {"data.clinical": None})
    expected = network(kind(without([0, 1, 2, 3], "data.clinical")))["model.output.risk"]
    assert expected.isfinite().all()
    for one in (lacking, none):
        torch.testing.assert_close(network(one)["model.output.risk"], expected)
    some = network(kind(without([1, 3], "data.clinical")))["model.output.risk"]
    torch.testing.assert_close(some[[1, 3]], expected[[1, 3]])
    torch.testing.assert_close(some[[0, 2]], network(kind(batch()))["model.output.risk"][[0, 2]])


def test_the_learned_vector_has_a_gradient_from_the_samples_without_the_input():
    network = head()
    vector = network.optional_inputs.data__clinical
    network(without([1], "data.clinical"))["model.output.risk"].sum().backward()
    assert vector.grad.abs().sum() > 0
    vector.grad = None
    network(batch())["model.output.risk"].sum().backward()
    assert vector.grad.abs().sum() == 0  # not None, which DistributedDataParallel would refuse


def test_vectors_alone_may_be_missing_as_long_as_one_is_there():
    network = head(conv_inputs=None)
    assert network({"data.age": torch.rand(4)})["model.output.risk"].shape == (4, 1)
    with pytest.raises(ValueError, match=r"Head1D 'risk': all its inputs are missing in this batch"):
        network({})


def test_a_missing_input_that_was_not_declared_optional_is_an_error():
    lacking = batch()
    del lacking["x"]
    with pytest.raises(KeyError, match=r"Head1D 'risk' reads 'x'"):
        head()(lacking)


def test_heads_for_each_location_take_optional_vectors():
    optional = {"data.clinical": "learned"}
    dense = HeadDenseSegmentation("seg", [("f", 4)], 2, [("data.clinical", 3)], optional_inputs=optional)
    assert dense({"f": torch.randn(2, 4, 5, 6)})["model.output.seg"].shape == (2, 2, 5, 6)


def streams(substitute="learned", **options):
    torch.manual_seed(0)
    backbones = [BackboneResnet(in_channels=1), BackboneResnet(in_channels=2)]
    optional = {"data.mri": substitute}
    inputs = ["data.ct", ("data.mri", 2)]
    return ModelMultistream(inputs, backbones, [], optional_inputs=optional, **options).eval()


def modalities():
    generator = torch.Generator().manual_seed(0)
    return {
        "data.ct": torch.randn(3, 1, 32, 64, generator=generator),
        "data.mri": torch.randn(3, 2, 32, 64, generator=generator),
    }


@pytest.mark.parametrize("substitute", ["learned", "zero"])
def test_a_stream_without_its_modality_gives_the_vector_everywhere(substitute):
    model = streams(substitute)
    assert model.reads == ("data.ct",)
    assert model.optional_reads == ("data.mri", "data.mri_present")
    vector = model.optional_inputs.data__mri
    if substitute == "learned":
        nn.init.normal_(vector)
    whole = modalities()
    full = model(dict(whole))["model.backbone_features"]
    none = model({"data.ct": whole["data.ct"], "data.mri": None})["model.backbone_features"]
    torch.testing.assert_close(none[:, :512], full[:, :512])
    torch.testing.assert_close(none[:, 512:], vector.reshape(1, -1, 1, 1).expand_as(none[:, 512:]))
    whole["data.mri"][1] = NAN
    some = model(whole | {"data.mri_present": torch.tensor([1, 0, 1])})["model.backbone_features"]
    torch.testing.assert_close(some[[0, 2]], full[[0, 2]])
    torch.testing.assert_close(some[1], none[1])


def test_a_model_trains_on_batches_with_and_without_a_modality():
    model = streams().train()
    for batch in (modalities(), {"data.ct": modalities()["data.ct"]}):
        model.zero_grad()
        model(batch)["model.backbone_features"].square().mean().backward()
        assert model.optional_inputs.data__mri.grad is not None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Head1D("risk", conv_inputs=[("x", 4)], optional_inputs={"x": "zero"}),
            r"Head1D\(optional_inputs=\) takes keys of append_features, here none, got 'x'",
        ),
        (lambda: head(append_features=[("data.clinical", 3)]), r"Head1D\(optional_inputs=\) takes keys .*'data\.age'"),
        (
            lambda: Head1D(append_features=[("age", 1)], optional_inputs={"age": "zeros"}),
            r"Head1D\(optional_inputs=\{'age': \.\.\.\}\) takes one of .* got 'zeros'\. Did you mean 'zero'",
        ),
        (
            lambda: ModelMultistream(("x", 2), [nn.Identity()] * 2, [], optional_inputs={"x": "zero"}),
            r"ModelMultistream\(optional_inputs=\) needs one key in conv_inputs for each stream",
        ),
        (
            lambda: ModelMultistream(["x", "y"], [nn.Identity()] * 2, [], optional_inputs={"x": "zero"}),
            r"the stream of 'x' needs the attribute feature_depth",
        ),
        (
            lambda: ModelMultistream(["x", "y"], [BackboneResnet()] * 2, [], optional_inputs={"z": "zero"}),
            r"takes keys of conv_inputs, 'x', 'y', got 'z'",
        ),
    ],
)
def test_wrong_declarations_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_batch_without_any_modality_is_an_error():
    model = ModelMultistream(["x", "y"], [BackboneResnet()] * 2, [], optional_inputs={"x": "zero", "y": "zero"})
    with pytest.raises(ValueError, match=r"ModelMultistream: all inputs are missing in this batch"):
        model({})


@pytest.mark.parametrize("masked", [False, True])
def test_samples_collated_with_none_lack_the_input(masked):
    """Collating samples, of which some hold None, gives a list."""
    network = head()
    nn.init.normal_(network.optional_inputs.data__clinical)
    lacking = without([1, 3], "data.clinical")
    expected = network(lacking.copy())["model.output.risk"]
    samples = [{key: lacking[key][i] for key in ("x", "data.age", "data.clinical")} for i in range(4)]
    samples[1]["data.clinical"] = None
    if not masked:
        samples[3]["data.clinical"] = None
    collated = collate([{"data.sample_id": i, **sample} for i, sample in enumerate(samples)])
    assert isinstance(collated["data.clinical"], list)
    if masked:
        collated["data.clinical_present"] = [True, True, True, False]
    torch.testing.assert_close(network(collated)["model.output.risk"], expected)
    none = network(lacking | {"data.clinical": [None] * 4})["model.output.risk"]
    torch.testing.assert_close(none, network(without([0, 1, 2, 3], "data.clinical"))["model.output.risk"])


def test_streams_take_lists_with_none():
    model, whole = streams(), modalities()
    expected = model(whole | {"data.mri_present": torch.tensor([1, 0, 1])})["model.backbone_features"]
    listed = [whole["data.mri"][0], None, whole["data.mri"][2]]
    torch.testing.assert_close(model(whole | {"data.mri": listed})["model.backbone_features"], expected)


def test_a_mask_has_one_entry_for_each_sample():
    with pytest.raises(ValueError, match=r"'data\.clinical_present' has one entry for each of the 4 samples, .*\(3,\)"):
        head()(batch() | {"data.clinical_present": torch.ones(3)})
