import datetime
import enum
from collections import OrderedDict, namedtuple
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from fuse_lightning.checkpoints.weights_only_values import NotPlainError, as_plain
from fuse_models import ModelWrapSeqToDict


class Level(enum.IntEnum):
    HIGH = 3


class Name(enum.StrEnum):
    CUBIC = "cubic"


Pair = namedtuple("Pair", "a b")


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (np.float64(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
        (Path("a/b"), "a/b"),
        (Level.HIGH, 3),
        (Name.CUBIC, "cubic"),
        (Pair(1, np.float32(0.5)), (1, 0.5)),
        (np.array(["a", "b"]), ["a", "b"]),
        ({np.int64(1): [np.float64(2.0)]}, {1: [2.0]}),
        ({np.int64(1): 2, Path("a"): "b"}, {1: 2, "a": "b"}),
        ({1, 2}, {1, 2}),
    ],
)
def test_values_become_plain_and_can_be_read_again(value, plain, tmp_path):
    converted = as_plain({"x": value})["x"]
    assert converted == plain
    assert type(converted) is type(plain)
    torch.save(converted, tmp_path / "x")
    assert torch.load(tmp_path / "x", weights_only=True) == plain


def test_arrays_of_numbers_become_tensors():
    assert torch.equal(as_plain(np.arange(3)), torch.arange(3))


@pytest.mark.parametrize("array", [np.arange(3)[::-1], np.array([2.0, 1.0, 0.0], ">f8"), np.eye(3).T[:, ::2]])
def test_arrays_with_another_layout_become_tensors(array):
    assert as_plain(array).tolist() == array.tolist()


class Image(torch.Tensor):
    """A tensor with metadata, such as MONAI's."""


def test_a_tensor_of_a_subclass_becomes_a_plain_one(tmp_path):
    image = torch.ones(2).as_subclass(Image)
    torch.save(as_plain({"states": [image], "weight": nn.Parameter(torch.ones(1))}), tmp_path / "x")
    loaded = torch.load(tmp_path / "x", weights_only=True)
    assert type(loaded["states"][0]) is torch.Tensor
    assert type(loaded["weight"]) is nn.Parameter


class Codes(torch.Tensor):
    """A tensor whose class torch.load is told to know, such as torchao's."""


@pytest.mark.parametrize("registered", [Codes, (Codes, f"{Codes.__module__}.Codes")])
def test_a_tensor_of_a_registered_class_stays_itself(tmp_path, registered):
    codes = torch.ones(2).as_subclass(Codes)
    with torch.serialization.safe_globals([registered]):
        torch.save(as_plain([codes]), tmp_path / "x")
        assert type(torch.load(tmp_path / "x", weights_only=True)[0]) is Codes


def test_a_class_registered_by_another_name_becomes_a_plain_tensor():
    with torch.serialization.safe_globals([(Codes, "earlier.place.Codes")]):
        assert type(as_plain(torch.ones(2).as_subclass(Codes))) is torch.Tensor


def test_a_state_dict_in_which_nothing_changes_stays_itself():
    state_dict = nn.Linear(2, 1).state_dict()
    assert as_plain(state_dict) is state_dict
    assert type(as_plain(OrderedDict(a=np.float64(1)))) is OrderedDict


@pytest.mark.parametrize("value", [datetime.datetime(2020, 1, 1), len, object(), np.datetime64("2020-01-01")])
def test_other_objects_are_refused_with_their_place(value):
    with pytest.raises(
        NotPlainError,
        match=r"^'optimizer_states\[0\]\.param_groups\[1\]\.lr' in the checkpoint is a .* numbers, strings",
    ):
        as_plain({"optimizer_states": [{"param_groups": [{}, {"lr": value}]}]})


class Keeps(pl.Callback):
    def __init__(self, value):
        self.value = value

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"]


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_numpys_learning_rate_and_a_callbacks_array_are_resumed(make_module, make_trainer, make_loader, tmp_path):
    rate = np.logspace(-3, -1, 3)[1]
    options = {
        "optimizers_and_lr_schs": lambda module: torch.optim.SGD(module.parameters(), lr=rate),
        "best_epoch_source": {"monitor": "validation.losses.mse"},
        "save_model": True,
    }
    make_trainer(callbacks=[Keeps(np.arange(3))]).fit(make_module(**options), make_loader(8), make_loader(4))
    assert (tmp_path / "model.safetensors").exists()
    keeps = Keeps(None)
    trainer = make_trainer(callbacks=[keeps], max_epochs=2)
    trainer.fit(make_module(**options), make_loader(8), make_loader(4), ckpt_path=tmp_path / "last.ckpt")
    assert trainer.optimizers[0].param_groups[0]["lr"] == rate
    assert keeps.value.tolist() == [0, 1, 2]


class Watched(nn.Module):
    """Counts forwards in training."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 1)
        self.forwards = 0

    def forward(self, x):
        self.forwards += self.training
        return self.linear(x)


def test_what_cannot_be_saved_is_refused_before_the_first_step(make_module, make_trainer, make_loader):
    net = Watched()
    module = make_module(model=ModelWrapSeqToDict(model=net, model_inputs=["data.x"], model_outputs=["model.y"]))
    with pytest.raises(NotPlainError, match=r"^'callbacks\.Keeps\.value' in the checkpoint is a builtins\.object"):
        make_trainer(callbacks=[Keeps(object())]).fit(module, make_loader(8))
    assert net.forwards == 0


@pytest.mark.parametrize("compiled_first", [True, False])
def test_a_checkpoint_fits_a_compiled_and_an_uncompiled_model(
    make_module, make_trainer, make_loader, tmp_path, compiled_first
):
    def model(compiled):
        linear = nn.Linear(3, 1)
        linear = torch.compile(linear, backend="eager") if compiled else linear
        return ModelWrapSeqToDict(model=linear, model_inputs=["data.x"], model_outputs=["model.y"])

    first = make_module(model=model(compiled_first))
    make_trainer().fit(first, make_loader(8))
    second = make_module(model=model(not compiled_first))
    make_trainer(max_epochs=2, limit_train_batches=1).validate(second, make_loader(4), ckpt_path=tmp_path / "last.ckpt")
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_a_model_that_cannot_be_written_only_warns(make_module, make_trainer, make_loader, tmp_path):
    (tmp_path / "model.safetensors").mkdir()
    with pytest.warns(UserWarning, match=r"model\.safetensors was not written\. IsADirectoryError"):
        make_trainer().fit(make_module(save_model=True), make_loader(8))
    assert (tmp_path / "last.ckpt").exists()


def test_a_hyperparameter_that_is_not_plain_is_refused_with_the_way_to_leave_it_out():
    with pytest.raises(NotPlainError, match=r"leave it out with save_hyperparameters\(ignore=\['model'\]\)\.$"):
        as_plain({"hyper_parameters": {"model": object()}})


def test_only_the_function_of_swalr_is_left_out():
    own = {"anneal_func": "cosine", "swa_lrs": [0.1]}
    assert as_plain(own) is own
    assert as_plain({"anneal_func": torch.optim.swa_utils.SWALR._cosine_anneal, "last_epoch": 3}) == {"last_epoch": 3}
    with pytest.raises(NotPlainError, match=r"'anneal_func' in the checkpoint is a builtins\.function"):
        as_plain({"anneal_func": lambda progress: progress})
