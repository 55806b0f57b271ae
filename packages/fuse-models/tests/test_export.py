"""Every model traces, exports with a dynamic batch size and converts to ONNX, with the outputs that it has here."""

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fuse_models import (
    BackboneInceptionResnetV2,
    BackboneMultilayerPerceptron,
    BackboneResnet,
    BackboneResnet3D,
    BackboneTransformer,
    BackboneUNet,
    BackboneViT,
    DecoderUNet,
    Head1D,
    Head3D,
    HeadDenseSegmentation,
    HeadGlobalPoolingClassifier,
    ModelEnsemble,
    ModelMultiHead,
    ModelMultistream,
    ModelSiamese,
    ModelWrapDictToSeq,
    ModelWrapSeqToDict,
)

OUTPUT = "model.output.cls"


def features(channels):
    return "model.backbone_features", channels


def pooled(channels):
    return HeadGlobalPoolingClassifier("cls", [features(channels)], append_features=[("data.c", 3)])


def with_head(backbone, head, key="data.x"):
    return ModelMultiHead(backbone, [head], conv_inputs=[key])


def dense(channels):
    return HeadDenseSegmentation("cls", [features(channels)], layers_description=(4,))


def member():
    return with_head(nn.Conv2d(2, 4, 3), HeadGlobalPoolingClassifier("cls", [features(4)]))


def ensemble(execution, **options):
    return ModelEnsemble([member() for _ in range(2)], execution=execution, **options)


IMAGE, VOLUME, VECTOR = (2, 16, 16), (2, 8, 16, 16), (3,)
MODELS = {
    "wrapped": (
        lambda: ModelWrapSeqToDict(model=nn.Conv2d(2, 3, 3), model_inputs=["data.x"], model_outputs=[OUTPUT]),
        {"data.x": IMAGE},
    ),
    "multi-head": (lambda: with_head(nn.Conv2d(2, 4, 3), pooled(4)), {"data.x": IMAGE, "data.c": VECTOR}),
    "multistream": (
        lambda: ModelMultistream(("data.x", 2), [nn.Conv2d(1, 2, 3)] * 2, [pooled(4)]),
        {"data.x": IMAGE, "data.c": VECTOR},
    ),
    "siamese": (
        lambda: ModelSiamese(["data.x"], ["data.y"], nn.Conv2d(2, 2, 3), [pooled(4)]),
        {"data.x": IMAGE, "data.y": IMAGE, "data.c": VECTOR},
    ),
    "multistream with an input that may be missing": (
        lambda: ModelMultistream(
            ["data.x", "data.y"],
            [BackboneMultilayerPerceptron([2], 3), BackboneMultilayerPerceptron([2], 3)],
            [
                Head1D(
                    "cls",
                    "multilabel",
                    [features(4)],
                    optional_inputs={"data.c": "zero"},
                    append_features=[("data.c", 3)],
                )
            ],
            optional_inputs={"data.y": "learned"},
        ),
        {"data.x": VECTOR, "data.y": VECTOR, "data.c": VECTOR},
    ),
    "ensemble": (lambda: ensemble("sequential"), {"data.x": IMAGE}),
    "ensemble of labels": (
        lambda: ModelEnsemble(
            [with_head(nn.Conv2d(2, 4, 3), HeadDenseSegmentation("cls", [features(4)], mode="multilabel"))] * 2
        ),
        {"data.x": IMAGE},
    ),
    "weighted ensemble": (lambda: ensemble("sequential", average="logits", average_weights=[1, 2]), {"data.x": IMAGE}),
    "vectorized ensemble": (lambda: ensemble("vmap"), {"data.x": IMAGE}),
    "ensemble in low memory": (lambda: ensemble("sequential", low_memory=True), {"data.x": IMAGE}),
    "perceptron": (
        lambda: with_head(BackboneMultilayerPerceptron([4], 3), Head1D("cls", conv_inputs=[features(4)])),
        {"data.x": VECTOR},
    ),
    "resnet": (lambda: with_head(BackboneResnet(in_channels=2), dense(512)), {"data.x": (2, 33, 32)}),
    "resnet3d": (
        lambda: with_head(
            BackboneResnet3D(in_channels=2, layers=[1, 1], first_channel_dim=4, shortcut="A"),
            Head3D("cls", conv_inputs=[features(8)]),
        ),
        {"data.x": VOLUME},
    ),
    "inception": (
        lambda: with_head(
            BackboneInceptionResnetV2(1, in_channels=2, pool="avg"), Head1D("cls", "multilabel", [features(320)])
        ),
        {"data.x": (2, 75, 75)},
    ),
    "unet": (lambda: with_head(BackboneUNet(2, 3, (2, 4, 4)), dense(2)), {"data.x": VOLUME}),
    "decoder": (
        lambda: with_head(
            DecoderUNet(BackboneResnet3D(in_channels=2, layers=[1, 1], first_channel_dim=4), (4, 4)), dense(4)
        ),
        {"data.x": VOLUME},
    ),
    "vit": (lambda: with_head(BackboneViT(2, 16, 4, 12, 1, 3), dense(12)), {"data.x": IMAGE}),
    "transformer": (
        lambda: with_head(
            BackboneTransformer(in_features=3, embed_dim=8, depth=1, num_heads=2),
            Head1D("cls", conv_inputs=[features(8)]),
        ),
        {"data.x": (6, 3)},
    ),
}


def plain(name):
    """A model that takes tensors, its inputs, and other inputs of another batch size."""
    torch.manual_seed(0)
    make, shapes = MODELS[name]
    model = make().eval()
    key = [f"{OUTPUT}_ensemble_{what}" for what in ("average", "std", "0", "majority_vote")]
    key = key if "ensemble" in name else [OUTPUT]
    inputs, others = (tuple(torch.randn(number, *shape) for shape in shapes.values()) for number in (4, 3))
    return ModelWrapDictToSeq(model, key, list(shapes)).eval(), inputs, others


every_model = pytest.mark.parametrize("name", MODELS)


@every_model
def test_it_exports_with_a_dynamic_batch_size(name):
    model, inputs, others = plain(name)
    batch = torch.export.Dim("batch", min=1, max=64)
    shapes = (tuple({0: batch} for _ in inputs),)
    exported = torch.export.export(model, inputs, dynamic_shapes=shapes, strict=False)
    torch.testing.assert_close(exported.module()(*others), model(*others), rtol=1e-4, atol=1e-5)


@every_model
@pytest.mark.filterwarnings("ignore")  # the tracer's, about each shape that is compared, and its deprecation
def test_it_traces(name):
    model, inputs, others = plain(name)
    traced = torch.jit.trace(model, inputs)
    torch.testing.assert_close(traced(*inputs), model(*inputs), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(traced(*others), model(*others), rtol=1e-4, atol=1e-5)


@every_model
@pytest.mark.filterwarnings("ignore")  # the exporter's own
def test_it_converts_to_onnx(name, tmp_path):
    pytest.importorskip("onnxscript", reason="torch's exporter to ONNX needs onnxscript")
    reference = pytest.importorskip("onnx.reference", reason="torch's exporter to ONNX needs onnx")
    model, inputs, _ = plain(name)
    if torch.__version__.startswith("2.6.") and any(isinstance(one, _BatchNorm) for one in model.modules()):
        pytest.skip("torch 2.6's exporter to ONNX converts no batch normalization")
    program = torch.onnx.export(model, inputs, dynamo=True, verbose=False)
    program.save(str(tmp_path / "model.onnx"))
    session = reference.ReferenceEvaluator(str(tmp_path / "model.onnx"))
    feed = {name: x.numpy() for name, x in zip(session.input_names, inputs, strict=True)}
    outputs = tuple(torch.as_tensor(output) for output in session.run(None, feed))
    torch.testing.assert_close(outputs, model(*inputs), rtol=1e-3, atol=1e-4)


@every_model
def test_fx_traces_it(name):
    model, _, others = plain(name)
    traced = torch.fx.symbolic_trace(model)
    torch.testing.assert_close(traced(*others), model(*others), rtol=1e-4, atol=1e-5)
