"""Numbers of NumPy's types are numbers, also for torch.compile, and members of a str Enum are keys."""

from enum import Enum

import numpy as np
import pytest
import torch
from torch import nn

from fuse_core import NDict
from fuse_models import (
    BackboneMultilayerPerceptron,
    BackboneResnet3D,
    BackboneTransformer,
    BackboneUNet,
    BackboneViT,
    Head1D,
    HeadDenseSegmentation,
    ModelEnsemble,
    ModelMultistream,
    ModelSiamese,
    ModelWrapSeqToDict,
)

one, two, three, four, eight = map(np.int64, (1, 2, 3, 4, 8))
rate = np.float32(0.25)
MODULES = {
    "perceptron": (lambda: BackboneMultilayerPerceptron(np.array([4, 3]), eight, dropout_rate=rate), (2, 8)),
    "resnet3d": (
        lambda: BackboneResnet3D(in_channels=one, layers=np.array([1, 1]), stem_kernel_size=three),
        (2, 1, 8, 8, 8),
    ),
    "transformer": (lambda: BackboneTransformer(None, eight, eight, one, two, max_length=four), (2, 4, 8)),
    "unet": (
        lambda: BackboneUNet(
            one, 2, np.array([4, 8]), np.array([1, 2]), kernel_sizes=three, blocks_per_level=np.array([1, 2])
        ),
        (2, 1, 8, 8),
    ),
    "vit": (lambda: BackboneViT(one, eight, np.array([4, 4]), eight, one, two, dropout_rate=rate), (2, 1, 8, 8)),
}


@pytest.mark.parametrize(("make", "shape"), MODULES.values(), ids=MODULES)
def test_backbones_take_numbers_of_numpy(make, shape):
    torch._dynamo.reset()
    backbone = make().eval()
    x = torch.randn(shape)
    compiled = torch.compile(backbone, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), backbone(x))
    assert type(backbone.feature_depth) is int


def test_heads_take_numbers_of_numpy():
    sizes = np.array([4, 3])
    vectors = [("data.clinical", two)]
    head = Head1D("risk", "regression", [("data.x", four)], three, vectors, sizes, sizes, rate, rate)
    dense = HeadDenseSegmentation("mask", [("data.map", two)], three, None, two, sizes, rate)
    batch = {"data.x": torch.randn(2, 4), "data.clinical": torch.randn(2, 2), "data.map": torch.randn(2, 2, 4, 4)}
    batch = dense(head(batch))
    assert batch["model.output.risk"].shape == (2, 3)
    assert batch["model.output.mask"].shape == (2, 3, 2, 2)


def test_declared_channels_may_be_numbers_of_numpy():
    model = ModelMultistream(("data.image", two), [nn.Conv2d(1, 4, 3), nn.Conv2d(1, 4, 3)], heads=[])
    batch = model({"data.image": torch.randn(2, 2, 8, 8)})
    assert batch["model.backbone_features"].shape == (2, 8, 6, 6)


@pytest.mark.parametrize("wrong", [np.float64(8), np.int64(0), np.bool_(True), np.array([8, 8])])
def test_other_values_of_numpy_are_refused(wrong):
    with pytest.raises(ValueError, match=r"\(mlp_input_size=\) takes a positive integer, got"):
        BackboneMultilayerPerceptron([4], wrong)


def test_a_plan_without_entries_is_not_the_default():
    with pytest.raises(ValueError, match=r"\(blocks_per_level=\) takes 2 positive integers, got \[\]"):
        BackboneUNet(1, 2, (4, 8), blocks_per_level=[])


class Keys(str, Enum):  # noqa: UP042  an f-string prints a member of a StrEnum as its value, but not one of these
    A = "data.a"
    B = "data.b"
    FEATURES = "model.features"
    SCORES = "model.logits.cls"


def scores() -> nn.Module:
    return ModelWrapSeqToDict(model=nn.Linear(4, 2), model_inputs=[Keys.A], model_outputs=[Keys.SCORES])


@pytest.mark.parametrize(("compiled", "make_batch"), [(False, dict), (False, NDict), (True, dict)])
@pytest.mark.parametrize(
    ("make", "written"),
    [
        (scores, ["model.logits.cls"]),
        (
            lambda: ModelEnsemble([scores()], {Keys.SCORES: "values"}),
            [f"model.logits.cls_ensemble_{name}" for name in ("0", "average", "std")],
        ),
        (
            lambda: ModelSiamese([Keys.A], [Keys.B], nn.Linear(4, 3), [], Keys.FEATURES),
            ["model.features", "model.features_0", "model.features_1"],
        ),
        (
            lambda: Head1D("a", "regression", [(Keys.A, 4)], 1, [(Keys.B, 4)], optional_inputs={Keys.B: "zero"}),
            ["model.output.a"],
        ),
    ],
    ids=["wrapper", "ensemble", "siamese", "optional input"],
)
def test_members_of_a_str_enum_are_the_keys_that_they_hold(make, written, compiled, make_batch):
    model = make().eval()
    run = torch.compile(model, backend="eager", fullgraph=True) if compiled else model
    inputs = {"data.a": torch.rand(2, 4), "data.b": torch.rand(2, 4), "data.b_present": torch.tensor([True, False])}
    keys = [key for key in run(make_batch(inputs)) if key not in inputs]
    assert sorted(keys) == sorted(model.writes) == written
    assert {type(key) for key in (*keys, *model.reads, *model.writes)} == {str}
