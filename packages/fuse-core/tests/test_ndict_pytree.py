import dataclasses
from collections import UserDict, UserList, defaultdict, deque
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_sequence
from torch.utils import _pytree as pytree

from fuse_core import NDict


def test_leaves_are_seen_and_come_back_as_an_ndict():
    nd = NDict({"a": {"x": torch.ones(2)}, "ids": ["p"]})
    doubled = pytree.tree_map_only(torch.Tensor, lambda tensor: tensor * 2, {"batch": nd})["batch"]
    assert type(doubled) is NDict
    assert doubled["a"]["x"].tolist() == [2, 2]
    assert doubled["ids"] == ["p"]


def test_key_paths_name_the_dotted_keys():
    (path, leaf), *_ = pytree.tree_flatten_with_path(NDict({"a.b": 1}))[0]
    assert pytree.keystr(path) == "['a.b']"
    assert leaf == 1


def test_a_view_comes_back_as_an_ndict():
    doubled = pytree.tree_map(lambda leaf: leaf * 2, NDict({"a.b": 1, "c": 5})["a"])
    assert type(doubled) is NDict
    assert doubled == {"b": 2}


def test_subclasses_are_nodes_too():
    class Batch(NDict):
        pass

    doubled = pytree.tree_map(lambda leaf: leaf * 2, Batch({"a.b": 1}))
    assert type(doubled) is Batch
    assert doubled == {"a.b": 2}


def test_a_treespec_survives_serialization():
    leaves, spec = pytree.tree_flatten(NDict({"a.b": 1}))
    loaded = pytree.treespec_loads(pytree.treespec_dumps(spec))
    assert pytree.tree_unflatten(leaves, loaded) == NDict({"a.b": 1})


def test_vmap_and_grad_go_through_an_ndict():
    def loss(params, inputs):
        return ((inputs["data"]["x"] * params["model.weight"]).sum() - inputs["data.y"]) ** 2

    params = NDict({"model.weight": torch.tensor([1.0, 2.0])})
    inputs = NDict({"data.x": torch.tensor([[1.0, 0.0], [0.0, 1.0]]), "data.y": torch.zeros(2)})
    grads = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(params, inputs)
    assert type(grads) is NDict
    assert grads["model.weight"].tolist() == [[2.0, 0.0], [0.0, 4.0]]


class Graph:
    """An object with transfers of its own, such as a graph of torch_geometric."""

    def __init__(self, x):
        self.x = x

    def to(self, device):
        return Graph(self.x.to(device))

    def detach(self):
        return Graph(self.x.detach())

    def pin_memory(self):
        return Graph(self.x.pin_memory())


class InPlace(Graph):
    def to(self, device):
        self.x = self.x.to(device)


@dataclasses.dataclass(frozen=True)
class Boxes:
    corners: torch.Tensor
    names: tuple


@pytest.fixture
def nd():
    x = torch.ones(2, requires_grad=True)
    boxes = Boxes(x, (x, "name", Graph(x)))
    return NDict(
        {"graph": Graph(x), "boxes": boxes, "list": [Graph(x), (boxes,), {"d": boxes}], "inner": [NDict(g=Graph(x))]}
    )


def tensors(nd):
    (listed, (boxed,), below), (inner,) = nd["list"], nd["inner"]
    all_boxes = (nd["boxes"], boxed, below["d"])
    graphs = [nd["graph"], listed, inner["g"], *(boxes.names[2] for boxes in all_boxes)]
    return [graph.x for graph in graphs] + [one for boxes in all_boxes for one in (boxes.corners, boxes.names[0])]


@pytest.mark.parametrize("move", [lambda nd: nd.to("meta"), lambda nd: nd.to("meta", torch.float16)])
def test_transfers_reach_objects_and_dataclasses_also_in_lists(nd, move):
    moved = move(nd)
    assert [one.device.type for one in tensors(moved)] == ["meta"] * 12
    assert [one.device.type for one in tensors(nd)] == ["cpu"] * 12
    assert moved["boxes"].names[1] == "name"


def test_detach_and_pin_memory_reach_them_too(nd, monkeypatch):
    assert not any(one.requires_grad for one in tensors(nd.detach()))
    assert all(one.requires_grad for one in tensors(nd))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self + 1)  # pinning itself needs a GPU
    assert all(one.tolist() == [2, 2] for one in tensors(nd.pin_memory()))


def test_a_dtype_changes_tensors_and_dataclasses_but_no_other_objects(nd):
    half = nd.to(torch.float16)
    assert half["boxes"].corners.dtype == half["list"][1][0].names[0].dtype == torch.float16
    assert half["graph"].x.dtype == torch.float32


def test_an_object_that_moves_itself_is_kept():
    graph = InPlace(torch.ones(1))
    assert NDict(graph=graph).to("meta")["graph"] is graph
    assert graph.x.device.type == "meta"


def test_classes_are_values_like_any_other():
    assert NDict(kind=Graph, boxes=Boxes).to("meta") == {"kind": Graph, "boxes": Boxes}


def test_packed_sequences_keep_their_sizes_on_the_cpu():
    packed = pack_sequence([torch.ones(2), torch.ones(3)], enforce_sorted=False)
    moved = NDict(p=packed, listed=[packed]).to("meta", torch.float16)
    for one in (moved["p"], moved["listed"][0]):
        assert (one.data.device.type, one.data.dtype) == ("meta", torch.float16)
        assert (one.sorted_indices.device.type, one.batch_sizes.device.type) == ("meta", "cpu")
    doubled = NDict(p=packed).map_tensors(lambda tensor: tensor * 2)["p"]
    assert doubled.data.tolist() == [2] * 5
    assert torch.equal(doubled.batch_sizes, packed.batch_sizes)


class Names(list):
    pass


class Fields(dict):
    pass


class Pair(NamedTuple):
    first: object
    second: object


class Frozen(Mapping):
    def __init__(self, values):
        self._values = dict(values)

    def __getitem__(self, key):
        return self._values[key]

    def __iter__(self):
        return iter(self._values)

    def __len__(self):
        return len(self._values)


@pytest.mark.parametrize(
    "make",
    [
        lambda x: Names([x]),
        lambda x: Fields(x=x),
        lambda x: UserDict(x=x),
        lambda x: UserList([x]),
        lambda x: Frozen({"x": x}),
        lambda x: MappingProxyType({"x": x}),
        lambda x: Pair("name", x),
        lambda x: deque([x], maxlen=3),
        lambda x: defaultdict(list, x=x),
        lambda x: [Names([Fields(x=(x,))])],
    ],
)
def test_transfers_reach_the_containers_that_lightning_reaches(make):
    def innermost(value):
        while not isinstance(value, torch.Tensor):
            value = next(reversed(list(value.values() if hasattr(value, "values") else value)))
        return value

    given = make(torch.ones(1))
    held = NDict(listed=[given]).to("meta")["listed"][0]
    assert type(held) is type(given)
    assert innermost(held).device.type == "meta"
    assert innermost(given).device.type == "cpu"


def test_a_dataclass_that_is_a_mapping_moves_its_fields_and_items():
    @dataclasses.dataclass
    class Output(dict):
        loss: torch.Tensor

    output = Output(torch.ones(1))
    output["logits"] = torch.ones(1)
    moved = NDict(listed=[output]).to("meta")["listed"][0]
    assert (moved.loss.device.type, moved["logits"].device.type) == ("meta", "meta")


def test_containers_keep_what_else_they_hold():
    names = Names([torch.ones(1)])
    names.tag = "T"
    moved = NDict(listed=[names, defaultdict(list, x=torch.ones(1))]).to("meta")["listed"]
    assert moved[0].tag == "T"
    assert moved[1]["new"] == []


@pytest.mark.parametrize("value", [torch.Size([2, 3]), range(3), "text", b"bytes", Names(["a"]), {1, 2}, np.ones(2)])
def test_values_without_tensors_stay_the_same(value):
    assert NDict(value=value, listed=[value, torch.ones(1)]).to("meta")["value"] is value


def test_fields_of_a_dataclass_that_its_constructor_does_not_take_move_too():
    @dataclasses.dataclass
    class Doubled:
        x: torch.Tensor
        twice: torch.Tensor = dataclasses.field(init=False)

        def __post_init__(self):
            self.twice = self.x * 2

    assert NDict(d=Doubled(torch.ones(1))).to("meta")["d"].twice.device.type == "meta"
