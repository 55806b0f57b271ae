import pytest

from fuse_core import NDict, NestedKeyError


@pytest.fixture
def nd():
    return NDict({"a": {"b": 1, "c": {"d": 2}}, "e": 3})


def test_plain_forms(nd):
    assert type(nd.to_dict()) is dict
    assert nd.to_dict() == nd.flatten() == {"a.b": 1, "a.c.d": 2, "e": 3}
    assert nd.unflatten() == {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    assert type(nd.unflatten()["a"]) is dict
    nd.to_dict()["new"] = 1
    assert "new" not in nd


def test_lists_of_keys(nd):
    assert nd.keypaths() == ["a.b", "a.c.d", "e"]
    assert nd.top_level_keys() == ["a", "e"]


def test_parts(nd):
    assert nd.get_sub_dict("a") == {"b": 1, "c.d": 2}
    assert nd.get_sub_dict("e") is None
    assert nd.get_multi(["e", "a.c"]) == {"e": 3, "a.c.d": 2}
    assert nd.get_multi() == nd
    assert nd.get_multi() is not nd
    assert nd.select("a.c", "e") == {"a.c.d": 2, "e": 3}
    assert nd.exclude("a.c", "nothing") == {"a.b": 1, "e": 3}
    with pytest.raises(NestedKeyError, match=r"'a\.x'"):
        nd.select("a.x")
    with pytest.raises(NestedKeyError, match=r"'a\.x'"):
        nd.get_multi(["a.x"])


def test_closest_keys_include_branches(nd):
    assert nd.get_closest_keys("a.b") == ["a.b"]
    assert nd.get_closest_keys("a") == ["a"]
    assert nd.get_closest_keys("a.c.e") == ["a.c.d"]
    assert len(nd.get_closest_keys("zzz", n=2)) == 2


def test_unflatten_keeps_the_order_of_the_keys():
    nested = NDict({"b.x": 1, "a": 2, "b.c.d": 3, "c": 4}).unflatten()
    assert repr(nested) == "{'b': {'x': 1, 'c': {'d': 3}}, 'a': 2, 'c': 4}"
