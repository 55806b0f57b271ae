import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fuse_core import NDict, NestedKeyError, WiringError, check_wiring
from fuse_models import Head1D, ModelEnsemble, ModelMultiHead, ModelWrapSeqToDict


def head(name, channels=4, key="model.backbone_features"):
    """Scores of the mean over all locations."""
    layers = nn.Sequential(nn.Flatten(2), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(channels, 2))
    return ModelWrapSeqToDict(model=layers, model_inputs=[key], model_outputs=[f"model.logits.{name}"])


class UndeclaredHead(nn.Module):
    """A head of a user's own that says nothing about its keys."""

    def forward(self, batch_dict):
        batch_dict["model.mine"] = batch_dict["model.backbone_features"] * 2
        return batch_dict


class TwoArguments(nn.Module):
    def forward(self, image, scale):
        return image * scale


@pytest.fixture
def batch():
    return NDict({"data.image": torch.rand(3, 2, 6, 6), "data.mask": torch.rand(3, 1, 6, 6)})


def test_conv_inputs_are_concatenated_on_the_channel_axis(batch):
    backbone = nn.Conv2d(3, 4, 3)
    model = ModelMultiHead(backbone, [head("a"), head("b")], conv_inputs=[("data.image", 2), "data.mask"])
    result = model(batch)
    assert result is batch
    expected = backbone(torch.cat([batch["data.image"], batch["data.mask"]], dim=1))
    torch.testing.assert_close(batch["model.backbone_features"], expected)
    assert batch["model.logits.a"].shape == batch["model.logits.b"].shape == (3, 2)


def test_backbone_args_are_passed_one_by_one(batch):
    model = ModelMultiHead(TwoArguments(), [], backbone_args=["data.image", ("data.mask", 1)])
    features = model(batch)["model.backbone_features"]
    torch.testing.assert_close(features, batch["data.image"] * batch["data.mask"])


def test_backbone_args_need_not_be_tensors():
    class Lengths(nn.Module):
        def forward(self, texts):
            return torch.tensor([[len(text)] for text in texts])

    model = ModelMultiHead(Lengths(), [], backbone_args=["data.text"])
    assert model(NDict({"data.text": ["a", "bcd"]}))["model.backbone_features"].tolist() == [[1], [3]]


@given(channels=st.lists(st.integers(1, 3), min_size=1, max_size=3), rank=st.integers(0, 3), samples=st.integers(1, 3))
def test_inputs_of_any_rank_are_concatenated(channels, rank, samples):
    inputs = {f"data.x{i}": torch.rand(samples, c, *[5, 4, 3][:rank]) for i, c in enumerate(channels)}
    model = ModelMultiHead(nn.Identity(), [], conv_inputs=list(zip(inputs, channels, strict=True)))
    features = model(NDict(inputs))["model.backbone_features"]
    assert features.shape == (samples, sum(channels), *[5, 4, 3][:rank])
    assert features.equal(torch.cat(list(inputs.values()), dim=1))


def test_the_features_go_to_the_key_asked_for(batch):
    model = ModelMultiHead(
        nn.Conv2d(2, 4, 3), [head("a", key="model.map")], conv_inputs=["data.image"], key_out_features="model.map"
    )
    assert set(model(batch)) == {"data.image", "data.mask", "model.map", "model.logits.a"}
    assert model.writes == ("model.map", "model.logits.a")


def test_a_head_may_read_what_a_head_before_it_wrote(batch):
    second = head("b", channels=2, key="model.logits.a")
    second.model = nn.Identity()
    model = ModelMultiHead(nn.Conv2d(2, 4, 3), [head("a"), second], conv_inputs=["data.image"])
    assert model(batch)["model.logits.b"].equal(batch["model.logits.a"])
    assert model.reads == ("data.image",)


def test_what_heads_read_from_outside_is_read_by_the_model():
    model = ModelMultiHead(nn.Conv2d(2, 4, 3), [head("a", key="data.clinical")], conv_inputs=["data.image"])
    assert model.reads == ("data.image", "data.clinical")
    with pytest.raises(WiringError, match=r"ModelMultiHead reads 'data\.clinical', which nothing before it provides"):
        check_wiring([model], ["data.image"])


def test_a_head_that_reads_a_misspelt_feature_key_is_found_before_the_first_step():
    model = ModelMultiHead(nn.Conv2d(2, 4, 3), [head("a", key="model.backbone_feature")], conv_inputs=["data.image"])
    with pytest.raises(WiringError, match=r"reads 'model\.backbone_feature', which nothing"):
        check_wiring([model], ["data.image"])


def test_a_head_that_declares_nothing_works_and_is_not_vouched_for(batch):
    class Loss:
        reads = ("model.mine",)

    model = ModelMultiHead(nn.Conv2d(2, 4, 3), [UndeclaredHead()], conv_inputs=["data.image"])
    torch.testing.assert_close(model(batch)["model.mine"], batch["model.backbone_features"] * 2)
    assert (model.reads, model.writes) == (None, None)
    notes = check_wiring([model, Loss()], ["data.image"]).notes
    assert notes[0].startswith("ModelMultiHead declares neither reads nor writes")  # the rest is fuse-core's wording


def test_a_head_that_returns_nothing_is_named(batch):
    class Forgetful(nn.Module):
        def forward(self, batch_dict):
            batch_dict["x"] = 1

    model = ModelMultiHead(nn.Conv2d(2, 4, 3), [Forgetful()], conv_inputs=["data.image"])
    with pytest.raises(TypeError, match=r"the head Forgetful returned None\. A head must return the batch_dict"):
        model(batch)


def test_channels_that_were_not_declared_are_an_error(batch):
    model = ModelMultiHead(nn.Conv2d(3, 4, 3), [], conv_inputs=[("data.image", 3)])
    with pytest.raises(ValueError, match=r"'data\.image' to have 3 channels \(axis 1\), but its shape is \(3, 2,"):
        model(batch)


def test_inputs_of_other_sizes_are_named(batch):
    batch["data.mask"] = torch.rand(3, 1, 5, 6)
    model = ModelMultiHead(nn.Conv2d(3, 4, 3), [], conv_inputs=["data.image", "data.mask"])
    with pytest.raises(ValueError, match=r"equal, got 'data\.image' \(3, 2, 6, 6\), 'data\.mask' \(3, 1, 5, 6\)"):
        model(batch)


def test_a_missing_input_names_the_nearest_key(batch):
    with pytest.raises(NestedKeyError, match=r"ModelMultiHead reads 'data\.imgae'.*'data\.image'"):
        ModelMultiHead(nn.Identity(), [], conv_inputs=["data.imgae"])(batch)


@pytest.mark.parametrize(
    ("options", "given"), [({}, "neither"), ({"conv_inputs": ["a"], "backbone_args": ["a"]}, "both")]
)
def test_one_kind_of_inputs_must_be_given(options, given):
    with pytest.raises(ValueError, match=rf"either conv_inputs.* or backbone_args.*but {given} of them were given"):
        ModelMultiHead(nn.Identity(), [], **options)


@pytest.mark.parametrize("argument", ["conv_inputs", "backbone_args"])
@pytest.mark.parametrize("keys", ["data.image", [], ("data.image", 3), [("data.image", 0)], [("data.image", "3")], [1]])
def test_inputs_are_a_sequence_of_keys_or_pairs(argument, keys):
    with pytest.raises(ValueError, match=rf"ModelMultiHead\({argument}=\) takes a non-empty sequence of keys or of"):
        ModelMultiHead(nn.Identity(), [], **{argument: keys})


@pytest.mark.parametrize("heads", [nn.Linear(1, 1), ["cls"], nn.ModuleDict({"a": nn.Linear(1, 1)}), None, "cls"])
def test_heads_are_a_sequence_of_modules(heads):
    with pytest.raises(TypeError, match=r"ModelMultiHead\(heads=\) takes a sequence of modules, got"):
        ModelMultiHead(nn.Identity(), heads, conv_inputs=["data.image"])


def test_the_backbone_must_be_a_module():
    with pytest.raises(TypeError, match=r"ModelMultiHead\(backbone=\) takes a module, got <function relu"):
        ModelMultiHead(nn.functional.relu, [], conv_inputs=["data.image"])


def test_two_heads_cannot_write_the_same_key():
    with pytest.raises(ValueError, match=r"2 heads write 'model\.logits\.a'\. Give each head a name of its own"):
        ModelMultiHead(nn.Identity(), [head("a"), head("a")], conv_inputs=["data.image"])


def test_hooks_of_the_backbone_and_the_heads_run(batch):
    calls = []
    model = ModelMultiHead(nn.Conv2d(2, 4, 3), [head("a")], conv_inputs=["data.image"])
    model.backbone.register_forward_hook(lambda *args: calls.append("backbone"))
    model.heads[0].register_forward_hook(lambda *args: calls.append("head"))
    model(batch)
    assert calls == ["backbone", "head"]


def test_the_state_dict_has_fusemedmls_names():
    model = ModelMultiHead(nn.Conv2d(2, 4, 3), [nn.Linear(1, 1), UndeclaredHead()], conv_inputs=["data.image"])
    assert list(model.state_dict()) == ["backbone.weight", "backbone.bias", "heads.0.weight", "heads.0.bias"]


def test_slices_hold_heads():
    model = ModelMultiHead(nn.Identity(), [head("a"), head("b")], conv_inputs=["data.image"])
    assert list(model.heads[1:]) == [model.heads[1]]


# ---------------------------------------------------------------------------------------------- heads that change later


def test_heads_that_change_later_are_declared(batch):
    model = ModelMultiHead(nn.Identity(), [head("a")], conv_inputs=["data.image"])
    model.heads.append(head("b"))
    assert model.writes == ("model.backbone_features", "model.logits.a", "model.logits.b")
    model.heads[0] = head("c")
    assert model.writes == ("model.backbone_features", "model.logits.c", "model.logits.b")
    model.heads.insert(0, head("d"))
    del model.heads[1]
    assert model.writes == ("model.backbone_features", "model.logits.d", "model.logits.b")
    model.heads.extend([UndeclaredHead()])
    assert model.reads is None


@pytest.mark.parametrize(
    "change",
    [
        lambda heads: heads.append(head("a")),
        lambda heads: heads.extend([head("c"), head("c")]),
        lambda heads: heads.insert(0, head("a")),
        lambda heads: heads.__setitem__(1, head("a")),
        lambda heads: heads.__iadd__([head("a")]),
    ],
)
def test_a_head_that_writes_the_key_of_another_is_refused_later_too(change):
    model = ModelMultiHead(nn.Identity(), [head("a"), head("b")], conv_inputs=["data.image"])
    with pytest.raises(ValueError, match=r"ModelMultiHead: 2 heads write 'model\.logits\.[ac]'"):
        change(model.heads)
    assert len(model.heads) == 2


def test_a_model_of_a_subclass_is_named_in_errors(batch):
    class MyModel(ModelMultiHead):
        pass

    with pytest.raises(NestedKeyError, match=r"MyModel reads 'data\.imgae'"):
        MyModel(nn.Identity(), [], conv_inputs=["data.imgae"])(batch)


def test_the_list_of_heads_may_be_replaced():
    model = ModelMultiHead(nn.Linear(4, 6), [head_of("a")], conv_inputs=["data.x"])
    model.heads = nn.ModuleList([head_of("b")])
    assert "model.output.b" in model({"data.x": torch.rand(2, 4)})
    assert model.writes == ("model.backbone_features", "model.logits.b", "model.output.b")
    with pytest.raises(ValueError, match=r"ModelMultiHead: 2 heads write 'model\.logits\.b'"):
        model.heads = [head_of("b"), head_of("b")]


def test_a_renamed_head_is_declared_by_its_new_name():
    model = ModelMultiHead(nn.Linear(4, 6), [head_of("a")], conv_inputs=["data.x"])
    model.heads[0].head_name = "b"
    batch = model({"data.x": torch.rand(2, 4)})
    assert set(batch) == {"data.x", *model.writes}
    model.heads.append(head_of("a"))
    model.heads[1].head_name = "b"
    with pytest.raises(ValueError, match=r"ModelMultiHead: 2 heads write 'model\.logits\.b'"):
        model.writes  # noqa: B018
    with pytest.raises(ValueError, match=r"ModelMultiHead: 2 heads write 'model\.logits\.b'"):
        model({"data.x": torch.rand(2, 4)})
    with pytest.raises(ValueError, match=r"ModelMultiHead: 2 heads write 'model\.logits\.b'"):
        ModelEnsemble([model], {"model.output.b": "probabilities"})({"data.x": torch.rand(2, 4)})


def head_of(name):
    return Head1D(name, conv_inputs=[("model.backbone_features", 6)])
