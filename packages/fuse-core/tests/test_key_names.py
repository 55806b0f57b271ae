import re
from collections.abc import Mapping
from enum import Enum
from types import SimpleNamespace

import pytest

import fuse_core
from fuse_core import (
    Collate,
    NDict,
    NestedKeyError,
    WiringError,
    check_wiring,
    collate,
    did_you_mean,
    log_name,
    logits_key,
    loss_key,
    output_key,
    read_key,
)


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


class Key(str, Enum):  # noqa: UP042, StrEnum prints itself as its string
    """Strings by inheritance: hash and equality are those of the value, `str()` is not."""

    DATA = "data"
    IMAGE = "data.image"


def test_a_str_enum_means_its_string_in_an_ndict():
    nd = NDict({Key.DATA: {"image": 1, "mask": 2}})
    assert list(nd) == ["data.image", "data.mask"]
    assert all(key in nd for key in Key)
    assert nd[Key.IMAGE] == nd[Key.DATA]["image"] == nd.get(Key.IMAGE) == 1
    assert nd.get_sub_dict(Key.DATA) == {"image": 1, "mask": 2}
    assert nd.exclude(Key.IMAGE) == {"data.mask": 2}
    assert nd.select(Key.DATA) == nd.get_multi([Key.DATA]) == nd
    nd[Key.DATA] = {"label": 3}
    assert dict(nd) == {"data.label": 3}
    del nd[Key.DATA]
    assert nd == {}


def test_a_str_enum_is_stored_as_a_plain_string():
    for nd in (
        NDict({Key.IMAGE: 1}),
        NDict([(Key.IMAGE, 1)]),
        NDict.fromkeys([Key.IMAGE]),
        NDict().copy() | {Key.IMAGE: 1},
    ):
        assert [type(key) for key in nd] == [str]
    nd = NDict()
    nd[Key.IMAGE] = nd["n"] = 1
    nd.setdefault(Key.DATA, {Key.DATA: 5})
    assert [type(key) for key in nd] == [str, str]


def test_a_str_enum_means_its_string_in_every_method():
    nd = NDict({"data": {"image": 1, "mask": 2}})
    assert nd.pop(Key.DATA) == {"image": 1, "mask": 2}
    nd.update({Key.DATA: {Key.DATA: 5}})
    nd |= {Key.IMAGE: 4}
    assert nd["data"].setdefault(Key.DATA, 7) == nd["data"][Key.DATA] == 5
    nd["data"][Key.IMAGE] = {Key.DATA: 6}
    assert dict(nd) == {"data.data": 5, "data.image": 4, "data.data.image.data": 6}
    assert all(type(key) is str for key in nd)
    assert {Key.DATA: 1} | NDict(nd["data"]) == {"data": 5, "image": 4, "data.image.data": 6}
    match nd:
        case {Key.IMAGE: image, **rest}:
            assert (image, list(rest)) == (4, ["data.data", "data.data.image.data"])
    assert did_you_mean("data.imgae", Key) == " Did you mean 'data.image'?"


def test_a_str_enum_means_its_string_to_collate_wiring_and_errors():
    samples = [{"data": {"image": 1, "x": 3}}] * 2
    assert list(Collate(skip_keys=[Key.IMAGE])(samples)) == ["data.x"]
    assert list(Collate(keep_keys=[Key.IMAGE])(samples)) == ["data.image"]
    assert Collate(per_key={Key.DATA: tuple})(samples)["data.x"] == (3, 3)
    reader = SimpleNamespace(reads=[Key.IMAGE])
    assert list(check_wiring([reader], [Key.IMAGE]).readers) == ["data.image"]
    with pytest.raises(WiringError, match=r"reads 'data\.image', .* Nearest keys: 'data\.imag' "):
        check_wiring([reader], ["data.imag"])
    with pytest.raises(KeyError, match=r"^'data\.image' is not a key of this NDict\. Nearest keys: 'data\.imag'"):
        NDict({"data.imag": 1})[Key.IMAGE]
    assert (logits_key(Key.DATA), output_key(Key.DATA), loss_key(Key.DATA), log_name("a", Key.DATA)) == (
        "model.logits.data",
        "model.output.data",
        "losses.data",
        "a.data",
    )


@pytest.mark.parametrize(
    ("mapping", "key"),
    [
        ({"a.b": 1, "a": {"b": 2}}, "a.b"),
        ({"a": {"b": {"c": 1}, "b.c": 1}}, "a.b.c"),
        ({"spacing": {"1": {"5 mm": "z"}, "1.5 mm": "xy"}}, "spacing.1.5 mm"),
    ],
)
def test_a_key_spelt_in_two_ways_in_one_mapping_is_an_error(mapping, key):
    message = f"'{re.escape(key)}' occurs twice in one mapping, with dots and nested"
    nd = NDict({"kept": 1})
    for add in (
        nd.update,
        nd.__ior__,
        nd.__or__,
        lambda new: nd.__setitem__("x", new),
        lambda new: collate([new, new]),
    ):
        with pytest.raises(ValueError, match=message.replace("'", "'(x.)?", 1)):
            add(mapping)
    assert nd == {"kept": 1}
    assert nd != mapping
