import copy
import json
import pickle
import time
from collections.abc import Mapping, MutableMapping

import pytest

from fuse_core import NDict, NDictView, NestedKeyError


@pytest.fixture
def nd():
    return NDict({"a": {"b": 1, "c": {"d": 2}}, "e": 3})


def test_reads_equal_those_by_dotted_key(nd):
    assert nd["a"]["b"] == nd["a.b"]
    assert nd["a"]["c"]["d"] == nd["a.c"]["d"] == nd["a"]["c.d"] == nd["a.c.d"]


def test_writes_and_deletes_reach_the_ndict(nd):
    nd["a"]["c"]["d"] = 5
    nd["a"]["n"] = {"m": 6}
    assert (nd["a.c.d"], nd["a.n.m"]) == (5, 6)
    del nd["a"]["c"]
    assert nd == {"a": {"b": 1, "n": {"m": 6}}, "e": 3}


def test_a_view_shows_later_changes_of_the_ndict(nd):
    view = nd["a"]
    nd["a.x"] = 7
    assert view["x"] == 7
    del nd["a"]
    assert len(view) == 0
    assert not view
    view["back"] = 1
    assert nd["a.back"] == 1


def test_a_view_of_a_view_is_one_of_the_ndict(nd):
    inner = nd["a"]["c"]
    inner["new"] = 4
    assert nd["a.c.new"] == 4
    assert inner == {"d": 2, "new": 4}


def test_code_that_rebuilds_mappings_gets_an_ndict(nd):
    view = nd["a"]
    rebuilt = type(view)((key, value * 10) for key, value in view.items())
    assert type(rebuilt) is NDict
    assert rebuilt == {"b": 10, "c": {"d": 20}}


def test_keys_other_than_strings_are_not_there(nd):
    assert nd["a"].get(1) is None
    with pytest.raises(NestedKeyError, match="1 is not a key"):
        nd["a"][1]


def test_it_is_a_mutable_mapping_of_relative_leaf_keys(nd):
    view = nd["a"]
    assert isinstance(view, MutableMapping)
    assert isinstance(view, Mapping)
    assert len(view) == 2
    assert list(view) == list(view.keys()) == ["b", "c.d"]
    assert list(view.values()) == [1, 2]
    assert list(view.items()) == [("b", 1), ("c.d", 2)]


def test_membership_is_of_leaves_and_branches(nd):
    view = nd["a"]
    assert "b" in view
    assert "c" in view
    assert "c.d" in view
    assert "e" not in view
    assert "" not in view
    assert 1 not in view


def test_equality(nd):
    assert nd["a"] == {"b": 1, "c": {"d": 2}} == nd["a"]
    assert nd["a"] == NDict({"b": 1, "c.d": 2})
    assert nd["a"] == nd["a"]
    assert nd["a"] != nd["a.c"]
    assert nd["a"] != 1


def test_what_it_gives_away_is_detached(nd):
    for part in (nd["a"].copy(), nd["a"].clone(), copy.copy(nd["a"]), copy.deepcopy(nd["a"]), nd["a"] | {}):
        assert type(part) is NDict
        assert part == nd["a"]
        part["b"] = 100
    assert type(nd["a"].to_dict()) is dict
    assert nd["a"].to_dict() == nd["a"].flatten() == {"b": 1, "c.d": 2}
    assert nd["a"].unflatten() == {"b": 1, "c": {"d": 2}}
    assert nd["a.b"] == 1


def test_clone_copies_values_as_asked():
    nd = NDict({"a.b": [1]})
    assert nd["a"].clone()["b"] is not nd["a.b"]
    assert nd["a"].clone(deepcopy=False)["b"] is nd["a.b"]


def test_pickling_takes_the_branch_alone(nd):
    nd["large"] = "x" * 10_000
    pickled = pickle.dumps(nd["a"])
    assert len(pickled) < 1_000
    assert pickle.loads(pickled) == NDict({"b": 1, "c.d": 2})


def test_update_adds_leaf_by_leaf(nd):
    nd["a"].update({"c": {"x": 5}}, y=6)
    nd["a"].merge([("z", 7)])
    view = nd["a"]
    view |= {"c": {"w": 8}}
    assert nd == {"a": {"b": 1, "c": {"d": 2, "x": 5, "w": 8}, "y": 6, "z": 7}, "e": 3}


def test_union_from_either_side(nd):
    assert nd["a.c"] | {"d": 5, "x": 6} == {"d": 5, "x": 6}
    assert {"d": 5, "x": 6} | nd["a.c"] == {"d": 2, "x": 6}
    assert nd["a.c.d"] == 2


def test_an_update_with_a_bad_key_changes_nothing(nd):
    with pytest.raises(ValueError, match="non-empty segments"):
        nd["a"].update({"fine": 1, "": 2})
    assert nd == {"a": {"b": 1, "c": {"d": 2}}, "e": 3}


def test_get_setdefault_and_pop(nd):
    view = nd["a"]
    assert (view.get("b"), view.get("x"), view.get("x", 4)) == (1, None, 4)
    assert isinstance(view.get("c"), NDictView)
    assert view.setdefault("b", 9) == 1
    view.setdefault("new", {})["x"] = 1
    assert nd["a.new.x"] == 1
    assert view.pop("new") == {"x": 1}
    assert view.pop("new", "none") == "none"
    with pytest.raises(NestedKeyError, match=r"'a\.new'"):
        view.pop("new")


def test_popitem_takes_the_last_leaf_and_clear_the_rest(nd):
    assert nd["a"].popitem() == ("c.d", 2)
    nd["a"].clear()
    assert nd == {"e": 3}
    with pytest.raises(KeyError, match="empty"):
        NDictView(nd, "a").popitem()


def test_popping_many_items_takes_linear_time():
    nd = NDict({"data": {f"leaf{i}": i for i in range(20_000)}})
    data = nd["data"]
    started = time.process_time()
    for _ in range(20_000):
        data.popitem()
    assert time.process_time() - started < 1  # searching all keys for each would take 30 s
    assert nd == {}


def test_json_takes_the_plain_dict_of_a_view(nd):
    branch = nd["a"]
    assert json.loads(json.dumps(branch.to_dict())) == branch
    assert json.dumps([branch], default=dict) == json.dumps([branch.to_dict()])


def test_a_missing_key_is_named_in_full(nd):
    with pytest.raises(NestedKeyError, match=r"'a\.c\.dd' is not a key.*'a\.c\.d'"):
        nd["a"]["c"]["dd"]


def test_repr_names_the_branch(nd):
    assert repr(nd["a.c"]) == "NDictView('a.c', {'d': 2})"


def test_changing_the_ndict_while_iterating_raises(nd):
    keys = iter(nd["a"])
    nd[f"a.{next(keys)}.more"] = 1
    with pytest.raises(RuntimeError, match="changed size"):
        next(keys)


def test_views_are_unhashable(nd):
    with pytest.raises(TypeError, match="unhashable"):
        hash(nd["a"])
