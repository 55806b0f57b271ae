"""Ensembles of the files that training leaves behind."""

import argparse
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn

from fuse_core import NDict
from fuse_models import Head1D, ModelEnsemble, ModelMultiHead, ModelWrapSeqToDict

KEY = "model.output.cls"


def model(classes=2):
    """Itself with a `model.` in its names, and with buffers."""
    layers = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, classes), nn.Softmax(dim=1))
    return ModelWrapSeqToDict(model=layers, model_inputs=["data.x"], model_outputs=[KEY])


def lightning_checkpoint(trained, prefix="model."):
    """What Lightning saves: the module's state dict, with losses and metrics, the loops and the optimizer."""
    state = {f"{prefix}{name}": tensor for name, tensor in trained.state_dict().items()}
    state |= {
        "losses.cls.class_weights": torch.ones(2),
        "train_metrics.auc.total": torch.zeros(1),
        "model_scale": torch.ones(1),
    }
    return {
        "epoch": 3,
        "global_step": 12,
        "pytorch-lightning_version": "2.6.1",
        "state_dict": state,
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5)}},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1}]}],
    }


@pytest.fixture
def trained():
    torch.manual_seed(0)
    models = [model() for _ in range(3)]
    for i, one in enumerate(models):
        one(NDict({"data.x": torch.randn(8, 3) * (i + 1)}))  # running statistics of its own
    return models


@pytest.fixture
def dirs(tmp_path, trained):
    """A directory for each model, with all kinds of files."""
    folders = [tmp_path / f"fold_{i}" for i in range(3)]
    for folder, one in zip(folders, trained, strict=True):
        folder.mkdir()
        torch.save(lightning_checkpoint(one), folder / "best_epoch.ckpt")
        torch.save(lightning_checkpoint(one, "_model."), folder / "fusemedml.ckpt")
        torch.save(lightning_checkpoint(one, "model._orig_mod."), folder / "compiled.ckpt")
        torch.save(one.state_dict(), folder / "bare.pth")
        torch.save({f"module.{name}": tensor for name, tensor in one.state_dict().items()}, folder / "ddp.pth")
        save_file(one.state_dict(), folder / "model.safetensors")
        torch.save(one, folder / "net.pth")
    return folders


def assert_has_the_models(ensemble, trained):
    x = torch.randn(5, 3)
    result = ensemble(NDict({"data.x": x}))
    assert not any(module.training for module in ensemble.modules())
    for i, one in enumerate(trained):
        torch.testing.assert_close(result[f"{KEY}_ensemble_{i}"], one.eval()(NDict({"data.x": x}))[KEY])


FILES = ["best_epoch.ckpt", "fusemedml.ckpt", "compiled.ckpt", "bare.pth", "ddp.pth", "model.safetensors"]


@pytest.mark.parametrize("weights", FILES)
@pytest.mark.parametrize("trust_pickle", [False, True])
def test_the_trained_weights_are_loaded(dirs, trained, weights, trust_pickle):
    ensemble = ModelEnsemble.from_directories(dirs, model, weights, prediction_keys=[KEY], trust_pickle=trust_pickle)
    assert_has_the_models(ensemble, trained)


def test_the_best_epoch_is_the_default_and_paths_may_be_strings(dirs, trained):
    ensemble = ModelEnsemble.from_directories([str(folder) for folder in dirs], model, prediction_keys=[KEY])
    assert_has_the_models(ensemble, trained)


def test_the_models_may_be_compiled(dirs, trained):
    def compiled():
        return torch.compile(model(), backend="eager")

    ensemble = ModelEnsemble.from_directories(dirs, compiled, prediction_keys=[KEY])
    assert_has_the_models(ensemble, trained)


class Calibrated(nn.Module):
    """Lazy layers, and a temperature in the extra state."""

    def __init__(self):
        super().__init__()
        self.layers = nn.LazyLinear(2)
        self.temperature = 1.0

    def forward(self, x):
        return (self.layers(x) / self.temperature).softmax(1)

    def get_extra_state(self):
        return {"temperature": self.temperature}

    def set_extra_state(self, state):
        self.temperature = state["temperature"]


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_lazy_models_and_their_extra_state_come_back(tmp_path):
    def make():
        return ModelWrapSeqToDict(model=Calibrated(), model_inputs=["data.x"], model_outputs=[KEY])

    trained = make()
    trained({"data.x": torch.randn(2, 3)})
    trained.model.temperature = 2.0
    torch.save(lightning_checkpoint(trained), tmp_path / "best_epoch.ckpt")
    assert_has_the_models(ModelEnsemble.from_directories([tmp_path], make, prediction_keys=[KEY]), [trained])


def two_heads_of_one_classifier():
    classifier = nn.Linear(4, 2)
    heads = [Head1D(name, conv_inputs=[("data.x", 4)], shared_classifier_head=classifier) for name in "ab"]
    return ModelMultiHead(nn.Identity(), heads, conv_inputs=["data.x"])


def test_weights_that_modules_share_may_be_saved_under_one_of_their_names(tmp_path):
    trained = two_heads_of_one_classifier()
    save_model(trained, str(tmp_path / "model.safetensors"))
    ensemble = ModelEnsemble.from_directories([tmp_path], two_heads_of_one_classifier, "model.safetensors")
    assert ensemble.models[0].heads[1].classifier.weight.equal(trained.heads[1].classifier.weight)


def test_a_factory_that_gives_the_same_weights_again_is_an_error(dirs):
    always_this = model()
    with pytest.raises(ValueError, match=r"must make a new model in each call, but its models share weights"):
        ModelEnsemble.from_directories(dirs, lambda: always_this, prediction_keys=[KEY])


def test_the_options_are_those_of_the_ensemble(dirs):
    ensemble = ModelEnsemble.from_directories(dirs, model, prediction_keys={KEY: "values"}, execution="vmap")
    assert ensemble.execution == "vmap"
    assert ensemble.prediction_keys == {KEY: "values"}


def test_models_of_several_architectures_have_a_factory_each(dirs, trained, tmp_path):
    other = nn.Sequential(nn.Linear(3, 2), nn.Softmax(1))
    factories = [model, model, lambda: ModelWrapSeqToDict(model=other, model_inputs=["data.x"], model_outputs=[KEY])]
    torch.save(factories[2]().state_dict(), dirs[2] / "bare.pth")
    ensemble = ModelEnsemble.from_directories(dirs, factories, "bare.pth", prediction_keys=[KEY])
    assert ensemble.models[2].model is other
    with pytest.raises(ValueError, match=r"one function for each of the 3 directories, or one for all, got 2"):
        ModelEnsemble.from_directories(dirs, factories[:2], "bare.pth", prediction_keys=[KEY])


@pytest.mark.parametrize("trust_pickle", [True, False])
def test_a_cut_off_file_is_named_with_its_folder(dirs, trust_pickle):
    path = dirs[1] / "best_epoch.ckpt"
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(ValueError, match=r"fold_1/best_epoch\.ckpt' is no readable checkpoint"):
        ModelEnsemble.from_directories(dirs, model, prediction_keys=[KEY], trust_pickle=trust_pickle)


def test_all_files_that_are_not_there_are_listed(dirs):
    (dirs[1] / "best_epoch.ckpt").unlink()
    gone = dirs[0].parent / "fold_9"
    message = r"2 of 4 files are not there: .*fold_1/best_epoch\.ckpt, .*fold_9/best_epoch\.ckpt"
    with pytest.raises(FileNotFoundError, match=message):
        ModelEnsemble.from_directories([*dirs, gone], model, prediction_keys=[KEY])


def test_there_must_be_a_directory():
    with pytest.raises(ValueError, match=r"dirs=\) takes a non-empty sequence of directories, got \[\]"):
        ModelEnsemble.from_directories([], model)


def test_one_directory_alone_is_no_sequence(dirs):
    with pytest.raises(ValueError, match=r"takes a non-empty sequence of directories, got .*fold_0"):
        ModelEnsemble.from_directories(dirs[0], model)


def test_missing_and_unknown_weights_are_named_with_their_file(dirs, trained):
    checkpoint = lightning_checkpoint(trained[1])
    checkpoint["state_dict"]["model.model.0.wieght"] = checkpoint["state_dict"].pop("model.model.0.weight")
    torch.save(checkpoint, dirs[1] / "best_epoch.ckpt")
    message = (
        r"fold_1/best_epoch\.ckpt' for the ModelWrapSeqToDict that model_factory makes: the weights do not fit: "
        r"missing: model\.0\.weight; unknown: model\.0\.wieght\."
    )
    with pytest.raises(ValueError, match=message):
        ModelEnsemble.from_directories(dirs, model, prediction_keys=[KEY])


def test_weights_of_another_shape_are_named_with_their_file(dirs):
    message = (
        r"fold_0/model\.safetensors'.* another shape: model\.2\.weight \(2, 4\) for \(3, 4\), model\.2\.bias \(2,\)"
    )
    with pytest.raises(ValueError, match=message):
        ModelEnsemble.from_directories(dirs, lambda: model(classes=3), "model.safetensors")


def test_a_long_list_of_weights_is_cut(dirs):
    def deep():
        return ModelWrapSeqToDict(
            model=nn.Sequential(*[nn.Linear(3, 3) for _ in range(9)]), model_inputs=["data.x"], model_outputs=[KEY]
        )

    with pytest.raises(ValueError, match=r"missing: .* and \d+ more; unknown: "):
        ModelEnsemble.from_directories(dirs, deep)


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_pickled_payload_is_refused_and_does_not_run(dirs, trained, tmp_path):
    torch.save(lightning_checkpoint(trained[2]) | {"payload": Trap(tmp_path / "trapped")}, dirs[2] / "best_epoch.ckpt")
    message = (
        r"fold_2/best_epoch\.ckpt' holds pickled objects.* trust_pickle=True unpickles it and runs the code it holds"
    )
    with pytest.raises(ValueError, match=message):
        ModelEnsemble.from_directories(dirs, model, prediction_keys=[KEY])
    assert not Path(tmp_path, "trapped").exists()


def test_a_whole_pickled_module_is_refused_unless_trusted(dirs, trained):
    with pytest.raises(ValueError, match=r"net\.pth' holds pickled objects"):
        ModelEnsemble.from_directories(dirs, model, "net.pth")
    ensemble = ModelEnsemble.from_directories(dirs, None, "net.pth", trust_pickle=True, prediction_keys=[KEY])
    assert_has_the_models(ensemble, trained)


def test_a_checkpoint_with_objects_loads_if_trusted(dirs, trained):
    arguments = argparse.Namespace(lr=0.1)
    for folder, one in zip(dirs, trained, strict=True):
        torch.save(lightning_checkpoint(one) | {"hyper_parameters": arguments}, folder / "best_epoch.ckpt")
    ensemble = ModelEnsemble.from_directories(dirs, model, trust_pickle=True, prediction_keys=[KEY])
    assert_has_the_models(ensemble, trained)


def test_weights_need_a_model(dirs):
    with pytest.raises(ValueError, match=r"best_epoch\.ckpt' holds weights, for which model_factory must make"):
        ModelEnsemble.from_directories(dirs, None)


def test_a_model_in_place_of_the_factory_is_refused(dirs):
    with pytest.raises(ValueError, match=r"model_factory must make the model, but it is a ModelWrapSeqToDict\. Give a"):
        ModelEnsemble.from_directories(dirs, model())
