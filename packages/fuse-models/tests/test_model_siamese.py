import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fuse_core import NDict
from fuse_models import ModelSiamese, ModelWrapDictToSeq

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class Counting(nn.Conv2d):
    """A convolution that counts its calls."""

    calls = 0

    def forward(self, image):
        self.calls += 1
        return super().forward(image)


def siamese(backbone, **options):
    return ModelSiamese(["data.before"], ["data.after"], backbone, heads=[], **options)


def batch(*shape, second=None):
    return NDict({"data.before": torch.rand(shape), "data.after": torch.rand(second or shape)})


@given(rank=st.integers(1, 3), samples=st.integers(0, 3), batched=st.booleans())
def test_both_branches_go_through_the_same_backbone(rank, samples, batched):
    backbone = CONVOLUTIONS[rank](2, 4, 3)
    images = batch(samples, 2, *[5, 4, 3][:rank])
    result = siamese(backbone, batched=batched)(images)
    expected = [backbone(images["data.before"]), backbone(images["data.after"])]
    torch.testing.assert_close(result["model.backbone_features_0"], expected[0])
    torch.testing.assert_close(result["model.backbone_features_1"], expected[1])
    torch.testing.assert_close(result["model.backbone_features"], torch.cat(expected, dim=1))


def test_several_inputs_of_a_branch_are_concatenated_on_the_channel_axis():
    inputs = {f"data.{name}": torch.rand(3, 1, 5, 5) for name in ("a", "b", "c", "d")}
    backbone = nn.Conv2d(2, 4, 3)
    model = ModelSiamese([("data.a", 1), ("data.b", 1)], ["data.c", "data.d"], backbone, heads=[])
    features = model(NDict(inputs))["model.backbone_features_1"]
    torch.testing.assert_close(features, backbone(torch.cat([inputs["data.c"], inputs["data.d"]], dim=1)))
    assert model.reads == tuple(inputs)


def test_one_pass_where_the_shapes_are_equal_and_two_where_not():
    backbone = Counting(1, 4, 3)
    model = siamese(nn.Sequential(backbone, nn.AdaptiveAvgPool2d(1)))
    assert model(batch(2, 1, 5, 5))["model.backbone_features"].shape == (2, 8, 1, 1)
    assert backbone.calls == 1
    assert model(batch(2, 1, 5, 5, second=(2, 1, 7, 6)))["model.backbone_features"].shape == (2, 8, 1, 1)
    assert backbone.calls == 3


def test_batched_false_always_takes_two_passes():
    backbone = Counting(1, 4, 3)
    siamese(backbone, batched=False)(batch(2, 1, 5, 5))
    assert backbone.calls == 2


def test_one_pass_normalises_both_branches_together_and_two_passes_each_by_itself():
    images = NDict({"data.before": torch.randn(4, 1, 5, 5), "data.after": torch.randn(4, 1, 5, 5) + 10})
    together = siamese(nn.BatchNorm2d(1))(images.copy())
    apart = siamese(nn.BatchNorm2d(1), batched=False)(images.copy())
    both = nn.BatchNorm2d(1)(torch.cat([images["data.before"], images["data.after"]]))
    torch.testing.assert_close(together["model.backbone_features_1"], both[4:])
    torch.testing.assert_close(apart["model.backbone_features_1"], nn.BatchNorm2d(1)(images["data.after"]))
    assert together["model.backbone_features_1"].mean() > 0.5 > apart["model.backbone_features_1"].mean().abs()


def test_in_eval_mode_one_pass_and_two_normalise_alike():
    images, norm = batch(4, 1, 5, 5), nn.BatchNorm2d(1)
    norm(torch.randn(8, 1, 5, 5) * 3)
    together = siamese(norm).eval()(images.copy())["model.backbone_features"]
    torch.testing.assert_close(siamese(norm, batched=False).eval()(images)["model.backbone_features"], together)


def test_the_keys_of_the_branches_follow_that_of_the_features():
    model = siamese(nn.Identity(), key_out_features="model.map")
    result = model(batch(2, 1, 5))
    assert set(result) == {"data.before", "data.after", "model.map", "model.map_0", "model.map_1"}
    assert model.writes == ("model.map", "model.map_0", "model.map_1")


def test_the_same_input_may_be_in_both_branches():
    model = ModelSiamese(["data.a"], ["data.a"], nn.Identity(), heads=[])
    assert model.reads == ("data.a",)


def test_a_backbone_must_return_one_tensor():
    class Pair(nn.Module):
        def forward(self, image):
            return image, image

    with pytest.raises(TypeError, match=r"returns one tensor with the batch, here of 4, first, but it returned tuple"):
        siamese(Pair())(batch(2, 1, 5))


def test_a_backbone_must_keep_the_batch_first():
    class Mean(nn.Module):
        def forward(self, image):
            return image.mean(0)

    with pytest.raises(TypeError, match=r"the batch, here of 4, first, but it returned shape \(1, 5\)"):
        siamese(Mean())(batch(2, 1, 5))


def test_feature_maps_of_other_sizes_are_named():
    with pytest.raises(ValueError, match=r"features_0' \(2, 1, 5\), 'model\.backbone_features_1' \(2, 1, 6\)"):
        siamese(nn.Identity())(batch(2, 1, 5, second=(2, 1, 6)))


def test_channels_that_were_not_declared_are_an_error():
    model = ModelSiamese([("data.before", 1)], [("data.after", 3)], nn.Identity(), heads=[])
    with pytest.raises(ValueError, match=r"ModelSiamese expects 'data\.after' to have 3 channels"):
        model(batch(2, 1, 5))


@pytest.mark.parametrize("argument", ["conv_inputs_0", "conv_inputs_1"])
@pytest.mark.parametrize("keys", [None, [], "data.image", ("data.image", 1)])
def test_inputs_are_a_sequence_of_keys_or_pairs(argument, keys):
    inputs = {"conv_inputs_0": ["data.a"], "conv_inputs_1": ["data.b"], argument: keys}
    with pytest.raises(ValueError, match=rf"ModelSiamese\({argument}=\) takes a non-empty sequence"):
        ModelSiamese(**inputs, backbone=nn.Identity(), heads=[])


def test_the_backbone_must_be_a_module():
    with pytest.raises(TypeError, match=r"ModelSiamese\(backbone=\) takes a module"):
        siamese(nn.functional.relu)


@pytest.mark.parametrize("batched", [True, False])
def test_the_batch_size_of_an_exported_model_is_dynamic(batched):
    model = ModelSiamese([("data.a", 2)], [("data.b", 2)], nn.Conv2d(2, 4, 3), [], batched=batched).eval()
    plain = ModelWrapDictToSeq(model, "model.backbone_features", ["data.a", "data.b"])
    inputs, size = torch.randn(2, 4, 2, 8, 8).unbind(), torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(plain, inputs, dynamic_shapes=(({0: size}, {0: size}),), strict=False)
    others = torch.randn(2, 7, 2, 8, 8).unbind()
    torch.testing.assert_close(exported.module()(*others), plain(*others))


def test_fx_traces_one_pass_in_training_and_two_in_eval_mode():
    branch = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    model = ModelSiamese([("data.a", 1)], [("data.b", 1)], branch, [])
    model = ModelWrapDictToSeq(model, "model.backbone_features", model.reads)
    first, second = torch.randn(3, 1, 8, 8), torch.randn(3, 1, 8, 8) + 5
    torch.testing.assert_close(torch.fx.symbolic_trace(model)(first, second), model(first, second))
    model.eval()
    larger = torch.randn(3, 1, 8, 9)
    torch.testing.assert_close(torch.fx.symbolic_trace(model)(first, second), model(first, second))
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        torch.fx.symbolic_trace(model.train())(first, larger)
