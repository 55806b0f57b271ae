import argparse
import pickle
import warnings

import pytest
import safetensors.torch
import torch
from torch import nn

from fuse_models import load_state_dict_file


class Network(nn.Linear):
    """A class of its own, so that pickling it stores a reference to code."""


@pytest.fixture
def state_dict():
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).state_dict()


def assert_equal(loaded, expected):
    assert set(loaded) == set(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(loaded[name], tensor, rtol=0, atol=0)


@pytest.mark.parametrize("as_path", [str, lambda path: path])
def test_a_state_dict_saved_by_torch(tmp_path, state_dict, as_path):
    torch.save(state_dict, tmp_path / "weights.pth")
    assert_equal(load_state_dict_file(as_path(tmp_path / "weights.pth")), state_dict)


def test_a_state_dict_saved_in_the_old_format(tmp_path, state_dict):
    torch.save(state_dict, tmp_path / "weights.pth", _use_new_zipfile_serialization=False)
    assert_equal(load_state_dict_file(tmp_path / "weights.pth"), state_dict)


def test_a_safetensors_file(tmp_path, state_dict):
    safetensors.torch.save_file(state_dict, tmp_path / "weights.safetensors")
    assert_equal(load_state_dict_file(tmp_path / "weights.safetensors"), state_dict)


def test_the_state_dict_of_a_lightning_checkpoint(tmp_path, state_dict):
    torch.save({"epoch": 3, "state_dict": state_dict, "optimizer_states": []}, tmp_path / "best_epoch.ckpt")
    assert_equal(load_state_dict_file(tmp_path / "best_epoch.ckpt"), state_dict)


@pytest.mark.parametrize("containers", [["model_state_dict"], ["model", "state_dict"], ["state_dict", "model"]])
def test_containers_of_other_projects(tmp_path, state_dict, containers):
    content = state_dict
    for container in containers:
        content = {container: content, "epoch": 3}
    torch.save(content, tmp_path / "weights.PTH")
    assert_equal(load_state_dict_file(tmp_path / "weights.PTH"), state_dict)
    safetensors.torch.save_file(state_dict, tmp_path / "weights.SAFETENSORS")
    assert_equal(load_state_dict_file(tmp_path / "weights.SAFETENSORS"), state_dict)


def test_a_pickled_module_is_refused_and_the_message_says_why(tmp_path):
    torch.save(Network(3, 2), tmp_path / "model.pth")
    message = r"model\.pth' holds pickled objects.*GLOBAL .*Network.*unpickling runs whatever.*Save the weights alone"
    with pytest.raises(ValueError, match=message):
        load_state_dict_file(tmp_path / "model.pth")


def test_a_checkpoint_with_a_pickled_payload_is_refused(tmp_path, state_dict):
    checkpoint = {"state_dict": state_dict, "hyper_parameters": argparse.Namespace(lr=0.1)}
    torch.save(checkpoint, tmp_path / "best_epoch.ckpt")
    with pytest.raises(ValueError, match=r"best_epoch\.ckpt' holds pickled objects.*Namespace"):
        load_state_dict_file(tmp_path / "best_epoch.ckpt")


def test_no_code_of_a_plain_pickle_runs(tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path.joinpath("sprung").write_text, ("",))

    tmp_path.joinpath("trap.pth").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match=r"trap\.pth' holds pickled objects"):
        load_state_dict_file(tmp_path / "trap.pth")
    assert not tmp_path.joinpath("sprung").exists()


def test_the_only_state_dict_of_a_checkpoint_is_found_under_any_name(tmp_path, state_dict):
    torch.save({"ema_net": state_dict, "optimizer": {"state": {}, "param_groups": []}, "epoch": 3}, tmp_path / "run.pt")
    assert_equal(load_state_dict_file(tmp_path / "run.pt"), state_dict)


def test_a_safetensors_file_of_another_name(tmp_path, state_dict):
    safetensors.torch.save_file(state_dict, tmp_path / "pytorch_model.bin")
    assert_equal(load_state_dict_file(tmp_path / "pytorch_model.bin"), state_dict)


def test_the_reason_for_a_torchscript_file_does_not_advise_to_run_its_code(tmp_path):
    path = tmp_path / "weights.pth"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch 2.15's, about its deprecation
        torch.jit.trace(nn.Linear(3, 2), torch.zeros(1, 3)).save(path)
    with pytest.raises(ValueError, match="TorchScript") as caught:
        load_state_dict_file(path)
    assert "False" not in str(caught.value)


def test_a_folder_is_not_called_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"it is a folder\. Give the file in it"):
        load_state_dict_file(tmp_path)


def test_a_missing_file_is_named():
    with pytest.raises(FileNotFoundError, match=r"No weights at 'nowhere/best_epoch\.ckpt'"):
        load_state_dict_file("nowhere/best_epoch.ckpt")


@pytest.mark.parametrize(
    "content",
    [b"", b"hello world", b"PK\x03\x04 cut off", b"<html>404</html>", b"version https://git-lfs.github.com/spec/v1\n"],
)
def test_a_damaged_file_is_named(tmp_path, content):
    tmp_path.joinpath("weights.pth").write_bytes(content)
    with pytest.raises(
        ValueError,
        match=r"weights\.pth' is no readable checkpoint \(\w+.*download it again\. If it is of another format",
    ):
        load_state_dict_file(tmp_path / "weights.pth")


@pytest.mark.parametrize("kind", ["zip", "old", "safetensors"])
def test_a_file_that_is_cut_off_anywhere_is_named(tmp_path, kind):
    path = tmp_path / ("cut.safetensors" if kind == "safetensors" else "cut.ckpt")
    weights = nn.Linear(60, 60).state_dict()
    if kind == "safetensors":
        safetensors.torch.save_file(weights, path)
    else:
        torch.save(weights, path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    for size in (*range(300), *range(300, len(whole), 97 if kind == "safetensors" else 7)):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"cut\.\w+' is no readable"):
            load_state_dict_file(path)


def test_a_byte_that_no_pickle_has_is_damage_and_not_distrust(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(nn.Linear(3, 2).state_dict(), path, _use_new_zipfile_serialization=False)
    whole = bytearray(path.read_bytes())
    whole[whole.index(b"collections") - 1] = 0xAD
    path.write_bytes(whole)
    with pytest.raises(
        ValueError, match=r"no readable checkpoint \(UnpicklingError: Unsupported operand 173\)\. If it is damaged"
    ):
        load_state_dict_file(path)


def test_a_damaged_safetensors_file_is_named(tmp_path):
    tmp_path.joinpath("weights.safetensors").write_bytes(b"hello world")
    with pytest.raises(ValueError, match=r"weights\.safetensors' is no readable safetensors file: .*header"):
        load_state_dict_file(tmp_path / "weights.safetensors")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(2)], "holds a list, where a state dict was expected"),
        ({}, "holds no state dict, .* but nothing at all"),
        ({0: torch.zeros(2)}, r"holds no state dict, .* but 0 \(Tensor\)"),
        ({"metrics": {"accuracy": torch.tensor(0.9)}}, r"holds no state dict, .* but 'metrics' \(dict\)"),
        (
            {"a": {"weight": torch.zeros(2)}, "b": {"weight": torch.zeros(2)}, "epoch": 3},
            r"holds no state dict, .* but 'a' \(dict\), 'b' \(dict\), 'epoch' \(int\)",
        ),
    ],
)
def test_other_content_is_named(tmp_path, content, message):
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=rf"weights\.pth' {message}"):
        load_state_dict_file(tmp_path / "weights.pth")
