from fnmatch import fnmatch

from torchmetrics.classification import MulticlassConfusionMatrix

from fuse_lightning import MetricDefault
from fuse_lightning.run_folder import LOG_FILES, MODEL_DIR_FILES


def with_labels(batch_dict):
    batch_dict["data.y"] = (batch_dict["data.y"][:, 0] > 0).long()
    return batch_dict


def test_the_patterns_match_what_a_run_with_all_defaults_writes(tmp_path, make_module, make_trainer, make_loader):
    monitors = ["validation.losses.total_loss", "train.losses.mse"]
    sources = [{"monitor": monitor, "save_top_k": 2} for monitor in monitors]
    metric = MetricDefault(
        pred="data.x", target="data.y", metric=MulticlassConfusionMatrix(3), preprocess_func=with_labels
    )
    module = make_module(
        model_dir=tmp_path / "model",
        best_epoch_source=sources,
        save_model=True,
        validation_metrics={"confusion": metric},
    )
    make_trainer(max_epochs=3, logger=True).fit(module, make_loader(8), make_loader(8))
    written = [path.name for path in (tmp_path / "model").iterdir()]
    assert len(written) == 11  # 4 best epochs, the last, 2 summaries, 2 of the model, 2 of the metric
    assert all(any(fnmatch(name, pattern) for pattern in MODEL_DIR_FILES) for name in written)
    assert all(any(fnmatch(name, pattern) for name in written) for pattern in MODEL_DIR_FILES)
    logs = [path for path in (tmp_path / "lightning_logs").rglob("*") if path.is_file()]
    assert len(logs) >= 2
    assert all(any(path.match(pattern) for pattern in LOG_FILES) for path in logs)
