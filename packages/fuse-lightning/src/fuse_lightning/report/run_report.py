"""The callback that writes the page of a run."""

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from fuse_core import SAMPLE_ID

from ..checkpoints.atomic_file import replace_file
from .png import png_bytes
from .run_page import DATA_FILE, environment, write_run_page

WORST_CASES = 24


class RunReport(Callback):
    """Writes a page of results, `index.html`, to the run folder: one file that needs no network.

    After training it shows the learning curves, the best and the last epoch, the wiring, and the environment. After
    testing it also shows the test's values. After prediction, `predictions.csv` in the same folder adds accuracy,
    confusion matrix, scores of each class, and calibration; and images the worst cases. The page's data is kept in
    `report.json`.

    Args:
        run_dir: the run folder.
        pred: the key of predicted probabilities of classes, [B, C]; None takes the only one in `predictions.csv`.
        target: the key of the true classes, [B]; None takes the only one in `predictions.csv`.
        class_names: the names of the classes; None numbers them.
        image: the key of images, [B, 1, H, W] or [B, 3, H, W], for the worst cases. It needs `pred` and `target`.
        title: the heading of the page.

    Example:
        >>> report = RunReport("runs/digits", pred="model.output.digit", target="data.label")
        >>> report.run_dir.name
        'digits'
    """

    def __init__(
        self,
        run_dir: str | Path,
        pred: str | None = None,
        target: str | None = None,
        class_names: Sequence[str] | None = None,
        image: str = "data.image",
        title: str = "Training run",
    ) -> None:
        self.run_dir = Path(run_dir)
        self.pred, self.target, self.class_names, self.image = pred, target, class_names, image
        self.title = title
        self.epochs: dict[int, dict[str, float]] = {}
        self._trainer: pl.Trainer | None = None
        self._epoch = 0  # Lightning counts on before training ends
        self._validated = False
        self._wiring: dict[str, Any] | None = None
        self._worst: list[dict[str, Any]] = []

    def state_dict(self) -> dict[str, Any]:
        """The values of all epochs."""
        if self._trainer is not None:
            self._note_epoch(self._trainer)
        return {"epochs": self.epochs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self.epochs = state_dict["epochs"]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the epoch before, which is complete by now."""
        if self._trainer is not None:
            self._note_epoch(trainer)
        self._trainer, self._epoch = trainer, trainer.current_epoch
        self._validated = False

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note the wiring of the first batch."""
        wiring_of: Any = getattr(pl_module, "wiring", None)
        if self._wiring is None and callable(wiring_of):
            wiring = wiring_of(batch)
            self._wiring = {
                "writers": dict(wiring.writers),
                "readers": {key: list(by) for key, by in wiring.readers.items()},
            }

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note that the epoch has values of validation."""
        self._validated = not trainer.sanity_checking

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the last epoch, and write the page."""
        if self._trainer is not None:
            self._note_epoch(trainer)
        self._trainer = None
        best: Any = next((one for one in trainer.checkpoint_callbacks if getattr(one, "monitor", None)), None)
        monitor = {} if best is None else {"monitor": best.monitor, "mode": best.mode}
        self._write(trainer, epochs=self.epochs, wiring=self._wiring, **monitor)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the values of the test."""
        values = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("test")}
        self._write(trainer, test=values)

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the images of the worst cases."""
        keys = class_keys(outputs, self.pred, self.target) if isinstance(outputs, Mapping) else None
        if keys is None or self.image not in batch:
            return
        probabilities, target, images = outputs[keys[0]], outputs[keys[1]], batch[self.image]
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            return
        of_target = probabilities.float().gather(1, target.long()[:, None])[:, 0]
        values, positions = of_target.topk(min(WORST_CASES, len(of_target)), largest=False)
        for value, position in zip(values.tolist(), positions.tolist(), strict=True):
            if len(self._worst) < WORST_CASES or value < self._worst[-1]["probability"]:
                png = base64.b64encode(png_bytes(images[position].float().cpu().numpy())).decode("ascii")
                case = {
                    "id": str(outputs[SAMPLE_ID][position]),
                    "probability": value,
                    "target": int(target[position]),
                    "predicted": int(probabilities[position].argmax()),
                    "png": png,
                }
                self._worst = sorted([*self._worst, case], key=lambda one: one["probability"])[:WORST_CASES]

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget the cases of an earlier prediction."""
        self._worst = []

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Add the predictions, when every callback has written its file."""
        if stage == "predict":
            self._write(trainer, worst=self._worst)

    def _note_epoch(self, trainer: pl.Trainer) -> None:
        values = {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if torch.as_tensor(value).numel() == 1 and (self._validated or not name.startswith("val"))
        }
        if values:
            self.epochs[self._epoch] = values

    def _write(self, trainer: pl.Trainer, **changed: Any) -> None:
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        path = self.run_dir / DATA_FILE
        data = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"epochs": {}}
        data.update(changed, title=self.title, environment=environment())
        with replace_file(path) as file:
            file.write(json.dumps(data).encode())
        write_run_page(self.run_dir, self.pred, self.target, self.class_names)


def class_keys(outputs: Mapping[str, Any], pred: str | None, target: str | None) -> tuple[str, str] | None:
    """The keys of predicted probabilities and of true classes; None if they are missing, or could be several."""
    tensors = {key: value for key, value in outputs.items() if isinstance(value, torch.Tensor)}
    probabilities = [
        key
        for key, value in tensors.items()
        if pred in (None, key)
        and value.ndim == 2
        and value.is_floating_point()
        and torch.allclose(value.float().sum(1), torch.ones(len(value), device=value.device), atol=1e-2)
    ]
    targets = [
        key
        for key, value in tensors.items()
        if target in (None, key) and value.ndim == 1 and not value.is_floating_point() and key != SAMPLE_ID
    ]
    return (probabilities[0], targets[0]) if len(probabilities) == len(targets) == 1 else None
