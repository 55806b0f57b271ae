import io
from pathlib import Path

import numpy as np
import pytest
import torch
from pytorch_lightning.loggers import CSVLogger

from fuse_lightning.checkpoints.hyperparameters import keep_plain_values


def test_what_is_kept_is_read_back_without_unpickling_objects():
    given = {
        "rate": np.float64(0.1),
        "folder": Path("a"),
        "nested": {"sizes": [np.int64(3), (Path("b"), None)]},
        "dtype": torch.float32,
        "weights": torch.ones(2),
    }
    kept = dict(given)
    keep_plain_values(kept)
    file = io.BytesIO()
    torch.save(kept, file)
    read = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    assert read["weights"].tolist() == [1.0, 1.0]
    expected = {"rate": 0.1, "folder": "a", "nested": {"sizes": [3, ("b", None)]}, "dtype": torch.float32}
    assert {name: value for name, value in read.items() if name != "weights"} == expected
    assert given["nested"] == {"sizes": [np.int64(3), (Path("b"), None)]}


@pytest.mark.filterwarnings("ignore:Attribute .* is an instance of `nn.Module`")
def test_loggers_are_given_no_objects_either(make_module, make_trainer, make_loader, tmp_path):
    with pytest.warns(UserWarning, match="Checkpoints and logs hold plain values"):
        module = make_module(model_dir=tmp_path / "run", save_hyperparameters_kwargs={})
    logger = CSVLogger(tmp_path)
    make_trainer(logger=logger).fit(module, make_loader(8))
    text = (Path(logger.log_dir) / "hparams.yaml").read_text()
    assert "on_nonfinite: raise" in text
    assert "python" not in text  # as in `!!python/object`, a pickle in YAML


def test_objects_are_left_out_with_a_warning():
    values = {"width": 64, "model": torch.nn.Linear(2, 1), "names": ["a", object()]}
    with pytest.warns(UserWarning, match="hyperparameters 'model', 'names' are not plain and were left out"):
        keep_plain_values(values)
    assert values == {"width": 64}


def test_hyperparameters_are_saved_if_asked_for(make_module, make_trainer, make_loader, tmp_path):
    module = make_module(save_hyperparameters_kwargs={"ignore": ["model", "losses", "optimizers_and_lr_schs"]})
    assert module.hparams["on_nonfinite"] == "raise"


@pytest.mark.filterwarnings("ignore:Checkpoint directory", "ignore:Attribute ")
def test_hyperparameters_that_no_checkpoint_may_hold_are_left_out(make_module, make_trainer, make_loader, tmp_path):
    with pytest.warns(UserWarning, match=r"hyperparameters 'model', 'losses'.* are not plain and were left out"):
        module = make_module(save_hyperparameters_kwargs={})
    assert module.hparams["model_dir"] == str(tmp_path)
    make_trainer().fit(module, make_loader(4))
    make_trainer(max_epochs=2).fit(make_module(), make_loader(4), ckpt_path=tmp_path / "last.ckpt")
