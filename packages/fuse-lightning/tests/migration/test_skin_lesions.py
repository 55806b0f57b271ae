"""Three classes from an image and tabular features."""

from fuse_models import BackboneResnet, HeadGlobalPoolingClassifier, ModelMultiHead


def test_skin_lesions_give_the_numbers_of_fusemedml(expected, migration, tmp_path):
    model = ModelMultiHead(
        conv_inputs=(("data.image", 3),),
        backbone=BackboneResnet(in_channels=3, name="resnet18"),
        heads=[
            HeadGlobalPoolingClassifier(
                head_name="head_0",
                conv_inputs=[("model.backbone_features", 512)],
                append_features=[("data.clinical", 5)],  # there tabular_data_inputs
                append_layers_description=(6,),  # there tabular_layers_description
                layers_description=(8,),
                num_classes=3,
                pooling="avg",
                dropout_rate=0.0,
            )
        ],
    )
    migration.set_weights(model.parameters())
    batches = migration.loader(
        ["data.image", "data.clinical", "data.label"],
        migration.images(8, 3, 64, 64, classes=3),
        migration.scattered(8, 5),
        migration.labels(8, 3),
    )

    migration.check_classifier(expected, tmp_path, model, batches, "head_0", metric="accuracy", classes=3, lr=1e-3)
