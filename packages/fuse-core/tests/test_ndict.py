import copy
import json
import pickle
import subprocess
import sys
import time
from collections import OrderedDict
from types import MappingProxyType

import numpy as np
import pytest
import torch
from torch.utils import _pytree as pytree

from fuse_core import NDict, NDictView, NestedKeyError


@pytest.fixture
def nd():
    return NDict({"a": {"b": 1, "c": {"d": 2}}, "e": 3})


def test_storage_is_the_dict_itself_and_flat(nd):
    assert isinstance(nd, dict)
    assert dict(nd) == {"a.b": 1, "a.c.d": 2, "e": 3}
    assert list(dict.keys(nd)) == list(nd.keys()) == ["a.b", "a.c.d", "e"]


def test_construction_mixes_nested_and_dotted_keys_of_any_mapping():
    mapping = MappingProxyType({"a.b": 1, "a": OrderedDict({"c.d": {"e": 2}}), "f": NDict({"g.h": 3})["g"]})
    assert dict(NDict(mapping)) == {"a.b": 1, "a.c.d.e": 2, "f.h": 3}


def test_construction_takes_pairs_keywords_and_none():
    assert NDict([("a.b", 1), ("a", {"c": 2})], d=3) == {"a": {"b": 1, "c": 2}, "d": 3}
    assert NDict(None) == NDict() == {}


@pytest.mark.parametrize("key", ["", ".", "a.", ".a", "a..b"])
def test_keys_with_empty_segments_are_rejected(key):
    with pytest.raises(ValueError, match="non-empty segments separated by single dots"):
        NDict({key: 1})
    with pytest.raises(ValueError, match="non-empty segments"):
        NDict()[key] = {"x": 1}
    with pytest.raises(ValueError, match="non-empty segments"):
        NDict({"outer": {key: 1}})


def test_keys_other_than_strings_are_rejected():
    with pytest.raises(TypeError, match="keys are strings, got 1 of type int"):
        NDict({1: 2})
    with pytest.raises(TypeError, match="keys are strings, got 1 of type int"):
        NDict()["a"] = {1: 2}
    assert 1 not in NDict(a=1)
    with pytest.raises(NestedKeyError):
        NDict(a=1)[1]


def test_an_assignment_that_raises_changes_nothing(nd):
    with pytest.raises(ValueError, match="non-empty"):
        nd["a"] = {"new": 1, "bad.": 2}
    assert nd == {"a": {"b": 1, "c": {"d": 2}}, "e": 3}


def test_assigning_a_mapping_replaces_the_branch(nd):
    nd["a"] = {"x": 9}
    assert nd == {"a": {"x": 9}, "e": 3}


def test_assigning_a_mapping_replaces_a_leaf(nd):
    nd["e"] = {"x": 9}
    assert nd["e"] == {"x": 9}
    assert "e" not in dict(nd)


def test_assigning_an_empty_mapping_removes_the_branch(nd):
    nd["a"] = {}
    assert nd == {"e": 3}


def test_assigning_a_branch_to_itself_keeps_it(nd):
    nd["a"] = nd["a"]
    assert nd == {"a": {"b": 1, "c": {"d": 2}}, "e": 3}


def test_a_branch_can_be_moved_below_itself(nd):
    nd["a"] = {"inner": nd["a"]}
    assert nd == {"a": {"inner": {"b": 1, "c": {"d": 2}}}, "e": 3}


@pytest.mark.parametrize("add", [NDict.update, NDict.merge, NDict.__ior__])
def test_adding_goes_leaf_by_leaf(nd, add):
    add(nd, {"a": {"c": {"x": 5}, "b": 6}})
    assert nd == {"a": {"b": 6, "c": {"d": 2, "x": 5}}, "e": 3}


def test_union_makes_a_new_ndict_from_either_side(nd):
    left, right = nd | {"a": {"x": 1}}, {"a": {"x": 1, "b": 0}} | nd
    assert type(left) is type(right) is NDict
    assert left == {"a": {"b": 1, "c": {"d": 2}, "x": 1}, "e": 3}
    assert right == {"a": {"b": 1, "c": {"d": 2}, "x": 1}, "e": 3}
    assert "a.x" not in nd
    with pytest.raises(TypeError):
        nd | 3


def test_update_takes_pairs_and_keywords(nd):
    nd.update([("a.b", 7)], f=8)
    assert (nd["a.b"], nd["f"]) == (7, 8)


def test_a_key_may_hold_a_leaf_and_a_branch():
    nd = NDict({"a": 1, "a.b": 2})
    assert nd["a"] == 1
    assert nd["a.b"] == 2
    assert nd.get_sub_dict("a") == {"b": 2}
    with pytest.raises(ValueError, match="'a' holds both"):
        nd.unflatten()
    del nd["a"]
    assert nd == {}


def test_pop_returns_the_leaf_or_else_the_branch(nd):
    assert nd.pop("e") == 3
    branch = nd.pop("a")
    assert type(branch) is NDict
    assert branch == {"b": 1, "c": {"d": 2}}
    assert nd == {}
    assert nd.pop("a", "default") == "default"
    assert nd.pop("a", None) is None
    with pytest.raises(NestedKeyError):
        nd.pop("a")


def test_get_returns_leaf_view_or_default(nd):
    assert nd.get("a.b") == 1
    assert isinstance(nd.get("a"), NDictView)
    assert nd.get("x") is None
    assert nd.get("x", 5) == 5


def test_setdefault_keeps_what_is_there(nd):
    assert nd.setdefault("a.b", 9) == 1
    assert nd.setdefault("a", 9) == {"b": 1, "c": {"d": 2}}
    assert nd.setdefault("n.m", 9) == 9
    assert nd["n.m"] == 9


def test_setdefault_with_a_mapping_gives_a_branch_to_write_to(nd):
    nd.setdefault("metrics", {})["accuracy"] = 0.5
    assert nd["metrics.accuracy"] == 0.5


def test_membership_of_leaves_branches_and_neither(nd):
    assert all(key in nd for key in ("a", "a.b", "a.c", "a.c.d", "e"))
    assert not any(key in nd for key in ("", ".", "a.", "b", "a.c.d.x", "a.x", "e.f", "..a", "x\n..a"))


@pytest.mark.parametrize("odd", ["\n", "|", "c\n", "\n..c".replace(".", ""), " ", "é"])
def test_membership_is_exact_for_odd_keys(odd):
    nd = NDict({odd: 1, "d": {odd: 2}})
    assert odd in nd
    assert f"d.{odd}" in nd
    assert "d" in nd
    assert f"{odd}.d" not in nd
    assert f"{odd}\n..d" not in nd
    assert NDict({"c": 1, "d": 2}).get("c\n") is None


def test_del_takes_leaves_and_branches(nd):
    del nd["a.c"]
    assert nd == {"a": {"b": 1}, "e": 3}
    del nd["a"]
    assert nd == {"e": 3}
    with pytest.raises(NestedKeyError, match="'a' is not a key"):
        del nd["a"]


def test_equality_compares_contents_in_any_form(nd):
    assert nd == NDict({"e": 3, "a.c.d": 2, "a.b": 1})
    assert nd == {"a.b": 1, "a": {"c.d": 2}, "e": 3}
    assert nd != {"a": {"b": 1}}
    assert NDict({"a": 1}) != NDict({"b": 2})
    assert nd != {1: 2}
    assert nd != 3
    assert not nd == 3  # noqa: SIM201


def test_ndicts_are_unhashable(nd):
    with pytest.raises(TypeError, match="unhashable"):
        hash(nd)


def test_popitem_and_clear(nd):
    assert nd.popitem() == ("e", 3)
    nd.clear()
    assert nd == {}
    assert "a" not in nd


def test_fromkeys():
    assert NDict.fromkeys(["a.b", "c"], 0) == {"a": {"b": 0}, "c": 0}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickling_with_every_protocol(nd, protocol):
    nd["a"] = {"leaf": 0}
    nd.update({"x": 1, "x.y": 2})
    loaded = pickle.loads(pickle.dumps(nd, protocol))
    assert type(loaded) is NDict
    assert loaded == nd
    assert loaded["a"]["leaf"] == 0


def test_pickling_to_another_process_and_back(nd):
    program = """
import pickle, sys
nd = pickle.load(sys.stdin.buffer)
pickle.dump((nd, nd["a"]["c"]["d"]), sys.stdout.buffer)
"""
    result = subprocess.run([sys.executable, "-c", program], input=pickle.dumps(nd), capture_output=True, check=True)
    assert pickle.loads(result.stdout) == (nd, 2)


def test_copies_are_shallow_or_deep_as_asked():
    nd = NDict({"a.b": [1]})
    for shallow in (nd.copy(), copy.copy(nd), nd.clone(deepcopy=False)):
        assert type(shallow) is NDict
        assert shallow["a.b"] is nd["a.b"]
        shallow["new"] = 1
    for deep in (nd.clone(), copy.deepcopy(nd)):
        assert type(deep) is NDict
        assert deep == nd
        assert deep["a.b"] is not nd["a.b"]
    assert "new" not in nd


def test_json_of_plain_values(nd):
    assert json.loads(json.dumps(nd)) == {"a.b": 1, "a.c.d": 2, "e": 3}


def test_apply_on_all_works_in_place(nd):
    nd.apply_on_all(lambda value, factor: value * factor, 10)
    assert nd == {"a.b": 10, "a.c.d": 20, "e": 30}


def test_functions_of_leaves_may_return_mappings():
    nd = NDict({"a": torch.ones(1), "b": 2})
    mapped = nd.map_tensors(lambda tensor: {"twice": tensor * 2})
    assert mapped["a"]["twice"] == mapped["a.twice"] == 2
    nd.apply_on_all(lambda value: {"kept": value} if value is nd.get("a") else {})
    assert list(nd) == ["a.kept"]


def test_an_update_with_a_bad_pair_changes_nothing(nd):
    with pytest.raises(ValueError, match="non-empty"):
        nd.update([("fine", 1), ("", 2)])
    assert "fine" not in nd


def test_update_takes_whatever_has_keys(nd):
    class Record:
        def keys(self):
            return ["a.b"]

        def __getitem__(self, key):
            return 7

    nd.update(Record())
    assert nd["a.b"] == 7


def test_repr_evaluates_to_the_same(nd):
    assert eval(repr(nd)) == nd


def test_map_tensors_reaches_into_lists_and_leaves_the_rest():
    nd = NDict({"a.x": torch.ones(2), "a.boxes": [torch.ones(1), torch.ones(3)], "id": ["p", "q"], "n": np.ones(2)})
    doubled = nd.map_tensors(lambda tensor: tensor * 2)
    assert doubled["a.x"].tolist() == [2, 2]
    assert [box.tolist() for box in doubled["a.boxes"]] == [[2], [2, 2, 2]]
    assert doubled["id"] == ["p", "q"]
    assert doubled["n"] is nd["n"]
    assert nd["a.x"].tolist() == [1, 1]


def test_to_changes_the_dtype_of_floating_tensors_only():
    nd = NDict({"x": torch.ones(2), "i": torch.arange(2), "mask": torch.ones(2, dtype=torch.bool), "s": "text"})
    for half in (nd.to(torch.float16), nd.to(dtype=torch.float16), nd.to("cpu", torch.float16)):
        assert type(half) is NDict
        assert half["x"].dtype == torch.float16
        assert (half["i"].dtype, half["mask"].dtype, half["s"]) == (torch.int64, torch.bool, "text")


def test_to_moves_every_tensor():
    nd = NDict({"x": torch.ones(2), "list": [torch.ones(1)]}).to("meta")
    assert nd["x"].device.type == nd["list"][0].device.type == "meta"
    assert NDict(x=torch.ones(2)).cpu()["x"].device.type == "cpu"


def test_cuda_asks_for_the_cuda_device(monkeypatch):
    devices = []
    monkeypatch.setattr(torch.Tensor, "to", lambda self, **kwargs: devices.append(kwargs["device"]) or self)
    NDict(x=torch.ones(2)).cuda()
    NDict(x=torch.ones(2)).cuda(1)
    assert devices == ["cuda", 1]


def test_pin_memory_pins_every_tensor(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self + 1)  # pinning itself needs a GPU
    pinned = NDict({"x": torch.zeros(1), "list": [torch.zeros(1)]}).pin_memory()
    assert (pinned["x"].item(), pinned["list"][0].item()) == (1, 1)


def test_detach_cuts_the_graph_and_shares_memory():
    x = torch.ones(2, requires_grad=True)
    detached = NDict(x=x).detach()["x"]
    assert not detached.requires_grad
    assert detached.data_ptr() == x.data_ptr()


def test_to_does_not_wait_for_a_cuda_device_unless_told(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.Tensor, "to", lambda self, **options: asked.append(options["non_blocking"]) or self)
    nd = NDict({"x": torch.ones(1), "ids": ["a"]})
    nd.to("cuda"), nd.to("cpu"), nd.to(torch.float16), nd.to("cuda", non_blocking=False)
    assert asked == [True, False, False, False]


def test_a_list_of_plain_values_is_copied_when_tensors_are_mapped():
    ids = ["a", "b"]
    mapped = NDict({"ids": ids}).map_tensors(torch.neg)
    assert mapped == {"ids": ids}
    assert mapped["ids"] is not ids


class Batch(NDict):
    """Attributes in `__dict__` and in a slot, and a constructor of its own."""

    __slots__ = ("__dict__", "slot")

    def __init__(self, tag, **leaves):
        super().__init__(**leaves)
        self.tag = tag
        self.slot = "slot"


@pytest.mark.parametrize(
    "derive",
    [
        NDict.copy,
        NDict.cpu,
        NDict.detach,
        NDict.clone,
        copy.copy,
        copy.deepcopy,
        lambda nd: nd.to(torch.float16),
        lambda nd: nd.map_tensors(torch.neg),
        lambda nd: nd.select("x"),
        lambda nd: nd.exclude("x"),
        lambda nd: nd.get_multi(["x"]),
        lambda nd: nd.indices([0]),
        lambda nd: nd | {"z": 1},
        lambda nd: {"z": 1} | nd,
        lambda nd: pickle.loads(pickle.dumps(nd)),
        lambda nd: pickle.loads(pickle.dumps(nd, protocol=0)),
        lambda nd: pytree.tree_map(lambda leaf: leaf, nd),
    ],
)
def test_a_subclass_keeps_its_type_and_attributes(derive):
    derived = derive(Batch("T", x=torch.ones(2), n=1))
    assert type(derived) is Batch
    assert (derived.tag, derived.slot) == ("T", "slot")


def test_a_branch_of_a_subclass_keeps_its_attributes():
    batch = Batch("T", a={"x": 1})
    batch["a"].update(y=2)
    for branch in (batch["a"].copy(), batch.get_sub_dict("a"), pickle.loads(pickle.dumps(batch["a"])), batch.pop("a")):
        assert (type(branch), branch.tag, dict(branch)) == (Batch, "T", {"x": 1, "y": 2})


def test_it_loads_with_weights_only(tmp_path):
    nd = NDict({"a.b": torch.ones(2), "ids": ["p"]})
    torch.save({"batch": nd}, tmp_path / "batch.pt")
    assert type(torch.load(tmp_path / "batch.pt", weights_only=True)["batch"]) is NDict  # it is registered as safe
    with torch.serialization.safe_globals([NDict]):
        loaded = torch.load(tmp_path / "batch.pt", weights_only=True)["batch"]
    assert type(loaded) is NDict
    assert loaded["a"]["b"].tolist() == [1, 1]
    assert loaded["ids"] == ["p"]


def test_a_subclass_loads_with_weights_only(tmp_path):
    torch.save(Batch("T", a={"x": torch.ones(1)}), tmp_path / "batch.pt")
    with torch.serialization.safe_globals([Batch]):
        loaded = torch.load(tmp_path / "batch.pt", weights_only=True)
    assert (type(loaded), loaded.tag, loaded.slot, list(loaded)) == (Batch, "T", "slot", ["a.x"])


def test_a_subclass_may_handle_its_own_state():
    restored = copy.deepcopy(Stateful(x=1))
    assert (type(restored), dict(restored), restored.state) == (Stateful, {"x": 1}, {"state": "restored"})


class Stateful(NDict):
    def __getstate__(self):
        return {"state": "restored"}

    def __setstate__(self, state):
        self.state = state


def test_a_subclass_may_need_arguments_for_new_or_set_items_by_attribute():
    class Tagged(NDict):
        def __new__(cls, tag):
            return super().__new__(cls)

        def __init__(self, tag):
            super().__init__(tag=tag)

        __setattr__ = NDict.__setitem__
        __getattr__ = NDict.__getitem__

    tagged = Tagged("T")
    tagged.x = torch.ones(1)
    moved = tagged.copy().to("meta")
    assert (type(moved), moved.tag, moved.x.device.type) == (Tagged, "T", "meta")


def test_an_ndict_that_holds_itself_can_be_copied():
    nd = NDict()
    nd["listed"] = [nd]
    for copied in (copy.deepcopy(nd), pickle.loads(pickle.dumps(nd))):
        assert copied["listed"][0] is copied


def test_deleting_a_leaf_takes_what_lies_below_it():
    nd = NDict({"a": 1, "a.b": 2, "ab": 3})
    del nd["a"]
    assert nd == {"ab": 3}


@pytest.mark.parametrize("option", ["already_flat", "dict_like"])
def test_options_of_fusemedmls_ndict_do_not_become_entries(option):
    with pytest.raises(TypeError, match=rf"got {option}, which FuseMedML's NDict had as options. Write NDict"):
        NDict({"a": 1}, **{option: True})


def test_get_takes_fusemedmls_name_of_the_default():
    assert NDict({"a": 1}).get("b", default_value=2) == 2


@pytest.mark.parametrize("remove", [NDict.__delitem__, NDict.pop])
def test_removing_many_keys_one_by_one_takes_linear_time(remove):
    nd = NDict({f"group{i % 7}.part.leaf{i}": i for i in range(20_000)})
    started = time.process_time()
    for key in list(nd):
        remove(nd, key)
    assert time.process_time() - started < 1  # it takes 0.03 s; searching all keys for each would take 4 s
    assert nd == {}


def test_a_leaf_of_many_takes_what_lies_below_it_whenever_that_was_added():
    nd = NDict({f"leaf{i}": i for i in range(1000)})
    del nd["leaf0"]
    nd["leaf1.below"] = 1
    del nd["leaf1"]
    nd.update({"leaf2": {"below": 1}})
    del nd["leaf2"]
    nd["leaf3"] = nd.pop("leaf3")
    nd |= {"leaf4.below": 1}
    copied = nd.copy()
    for one in (nd, copied):
        assert one.pop("leaf4") == 4
        assert list(one) == [f"leaf{i}" for i in (*range(5, 1000), 3)]


def test_match_takes_leaves_beside_a_rest_and_branches_without(nd):
    match nd:
        case {"e": e, **rest}:
            assert (e, rest) == (3, {"a.b": 1, "a.c.d": 2})
    match nd:
        case {"a": {"c": {"d": d}}}:
            assert d == 2
    match nd.unflatten():
        case {"a": {"b": 1, **below}, **rest}:
            assert (below, rest) == ({"c": {"d": 2}}, {"e": 3})
