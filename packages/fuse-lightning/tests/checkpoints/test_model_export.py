import shutil

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from fuse_core import NDict
from fuse_lightning.checkpoints.model_export import save_model_files
from fuse_losses import LossDefault
from fuse_models import ModelEnsemble, ModelWrapSeqToDict


def make_model():
    return ModelWrapSeqToDict(model=nn.Linear(3, 1), model_inputs=["data.x"], model_outputs=["model.y"])


def test_a_compiled_model_is_described_as_what_it_is(make_module, make_trainer, make_loader, tmp_path):
    module = make_module(model=torch.compile(make_model(), backend="eager"), save_model=True)
    make_trainer().fit(module, make_loader(8))
    text = (tmp_path / "model.md").read_text()
    assert text.startswith("# ModelWrapSeqToDict\n")
    assert "- Class: `fuse_models.model_wrap_seq_to_dict.ModelWrapSeqToDict`" in text
    assert "OptimizedModule" not in text
    assert set(load_file(tmp_path / "model.safetensors")) == {"model.weight", "model.bias"}


@pytest.mark.parametrize("weights", ["model.safetensors", "best_epoch.ckpt"])
@pytest.mark.parametrize("compiled", [False, True])
def test_an_ensemble_reads_the_folder(make_module, make_trainer, make_loader, tmp_path, weights, compiled):
    model = torch.compile(make_model(), backend="eager") if compiled else make_model()
    module = make_module(model=model, save_model=True, best_epoch_source={"monitor": "train.losses.mse"})
    make_trainer(precision="bf16-true").fit(module, make_loader(8))
    assert load_file(tmp_path / "model.safetensors")["model.weight"].dtype == torch.bfloat16
    ensemble = ModelEnsemble.from_directories([tmp_path], make_model, weights, prediction_keys={"model.y": "values"})
    inputs = torch.ones(2, 3)
    expected = make_model()
    expected.load_state_dict(load_file(tmp_path / "model.safetensors"))
    read = ensemble(NDict({"data.x": inputs}))
    assert torch.equal(read["model.y_ensemble_average"], expected(NDict({"data.x": inputs}))["model.y"])


class WithBuffer(nn.Linear):
    def __init__(self, buffer):
        super().__init__(3, 1)
        self.register_buffer("kept", buffer)


@pytest.mark.parametrize(
    ("buffer", "kind"),
    [
        (torch.zeros(2, dtype=torch.complex128), "strided, complex128"),
        (torch.eye(2).to_sparse(), "sparse_coo, float32"),
    ],
)
def test_tensors_that_cannot_be_written_are_refused_before_training(make_module, buffer, kind):
    message = rf"tensors only, dense ones of safetensors' dtypes.*under 'kept' \({kind}\)\. Keep it in such a buffer"
    with pytest.raises(ValueError, match=message):
        make_module(model=WithBuffer(buffer), save_model=True)


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.bool, torch.int64, torch.uint8, torch.complex64]
)
def test_tensors_keep_their_dtype_and_values(tmp_path, dtype):
    model = WithBuffer(torch.tensor([[0, 1, 2], [3, 4, 5]]).to(dtype).t())  # not contiguous
    save_model_files(tmp_path, model, model.state_dict(), "They are of a test.")
    saved = load_file(tmp_path / "model.safetensors")["kept"]
    assert saved.dtype == dtype
    assert torch.equal(saved, model.kept)


def test_a_run_resumed_in_another_folder_without_a_new_best_saves_the_last_epoch(
    make_module, make_trainer, make_loader, tmp_path
):
    source = {"monitor": "validation.losses.mse"}
    first = make_module(model_dir=tmp_path / "first", best_epoch_source=source)
    make_trainer(max_epochs=1).fit(first, make_loader(8), make_loader(8))
    shutil.copy(tmp_path / "first" / "last.ckpt", tmp_path / "last.ckpt")
    shutil.rmtree(tmp_path / "first")
    second = make_module(model_dir=tmp_path / "second", best_epoch_source=source, save_model=True)
    trainer = make_trainer(max_epochs=2, check_val_every_n_epoch=5)
    with pytest.warns(UserWarning, match="dirpath has changed"):
        trainer.fit(second, make_loader(8), make_loader(8), ckpt_path=tmp_path / "last.ckpt")
    assert "They are of the last epoch, 1." in (tmp_path / "second" / "model.md").read_text()


def test_without_a_finite_value_no_epoch_is_the_best(make_module, make_trainer, make_loader, tmp_path):
    nan = LossDefault(pred="model.y", target="data.y", callable=lambda pred, target: (pred * torch.nan).sum())
    source = {"monitor": "train.losses.nan"}
    module = make_module(losses={"nan": nan}, best_epoch_source=source, on_nonfinite="ignore", save_model=True)
    make_trainer().fit(module, make_loader(8))
    assert "They are of the last epoch, 0." in (tmp_path / "model.md").read_text()


MONITOR = {"monitor": "validation.losses.mse", "mode": "min"}


def test_the_best_epochs_model_is_saved_as_tensors_and_a_description(make_module, make_trainer, make_loader, tmp_path):
    module = make_module(
        best_epoch_source=MONITOR,
        save_model=True,
        optimizers_and_lr_schs=lambda module: torch.optim.SGD(module.parameters(), lr=3.0),  # diverges
    )
    make_trainer(max_epochs=3).fit(module, make_loader(8), make_loader(8))
    best = torch.load(tmp_path / "best_epoch.ckpt", weights_only=True)
    saved = load_file(tmp_path / "model.safetensors")
    assert best["epoch"] == 0
    assert {f"model.{key}" for key in saved} == set(best["state_dict"])
    assert all(torch.equal(saved[key], best["state_dict"][f"model.{key}"]) for key in saved)
    assert not torch.equal(saved["model.weight"], module.model.model.weight)
    text = (tmp_path / "model.md").read_text()
    assert "They are of the best epoch: validation.losses.mse was" in text
    assert "| `model.weight` | (1, 3) | float32 |" in text
    assert "- Reads: `data.x`" in text


def test_without_a_best_epoch_the_last_ones_model_is_saved(make_module, make_trainer, make_loader, tmp_path):
    module = make_module(save_model=True)
    make_trainer(max_epochs=2).fit(module, make_loader(8))
    saved = load_file(tmp_path / "model.safetensors")
    assert torch.equal(saved["model.weight"], module.model.model.weight)
    assert "They are of the last epoch, 1." in (tmp_path / "model.md").read_text()


def test_tied_weights_are_saved_under_each_name(make_module, make_trainer, make_loader, tmp_path):
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 1))
    net[1].weight = net[0].weight
    model = ModelWrapSeqToDict(model=net, model_inputs=["data.x"], model_outputs=["model.y"])
    module = make_module(model=model, save_model=True)
    make_trainer().fit(module, make_loader(8))
    saved = load_file(tmp_path / "model.safetensors")
    assert saved.keys() == model.state_dict().keys()
    assert torch.equal(saved["model.0.weight"], saved["model.1.weight"])


def test_a_compiled_model_is_saved_with_the_keys_of_the_model(make_module, make_trainer, make_loader, tmp_path):
    module = make_module(save_model=True)
    module.model.model = torch.compile(module.model.model, backend="eager")
    make_trainer().fit(module, make_loader(8))
    assert set(load_file(tmp_path / "model.safetensors")) == {"model.weight", "model.bias"}


def test_what_safetensors_cannot_hold_is_refused_at_construction(make_module):
    class WithText(nn.Module):
        def get_extra_state(self):
            return "text"

        def set_extra_state(self, state):
            pass

    with pytest.raises(ValueError, match=r"save_model writes tensors only.*'_extra_state'"):
        make_module(model=WithText(), save_model=True)


@pytest.mark.parametrize("weights", ["model.safetensors", "best_epoch.ckpt"])
def test_an_ensemble_reads_the_folders_of_runs(make_module, make_trainer, make_loader, tmp_path, weights):
    def make_model():
        return ModelWrapSeqToDict(model=nn.Linear(3, 1), model_inputs=["data.x"], model_outputs=["model.y"])

    folders = [tmp_path / "a", tmp_path / "b"]
    modules = {one: make_module(model_dir=one, save_model=True, best_epoch_source=MONITOR) for one in folders}
    for offset, module in enumerate(modules.values()):
        make_trainer().fit(module, make_loader(8, offset=offset), make_loader(4, offset=offset))
    ensemble = ModelEnsemble.from_directories(folders, make_model, weights, prediction_keys={"model.y": "values"})
    batch = next(iter(make_loader(4)))
    expected = torch.stack([module.model(batch.copy())["model.y"] for module in modules.values()])
    assert not torch.equal(*expected)
    torch.testing.assert_close(ensemble(batch.copy())["model.y_ensemble_average"], expected.mean(0))


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_a_training_killed_before_the_model_was_written_writes_it_when_resumed(
    make_module, make_trainer, make_loader, tmp_path
):
    options = {"save_model": True, "best_epoch_source": {"monitor": "train.losses.mse"}}
    make_trainer().fit(make_module(**options), make_loader(8))
    written = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    make_trainer().fit(make_module(**options), make_loader(8), ckpt_path=tmp_path / "last.ckpt")
    assert torch.equal(load_file(tmp_path / "model.safetensors")["model.weight"], written["model.weight"])
