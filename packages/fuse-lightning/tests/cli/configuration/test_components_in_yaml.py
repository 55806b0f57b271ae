"""Every public loss, model, head and metric of the packages can be told in YAML."""

import inspect
import re

import pytest
import torch
import yaml
from torch import nn

import fuse_lightning
import fuse_losses
import fuse_models

jsonargparse = pytest.importorskip("jsonargparse")

CONV_HEAD = "head_name: cls, conv_inputs: [[model.backbone_features, 8]], layers_description: [4]"
LINEAR = "{class_path: torch.nn.Linear, init_args: {in_features: 5, out_features: 2}}"
LOSS = (
    "{class_path: fuse_losses.LossDefault, init_args: "
    "{pred: model.logits.cls, target: data.label, callable: torch.nn.functional.cross_entropy}}"
)
DENSE = "{pred: model.logits.mask, target: data.mask, class_weights: [1.0, 2.0], ignore_index: 255"
ACCURACY = "{class_path: torchmetrics.classification.MulticlassAccuracy, init_args: {num_classes: 2}}"
UNET = "{in_channels: 1, ndim: 3, features_per_level: [2, 4], block: residual, deep_supervision: true}"
HEAD = f"{{class_path: fuse_models.Head1D, init_args: {{{CONV_HEAD}}}}}"
BACKBONE = "{class_path: fuse_models.BackboneMultilayerPerceptron, init_args: {layers: [8], mlp_input_size: 5}}"

MODEL = (
    "{class_path: fuse_models.ModelWrapSeqToDict, init_args: "
    f"{{model: {LINEAR}, model_inputs: [data.x], model_outputs: [model.logits.cls]}}}}"
)

COMPONENTS = {
    "fuse_losses.LossCompound": f"{DENSE}, terms: {{cross_entropy: 1.0, dice: {{weight: 0.5, empty: skip}}}}}}",
    "fuse_losses.LossDefault": "{pred: p, target: t, callable: torch.nn.functional.mse_loss, weight: 2}",
    "fuse_losses.LossDefault of a module": "{pred: p, target: t, callable: {class_path: torch.nn.BCEWithLogitsLoss}}",
    "fuse_losses.LossDice": f"{DENSE}}}",
    "fuse_losses.LossExtractFromBatchDict": "{key: model.regularization, weight: 0.1}",
    "fuse_losses.LossFocal": f"{DENSE}, gamma: 1.5, alpha: [0.25, 0.75]}}",
    "fuse_losses.LossGeneralizedDice": "{pred: model.logits.mask, target: data.mask}",
    "fuse_losses.LossSegmentationCrossEntropy": f"{DENSE}, reduction: sum}}",
    "fuse_losses.LossSupervisedContrastive": "{feat_i: a, feat_j: b, target_i: t, temperature: 0.2}",
    "fuse_losses.LossTversky": f"{DENSE}, alpha: 0.3, beta: 0.7}}",
    "fuse_losses.LossWarmUp": f"{{loss: {LOSS}, nof_iterations: 10}}",
    "fuse_losses.LossWrapToDict": (
        "{loss_module: {class_path: torch.nn.CrossEntropyLoss}, loss_arg_to_batch_key: {input: p, target: t}}"
    ),
    "fuse_models.ModelWrapSeqToDict": f"{{model: {LINEAR}, model_inputs: [data.x], model_outputs: [model.logits.cls]}}",
    "fuse_models.ModelWrapDictToSeq": f"{{fuse_model: {MODEL}, input_key: data.x, output_key: model.logits.cls}}",
    "fuse_models.ModelMultiHead": f"{{backbone: {BACKBONE}, heads: [{HEAD}], conv_inputs: [[data.x, 5]]}}",
    "fuse_models.ModelMultistream": (
        f"{{backbone_streams: [{BACKBONE}, {BACKBONE}], heads: [{HEAD}], conv_inputs: [data.x, data.y]}}"
    ),
    "fuse_models.ModelEnsemble": f"{{models: [{MODEL}, {MODEL}], prediction_keys: [model.logits.cls]}}",
    "fuse_models.ModelSiamese": (
        f"{{backbone: {BACKBONE}, heads: [{HEAD}], conv_inputs_0: [[data.x, 5]], conv_inputs_1: [[data.y, 5]]}}"
    ),
    "fuse_models.BackboneInceptionResnetV2": "{logical_units_num: 1, in_channels: 1}",
    "fuse_models.BackboneMultilayerPerceptron": "{layers: [4], mlp_input_size: 5, activation_layer: torch.nn.GELU}",
    "fuse_models.BackboneResnet": "{in_channels: 1, name: resnet18, pool: avg}",
    "fuse_models.BackboneResnet3D": "{in_channels: 1, layers: [1, 1, 1, 1], stem_stride: [1, 2, 2]}",
    "fuse_models.BackboneTransformer": "{num_tokens: 11, embed_dim: 8, depth: 1, num_heads: 2, pool: avg}",
    "fuse_models.BackboneUNet": UNET,
    "fuse_models.BackboneViT": "{in_channels: 1, image_size: 8, patch_size: 4, embed_dim: 8, depth: 1, num_heads: 2}",
    "fuse_models.DecoderUNet": "{backbone: {class_path: fuse_models.BackboneResnet, init_args: {in_channels: 1}}}",
    "fuse_models.Head1D": f"{{{CONV_HEAD}, mode: regression}}",
    "fuse_models.Head3D": f"{{{CONV_HEAD}, append_features: [[data.age, 1]]}}",
    "fuse_models.HeadDenseSegmentation": f"{{{CONV_HEAD}, maxpool_kernel: 2}}",
    "fuse_models.HeadGlobalPoolingClassifier": f"{{{CONV_HEAD}, pooling: avg}}",
    "fuse_lightning.MetricDefault": f"{{pred: model.logits.cls, target: data.label, metric: {ACCURACY}}}",
    "fuse_lightning.MetricDefault of several": (
        "{pred: p, target: t, metric: {class_path: torchmetrics.MetricCollection, init_args: "
        f"{{metrics: {{accuracy: {ACCURACY}}}}}}}}}"
    ),
    "fuse_lightning.MetricWrapToDict": f"{{metric: {ACCURACY}, metric_arg_to_batch_key: {{preds: p, target: t}}}}",
}
# What YAML cannot name: bases to subclass, what wraps objects or a layer of the model, and what needs another package.
NOT_IN_YAML = {
    "BackboneTimm",
    "LightningModuleDefault",
    "LossBase",
    "LossDense",
    "LossLinearCompound",
    "MetricCollected",
}


@pytest.mark.parametrize(("name", "arguments"), COMPONENTS.items(), ids=COMPONENTS)
def test_it_is_made_from_yaml(name, arguments):
    class_path = name.split()[0]
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--component", type=nn.Module)
    configuration = parser.parse_string(f"component: {{class_path: {class_path}, init_args: {arguments}}}")
    made = parser.instantiate_classes(configuration).component
    assert type(made).__name__ == class_path.rpartition(".")[2]


@pytest.mark.parametrize(("name", "arguments"), COMPONENTS.items(), ids=COMPONENTS)
def test_its_arguments_are_known_to_the_check_of_configurations(name, arguments):
    from fuse_lightning.cli.configuration.classes import Arguments, find_class

    known = Arguments(find_class(name.split()[0]))
    given = set(yaml.safe_load(arguments))
    assert set(known.required) <= given <= set(known.names)


def test_none_is_forgotten():
    listed = {re.split(r"[. ]", name)[1] for name in COMPONENTS} | NOT_IN_YAML
    for package in (fuse_losses, fuse_models, fuse_lightning):
        public = {name: getattr(package, name) for name in package.__all__}
        modules = {name for name, value in public.items() if inspect.isclass(value) and issubclass(value, nn.Module)}
        assert modules <= listed


def test_optimizers_come_without_their_parameters():
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(fuse_lightning.ConfigureOptimizers, "configure")
    text = """
configure:
  optimizer:
    class_path: fuse_optim.SAM
    init_args: {rho: 0.1, base_optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.5, momentum: 0.9}}}
  lr_scheduler: {class_path: torch.optim.lr_scheduler.ReduceLROnPlateau, init_args: {patience: 3}}
  monitor: validation.losses.total_loss
"""
    module = fuse_lightning.LightningModuleDefault.__new__(fuse_lightning.LightningModuleDefault)
    nn.Module.__init__(module)
    module.linear = nn.Linear(2, 1)
    configured = parser.instantiate_classes(parser.parse_string(text)).configure(module)
    assert configured["optimizer"].param_groups[0]["lr"] == 0.5
    assert configured["optimizer"].param_groups[0]["sam_rho"] == 0.1
    assert isinstance(configured["lr_scheduler"]["scheduler"], torch.optim.lr_scheduler.ReduceLROnPlateau)
