"""Models for PyTorch that read from and write to a nested batch_dict."""

from .__about__ import __version__
from .backbones.decoder_unet import DecoderUNet
from .backbones.inception_resnet_v2 import BackboneInceptionResnetV2
from .backbones.mlp import BackboneMultilayerPerceptron
from .backbones.resnet import BackboneResnet
from .backbones.resnet_3d import BackboneResnet3D
from .backbones.timm import BackboneTimm
from .backbones.transformer import BackboneTransformer
from .backbones.unet import BackboneUNet
from .backbones.vit import BackboneViT
from .ensemble.model_ensemble import ModelEnsemble
from .heads.dense_segmentation import HeadDenseSegmentation
from .heads.vector_heads import Head1D, Head3D, HeadGlobalPoolingClassifier
from .model_multi_head import ModelMultiHead
from .model_multistream import ModelMultistream
from .model_siamese import ModelSiamese
from .model_wrap_dict_to_seq import ModelWrapDictToSeq
from .model_wrap_seq_to_dict import ModelWrapSeqToDict
from .weights.load_weights import load_weights
from .weights.match_to_module import LoadReport
from .weights.state_dict_file import load_state_dict_file

__all__ = [
    "BackboneInceptionResnetV2",
    "BackboneMultilayerPerceptron",
    "BackboneResnet",
    "BackboneResnet3D",
    "BackboneTimm",
    "BackboneTransformer",
    "BackboneUNet",
    "BackboneViT",
    "DecoderUNet",
    "Head1D",
    "Head3D",
    "HeadDenseSegmentation",
    "HeadGlobalPoolingClassifier",
    "LoadReport",
    "ModelEnsemble",
    "ModelMultiHead",
    "ModelMultistream",
    "ModelSiamese",
    "ModelWrapDictToSeq",
    "ModelWrapSeqToDict",
    "__version__",
    "load_state_dict_file",
    "load_weights",
]


def __dir__() -> list[str]:
    return __all__
