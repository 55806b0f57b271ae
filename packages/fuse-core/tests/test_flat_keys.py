import re
from enum import Enum
from types import SimpleNamespace

import pytest

from fuse_core import (
    Collate,
    NDict,
    WiringError,
    check_wiring,
    collate,
    did_you_mean,
    log_name,
    logits_key,
    loss_key,
    output_key,
    provides,
)


@pytest.mark.parametrize(
    ("written", "key", "expected"),
    [
        (["model.logits.cls"], "model.logits.cls", True),
        (["model.logits.cls"], "model.logits", True),
        (["model.features"], "model.features.layer4", True),
        (["model.logits.cls"], "model.logits.clas", False),
        (["model.logits.cls"], "model.log", False),
        (["model.log"], "model.logits.cls", False),
        ([], "model", False),
    ],
)
def test_a_key_is_provided_by_itself_by_keys_below_and_by_branches_above(written, key, expected):
    assert provides(written, key) is expected
    assert provides(iter(["data.image", *written]), key) is expected


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
