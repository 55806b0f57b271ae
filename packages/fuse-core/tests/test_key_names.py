import fuse_core


def test_names_are_those_of_the_design():
    assert fuse_core.SAMPLE_ID == "data.sample_id"
    assert fuse_core.BACKBONE_FEATURES == "model.backbone_features"
    assert fuse_core.GLOBAL_STEP == "global_step"
    assert fuse_core.TOTAL_LOSS == fuse_core.loss_key("total_loss") == "losses.total_loss"
    assert fuse_core.logits_key("cls") == "model.logits.cls"
    assert fuse_core.output_key("cls") == "model.output.cls"
    assert fuse_core.log_name("train", "losses", "cls") == "train.losses.cls"
    assert fuse_core.log_name("validation", "b", "metrics", "auc", sep="/") == "validation/b/metrics/auc"


def test_everything_exported_is_there():
    assert all(hasattr(fuse_core, name) for name in fuse_core.__all__)
