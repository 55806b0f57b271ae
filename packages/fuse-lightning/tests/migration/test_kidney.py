"""A kidney's volume and clinical values."""

from fuse_models import BackboneResnet3D, Head3D, ModelMultiHead


def test_kidney_volumes_and_clinical_values_give_the_numbers_of_fusemedml(expected, migration, tmp_path):
    model = ModelMultiHead(
        conv_inputs=(("data.volume", 1),),
        backbone=BackboneResnet3D(in_channels=1, layers=[1, 1, 1, 1], first_channel_dim=4),
        heads=[
            Head3D(
                head_name="kidney",
                mode="classification",
                num_outputs=2,
                conv_inputs=[("model.backbone_features", 32)],
                append_features=[("data.clinical", 4)],
                append_layers_description=(6,),
                layers_description=(8,),
                dropout_rate=0.0,
                fused_dropout_rate=0.0,
            )
        ],
    )
    migration.set_weights(model.parameters())
    batches = migration.loader(
        ["data.volume", "data.clinical", "data.label"],
        migration.images(8, 1, 8, 32, 32, classes=2),
        migration.scattered(8, 4),
        migration.labels(8, 2),
    )

    migration.check_classifier(expected, tmp_path, model, batches, "kidney", metric="auc", classes=2, lr=1e-3)
