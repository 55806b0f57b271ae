import torch
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
