import numpy as np
import torch

from fuse_core import NDict


def test_tree_shows_each_segment_once():
    assert NDict({"a.b": 1, "c": 2, "a.d.e": 3}).get_tree() == "--- a\n------ b\n------ d\n--------- e\n--- c"


def test_tree_shows_values_of_leaves_that_are_branches_too():
    assert NDict({"a": 0, "a.b": 1}).get_tree(print_values=True) == "--- a -> 0\n------ b -> 1"


def test_print_tree_prints_the_tree(capsys):
    NDict({"a.b": 1}).print_tree()
    assert capsys.readouterr().out == "--- a\n------ b\n"


def test_describe_is_an_aligned_table():
    nd = NDict({"x": torch.zeros(2, 3), "array": np.zeros(4), "ids": ["a"], "step": 3})
    assert nd.describe().splitlines() == [
        "key    type     dtype    shape   device",
        "x      Tensor   float32  (2, 3)  cpu",
        "array  ndarray  float64  (4,)    cpu" if hasattr(np.zeros(1), "device") else "array  ndarray  float64  (4,)",
        "ids    list              (1,)",
        "step   int",
    ]


def test_an_empty_ndict_has_texts_too():
    assert NDict().get_tree() == ""
    assert NDict().describe().split() == ["key", "type", "dtype", "shape", "device"]
