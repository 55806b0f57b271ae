import pickle

import pytest

from fuse_core import NDict, NestedKeyError


def test_it_is_a_key_error_that_names_the_nearest_keys():
    nd = NDict({"data.image": 1, "data.label": 2, "model.logits.cls": 3})
    with pytest.raises(
        KeyError, match=r"^'data\.imgae' is not a key of this NDict\. Nearest keys: 'data\.image'"
    ) as info:
        nd["data.imgae"]
    assert isinstance(info.value, NestedKeyError)
    assert info.value.key == "data.imgae"
    assert info.value.nearest_keys[0] == "data.image"


def test_without_near_keys_it_lists_all():
    with pytest.raises(NestedKeyError, match=r"'zzz' is not a key of this NDict\. Its keys: 'data\.image'\."):
        NDict({"data.image": 1})["zzz"]


def test_an_empty_ndict_says_so():
    with pytest.raises(NestedKeyError, match=r"'a' is not a key of this NDict\. It is empty\."):
        NDict()["a"]


def test_it_prints_nothing(capsys):
    with pytest.raises(NestedKeyError):
        NDict(a=1)["b"]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_it_pickles(protocol):
    error = NestedKeyError("data.imgae", NDict({"data.image": 1}), reader="LossDefault")
    loaded = pickle.loads(pickle.dumps(error, protocol))
    assert type(loaded) is NestedKeyError
    assert str(loaded) == str(error)


def test_the_message_stays_when_the_ndict_changes():
    nd = NDict({"data.image": 1})
    with pytest.raises(NestedKeyError) as info:
        nd["data.imgae"]
    nd.clear()
    assert "'data.image'" in str(info.value)
