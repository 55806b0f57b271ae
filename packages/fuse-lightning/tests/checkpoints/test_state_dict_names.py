"""A checkpoint of FuseMedML: the model's weights after `_model.`, and nothing else of the module."""

import pytest
import torch

from fuse_losses import LossFocal


@pytest.fixture
def checkpoint(make_module, tmp_path):
    """A file as FuseMedML 0.4.1 writes it, with the weights of a model."""
    weights = {f"_model.{name}": torch.randn_like(weight) for name, weight in make_module().model.state_dict().items()}
    path = tmp_path / "there" / "last.ckpt"
    path.parent.mkdir()
    values = {"epoch": 1, "global_step": 4, "state_dict": weights, "callbacks": {}, "lr_schedulers": []}
    torch.save(values | {"pytorch-lightning_version": "2.6.6", "optimizer_states": []}, path)
    return path


def expected(path):
    state_dict = torch.load(path, weights_only=True)["state_dict"]
    return {name.removeprefix("_model."): weight for name, weight in state_dict.items()}


@pytest.mark.parametrize("with_losses", [False, True])
def test_it_loads_strictly_with_and_without_losses(make_module, checkpoint, with_losses):
    losses = {"focal": LossFocal(pred="model.y", target="data.y", class_weights=[1.0, 2.0])} if with_losses else None
    new = make_module()
    module = type(new).load_from_checkpoint(checkpoint, model_dir=None, model=new.model, losses=losses)
    torch.testing.assert_close(dict(module.model.state_dict()), expected(checkpoint), rtol=0, atol=0)
    if with_losses:
        assert module.losses["focal"].class_weights.tolist() == [1.0, 2.0]


def test_predicting_takes_it_as_ckpt_path(make_module, make_trainer, make_loader, checkpoint):
    module = make_module(model_dir=None, prediction_keys=["model.y"])
    make_trainer().predict(module, make_loader(4), ckpt_path=checkpoint)
    torch.testing.assert_close(dict(module.model.state_dict()), expected(checkpoint), rtol=0, atol=0)


def test_a_training_is_not_resumed_from_it(make_module, make_trainer, make_loader, checkpoint):
    with pytest.raises(ValueError, match=r"checkpoint is FuseMedML's.*fuse_models\.load_weights\(model, path\)"):
        make_trainer(max_epochs=9).fit(make_module(model_dir=None), make_loader(8), ckpt_path=checkpoint)
