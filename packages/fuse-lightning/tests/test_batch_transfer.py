import torch
from lightning_utilities.core.apply_func import apply_to_collection
from pytorch_lightning.utilities import move_data_to_device

from fuse_core import NDict


def test_lightning_moves_the_tensors_of_a_batch():
    moved = move_data_to_device(NDict({"a.x": torch.ones(1), "ids": ["p"]}), torch.device("meta"))
    assert type(moved) is NDict
    assert moved["a.x"].device.type == "meta"
    assert moved["ids"] == ["p"]


def test_lightning_sees_the_tensors_of_batches_and_branches_within_other_collections():
    nd = NDict({"a.x": torch.ones(1)})
    doubled = apply_to_collection({"batch": nd, "branch": nd["a"]}, torch.Tensor, lambda tensor: tensor * 2)
    assert type(doubled["batch"]) is type(doubled["branch"]) is NDict
    assert doubled["batch"]["a.x"] == doubled["branch"]["x"] == 2
