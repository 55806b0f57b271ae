import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fuse_core import NDict
from fuse_models import ModelMultistream

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def streams(count, rank=2, width=2):
    return [CONVOLUTIONS[rank](1, width, 3) for _ in range(count)]


@given(rank=st.integers(1, 3), count=st.integers(1, 4), samples=st.integers(1, 3))
def test_each_stream_sees_one_channel_at_any_rank(rank, count, samples):
    modules, image = streams(count, rank), torch.rand(samples, count, *[5, 4, 3][:rank])
    model = ModelMultistream(("data.image", count), modules, heads=[])
    features = model(NDict({"data.image": image}))["model.backbone_features"]
    expected = torch.cat([module(image[:, i : i + 1]) for i, module in enumerate(modules)], dim=1)
    torch.testing.assert_close(features, expected)


@pytest.mark.parametrize("conv_inputs", ["data.image", ["data.image"], [("data.image", 2)]])
def test_a_key_without_channels_or_in_a_sequence_is_split_by_channels_too(conv_inputs):
    model = ModelMultistream(conv_inputs, streams(2), heads=[])
    assert model(NDict({"data.image": torch.rand(3, 2, 5, 5)}))["model.backbone_features"].shape == (3, 4, 3, 3)


def test_several_keys_go_to_a_stream_each():
    modules = [nn.Conv2d(3, 4, 3), nn.Conv2d(1, 2, 3)]
    model = ModelMultistream([("data.photo", 3), "data.depth"], modules, heads=[])
    batch = NDict({"data.photo": torch.rand(2, 3, 5, 5), "data.depth": torch.rand(2, 1, 5, 5)})
    features = model(batch)["model.backbone_features"]
    torch.testing.assert_close(
        features, torch.cat([modules[0](batch["data.photo"]), modules[1](batch["data.depth"])], 1)
    )
    assert model.reads == ("data.photo", "data.depth")


def test_streams_may_share_weights_which_are_registered_once():
    shared, own = streams(2)
    model = ModelMultistream(("data.image", 3), [shared, own, shared], heads=[])
    assert list(model.state_dict()) == [f"backbone_streams.{i}.{name}" for i in (0, 1) for name in ("weight", "bias")]
    image = torch.rand(2, 3, 5, 5)
    expected = torch.cat([module(image[:, i : i + 1]) for i, module in enumerate([shared, own, shared])], dim=1)
    torch.testing.assert_close(model(NDict({"data.image": image}))["model.backbone_features"], expected)


def test_split_logic_runs_the_streams():
    def halves(batch_dict, streams):
        image = batch_dict["data.image"]
        return [streams[0](image[:, :2]), streams[1](image[:, 2:])]

    modules = [nn.Conv2d(2, 4, 3), nn.Conv2d(3, 4, 3)]
    model = ModelMultistream(("data.image", 5), modules, heads=[], split_logic=halves)
    assert model(NDict({"data.image": torch.rand(2, 5, 5, 5)}))["model.backbone_features"].shape == (2, 8, 3, 3)


def test_split_logic_is_given_every_stream_of_a_shared_backbone():
    seen = []

    def split(batch_dict, streams):
        seen.extend(streams)
        return [stream(batch_dict["data.image"]) for stream in streams]

    (shared,) = streams(1)
    ModelMultistream("data.image", [shared] * 3, heads=[], split_logic=split)(
        NDict({"data.image": torch.rand(2, 1, 5, 5)})
    )
    assert seen == [shared] * 3


def test_join_logic_makes_the_features():
    def mean(batch_dict, outputs):
        assert "data.image" in batch_dict
        return torch.stack(outputs).mean(0)

    model = ModelMultistream("data.image", streams(3), heads=[], join_logic=mean)
    assert model(NDict({"data.image": torch.rand(2, 3, 5, 5)}))["model.backbone_features"].shape == (2, 2, 3, 3)


@pytest.mark.parametrize(("count", "channels"), [(2, 3), (3, 2)])
def test_there_must_be_as_many_channels_as_streams(count, channels):
    error = rf"each of its {count} streams one channel, but 'data\.image' has {channels} channels \(axis 1\)"
    with pytest.raises(ValueError, match=error):
        ModelMultistream(("data.image", channels), streams(count), heads=[])
    model = ModelMultistream("data.image", streams(count), heads=[])
    with pytest.raises(ValueError, match=error):
        model(NDict({"data.image": torch.rand(2, channels, 5, 5)}))


def test_a_sequence_of_one_goes_to_a_single_stream_whole():
    model = ModelMultistream([("data.photo", 3)], [nn.Conv2d(3, 4, 3)], heads=[])
    assert model(NDict({"data.photo": torch.rand(2, 3, 5, 5)}))["model.backbone_features"].shape == (2, 4, 3, 3)


@pytest.mark.parametrize("keys", [["data.a", "data.b"], ["data.a", "data.b", "data.c", "data.d"]])
def test_there_must_be_as_many_keys_as_streams(keys):
    with pytest.raises(ValueError, match=rf"there are {len(keys)} keys for 3 streams\. Give as many keys"):
        ModelMultistream(keys, streams(3), heads=[])


def test_outputs_that_cannot_be_concatenated_are_named():
    model = ModelMultistream("data.image", [nn.Conv2d(1, 2, 3), nn.Conv2d(1, 2, 5)], heads=[])
    with pytest.raises(ValueError, match=r"got 'stream 0' \(2, 2, 3, 3\), 'stream 1' \(2, 2, 1, 1\)"):
        model(NDict({"data.image": torch.rand(2, 2, 5, 5)}))


@pytest.mark.parametrize("modules", [[], [nn.functional.relu], nn.Linear(1, 1), None])
def test_streams_are_a_sequence_of_modules(modules):
    with pytest.raises(TypeError, match=r"backbone_streams=\) takes a non-empty sequence of modules, got"):
        ModelMultistream("data.image", modules, heads=[])


@pytest.mark.parametrize("argument", ["split_logic", "join_logic"])
def test_the_logic_must_be_callable(argument):
    with pytest.raises(TypeError, match=rf"{argument}=\) takes a function or None, got 'mean'"):
        ModelMultistream("data.image", streams(1), heads=[], **{argument: "mean"})


@pytest.mark.parametrize("keys", [[], None, [("data.image", 0)], 3])
def test_inputs_are_keys_or_pairs(keys):
    with pytest.raises(ValueError, match=r"ModelMultistream\(conv_inputs=\) takes a"):
        ModelMultistream(keys, streams(1), heads=[])
