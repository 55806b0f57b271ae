"""The models of the pages: a small one of each kind, what it is for, and the weights that load."""

from typing import NamedTuple

import torch
from torch import nn

import fuse_models
from fuse_core import TensorSpec


class ModelPage(NamedTuple):
    """One page. Texts are Markdown; `code` is shown and run: it leaves `model` and `spec`."""

    name: str
    title: str
    use: str
    code: str
    parts: str = ""
    """The part whose parameters are counted, an expression in `code`; the model by default."""
    weights: str = ""


NAMES: dict[str, object] = {name: getattr(fuse_models, name) for name in fuse_models.__all__ if name[0].isupper()}
NAMES |= {"TensorSpec": TensorSpec, "torch": torch, "nn": nn}
"""What the code of a page may use; the page imports what it uses."""

TORCHVISION = (
    "A state dict or file with the names of torchvision, or a member of torchvision's weights enum, which downloads. "
    "For another number of `in_channels` the first convolution is summed or repeated."
)
PREFIXES = (
    "A state dict or file of the same class. It may come from a Lightning checkpoint, DataParallel or `torch.compile`."
)


def _page(name: str, title: str, use: str, code: str, parts: str = "", weights: str = PREFIXES) -> ModelPage:
    return ModelPage(name, title, use, code.strip() + "\n", parts, weights)


MODELS: tuple[ModelPage, ...] = (
    _page(
        "ModelMultiHead",
        "One backbone, several heads",
        "The usual model: a backbone writes features, and each head reads them and writes its prediction.",
        """
backbone = BackboneResnet(in_channels=1, name="resnet18")
features = [("model.backbone_features", backbone.feature_depth)]
heads = [
    HeadGlobalPoolingClassifier("lesion", features, num_classes=2),
    HeadGlobalPoolingClassifier("finding", features, num_classes=5, mode="multilabel"),
]
model = ModelMultiHead(backbone, heads, conv_inputs=[("data.image", 1)])
spec = {"data.image": TensorSpec((None, 1, 64, 64))}
""",
    ),
    _page(
        "ModelMultistream",
        "Several inputs, a backbone for each",
        "For several images of one sample, such as views or modalities. To share weights, give one module several times.",
        """
streams = [BackboneResnet(in_channels=1, pool="avg"), BackboneResnet(in_channels=1, pool="avg")]
head = Head1D("change", conv_inputs=[("model.backbone_features", 1024)], num_outputs=2)
model = ModelMultistream(["data.before", "data.after"], streams, [head])
spec = {"data.before": TensorSpec((None, 1, 64, 64)), "data.after": TensorSpec((None, 1, 64, 64))}
""",
    ),
    _page(
        "ModelSiamese",
        "Two inputs, one backbone",
        "To compare two images of the same kind. Both go through the same backbone.",
        """
head = HeadGlobalPoolingClassifier("same", [("model.backbone_features", 1024)], num_classes=2)
model = ModelSiamese([("data.a", 1)], [("data.b", 1)], BackboneResnet(in_channels=1), [head])
spec = {"data.a": TensorSpec((None, 1, 64, 64)), "data.b": TensorSpec((None, 1, 64, 64))}
""",
    ),
    _page(
        "ModelEnsemble",
        "Several models together",
        "Computes the average of the predictions of several models, their majority vote and their standard deviation.",
        """
def member():
    head = Head1D("cls", conv_inputs=[("model.backbone_features", 32)], num_outputs=3)
    backbone = BackboneMultilayerPerceptron([32], mlp_input_size=8)
    return ModelMultiHead(backbone, [head], conv_inputs=[("data.x", 8)])


model = ModelEnsemble([member() for _ in range(3)], ["model.output.cls"])
spec = {"data.x": TensorSpec((None, 8))}
""",
        weights="`ModelEnsemble.from_directories` reads the checkpoints of several run folders.",
    ),
    _page(
        "ModelWrapSeqToDict",
        "Any module with keys",
        "To use a module that takes and returns tensors, from any library.",
        """
network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
model = ModelWrapSeqToDict(model=network, model_inputs=["data.image"], model_outputs=["model.logits.digit"])
spec = {"data.image": TensorSpec((None, 1, 8, 8))}
""",
        weights="The weights of the wrapped module, with the prefix `model.`.",
    ),
    _page(
        "BackboneResnet",
        "ResNet for images",
        "The first backbone to try for images. `resnet18`, `34`, `50`, `101` and `152`.",
        """
backbone = BackboneResnet(in_channels=3, name="resnet18")
head = HeadGlobalPoolingClassifier("cls", [("model.backbone_features", backbone.feature_depth)], num_classes=2)
model = ModelMultiHead(backbone, [head], conv_inputs=[("data.image", 3)])
spec = {"data.image": TensorSpec((None, 3, 224, 224))}
""",
        "model.backbone",
        TORCHVISION,
    ),
    _page(
        "BackboneResnet3D",
        "ResNet for volumes and videos",
        "The default is r3d_18. With other arguments it is a network of MedicalNet or MONAI.",
        """
backbone = BackboneResnet3D(in_channels=1)
head = Head3D("age", "regression", [("model.backbone_features", backbone.feature_depth)], num_outputs=1)
model = ModelMultiHead(backbone, [head], conv_inputs=[("data.volume", 1)])
spec = {"data.volume": TensorSpec((None, 1, 16, 64, 64))}
""",
        "model.backbone",
        "The names of torchvision (r3d_18), of MedicalNet and of MONAI's 3D ResNets.",
    ),
    _page(
        "BackboneInceptionResnetV2",
        "Inception-ResNet-v2 for images",
        "A deep network, for large data sets. It can end after any of its logical units, 0 to 43.",
        """
backbone = BackboneInceptionResnetV2(in_channels=1, logical_units_num=12)
head = HeadGlobalPoolingClassifier("cls", [("model.backbone_features", backbone.feature_depth)], num_classes=2)
model = ModelMultiHead(backbone, [head], conv_inputs=[("data.image", 1)])
spec = {"data.image": TensorSpec((None, 1, 139, 139))}
""",
        "model.backbone",
        "The names of timm and of Cadene.",
    ),
    _page(
        "BackboneViT",
        "Vision transformer for images and volumes",
        "For large data sets, or with trained weights. For smaller data sets use a ResNet.",
        """
backbone = BackboneViT(in_channels=1, image_size=64, patch_size=16, embed_dim=96, depth=4, num_heads=3, pool="class")
head = Head1D("cls", conv_inputs=[("model.backbone_features", backbone.feature_depth)], num_outputs=2)
model = ModelMultiHead(backbone, [head], conv_inputs=[("data.image", 1)])
spec = {"data.image": TensorSpec((None, 1, 64, 64))}
""",
        "model.backbone",
        "The names of timm's two-dimensional vision transformers.",
    ),
    _page(
        "BackboneUNet",
        "U-Net",
        "For segmentations of images and volumes, with nnU-Net's architecture: plain or residual.",
        """
backbone = BackboneUNet(in_channels=1, ndim=2, features_per_level=(16, 32, 64))
head = HeadDenseSegmentation("lesion", [("model.backbone_features", 16)], num_classes=2, layers_description=())
model = ModelMultiHead(backbone, [head], conv_inputs=[("data.image", 1)])
spec = {"data.image": TensorSpec((None, 1, 64, 64))}
""",
        "model.backbone",
        "The names of nnU-Net's networks.",
    ),
    _page(
        "DecoderUNet",
        "A U-Net decoder on another backbone",
        "For segmentations with a trained encoder: `BackboneResnet`, or a model of timm with `features_only=True`.",
        """
backbone = DecoderUNet(BackboneResnet(in_channels=1))
head = HeadDenseSegmentation("lesion", [("model.backbone_features", backbone.feature_depth)], num_classes=2)
model = ModelMultiHead(backbone, [head], conv_inputs=[("data.image", 1)])
spec = {"data.image": TensorSpec((None, 1, 64, 64))}
""",
        "model.backbone",
        "The weights of the encoder. Load them before you pass it.",
    ),
    _page(
        "BackboneTransformer",
        "Transformer for sequences",
        "For sequences of tokens or of vectors, with a mask for padding.",
        """
backbone = BackboneTransformer(in_features=16, max_length=32, embed_dim=64, depth=2)
head = Head1D("outcome", conv_inputs=[("model.backbone_features", backbone.feature_depth)], num_outputs=2)
model = ModelMultiHead(backbone, [head], backbone_args=["data.sequence"])
spec = {"data.sequence": TensorSpec((None, 32, 16))}
""",
        "model.backbone",
    ),
    _page(
        "BackboneMultilayerPerceptron",
        "Multilayer perceptron",
        "For vectors, such as clinical values.",
        """
backbone = BackboneMultilayerPerceptron([64, 32], mlp_input_size=12)
head = Head1D("risk", "regression", [("model.backbone_features", backbone.feature_depth)], num_outputs=1)
model = ModelMultiHead(backbone, [head], conv_inputs=[("data.clinical", 12)])
spec = {"data.clinical": TensorSpec((None, 12))}
""",
        "model.backbone",
    ),
)
