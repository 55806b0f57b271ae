from collections.abc import Mapping

import pytest

import fuse_core
from fuse_core import NDict, NestedKeyError, read_key


def test_names_are_those_of_the_design():
    assert fuse_core.SAMPLE_ID == "data.sample_id"
    assert fuse_core.BACKBONE_FEATURES == "model.backbone_features"
    assert fuse_core.GLOBAL_STEP == "global_step"
    assert fuse_core.TOTAL_LOSS == fuse_core.loss_key("total_loss") == "losses.total_loss"
    assert fuse_core.logits_key("cls") == "model.logits.cls"
    assert fuse_core.output_key("cls") == "model.output.cls"
    assert fuse_core.log_name("train", "losses", "cls") == "train.losses.cls"
    assert fuse_core.log_name("validation", "b", "metrics", "auc", sep="/") == "validation/b/metrics/auc"


def test_read_key_names_the_reader_for_any_mapping():
    message = r"^LossDefault reads 'data\.imgae', which this batch_dict does not hold\. Nearest keys: 'data\.image'"
    for batch_dict in ({"data.image": 1}, NDict({"data.image": 1})):
        assert read_key(batch_dict, "data.image", "LossDefault") == 1
        with pytest.raises(NestedKeyError, match=message):
            read_key(batch_dict, "data.imgae", "LossDefault")


@pytest.mark.parametrize("key", ["model.logits", "model.logits.cls"])
def test_a_nested_plain_dict_is_told_about_ndict(key):
    message = rf"^LossDice reads '{key}', but this batch_dict has nested keys and is not an NDict\. Pass NDict\(batch"
    with pytest.raises(NestedKeyError, match=message):
        read_key({"model": {"logits": {"cls": 1}}}, key, "LossDice")


class Samples(Mapping):
    """A mapping that iterates over its samples, like a TensorDict."""

    def __init__(self, values):
        self.values_by_key = values

    def __getitem__(self, key):
        return self.values_by_key[key]

    def __iter__(self):
        raise TypeError("iteration over a 0-d batch")

    def __len__(self):
        return 2

    def keys(self):
        return self.values_by_key.keys()


def test_the_error_for_mappings_of_other_libraries_does_not_fail_itself():
    batch_dict = Samples({"model": Samples({"logits": 1}), "data.image": 2})
    with pytest.raises(NestedKeyError, match=r"LossDice reads 'model\.logits', but this batch_dict has nested keys"):
        read_key(batch_dict, "model.logits", "LossDice")
    with pytest.raises(NestedKeyError, match=r"reads 'data\.imgae', .* Nearest keys: 'data\.image'\.$"):
        read_key(batch_dict, "data.imgae", "LossDice")


def test_keys_that_are_not_strings_do_not_hinder_the_error():
    with pytest.raises(NestedKeyError, match=r"Its keys: '1\.2'"):
        read_key({1: {2: 3}}, "data.image", "LossDice")
