import dataclasses

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
