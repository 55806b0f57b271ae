"""Two classes from a mammogram: training, inference and evaluation."""

import torch

from fuse_models import BackboneInceptionResnetV2, HeadGlobalPoolingClassifier, ModelMultiHead


def test_mammography_gives_the_numbers_of_fusemedml(expected, migration, tmp_path):
    model = ModelMultiHead(
        conv_inputs=(("data.image", 1),),
        backbone=BackboneInceptionResnetV2(in_channels=1, logical_units_num=1),
        heads=[
            HeadGlobalPoolingClassifier(
                head_name="head_0",
                conv_inputs=[("model.backbone_features", 320)],
                layers_description=(8,),
                num_classes=2,
                pooling="avg",
                dropout_rate=0.0,
            )
        ],
    )
    migration.set_weights(model.parameters())
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.01  # as there; ours follows PyTorch's 0.1
    batches = migration.loader(
        ["data.image", "data.label"], migration.images(8, 1, 80, 80, classes=2), migration.labels(8, 2)
    )

    migration.check_classifier(expected, tmp_path, model, batches, "head_0", metric="auc", classes=2, lr=1e-3)
