"""The callback that writes the page of a run."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from fuse_core import SAMPLE_ID, WiringError

from ..checkpoints.atomic_file import replace_file
from ..predictions.compared_keys import compared_keys, names_of_classes, tasks_of
from ..run_folder import PREDICTIONS_FILE, make_writable
from .run_page import DATA_FILE, environment, time_written, write_run_page
from .worst_cases import MOST, cases_of_batch


class RunReport(Callback):
    """Writes a page of results, `index.html`, to the run folder: one file that needs no network.

    It shows the learning curves, the best and the last epoch, the wiring, and the environment, and grows with each
    epoch of the training. Values of an earlier test or prediction belong to another model and are removed. After
    testing it also shows the test's values. After prediction, a new `predictions.csv` in the same folder, such as
    `PredictionsToFile` writes, adds for each prediction with a target:

    - classes: accuracy, confusion matrix, scores of each class, and the calibration of probabilities;
    - segmentations: the Dice of each class over images and over pixels, and the confusion matrix of pixels;
    - labels: precision, recall, F1 and AUROC of each label;
    - numbers: errors, and a chart of predicted against true numbers.

    Images add the worst cases of classes and segmentations, of the first process. The page's data is kept in
    `report.json`.

    Args:
        run_dir: the run folder.
        pred: the key of the prediction to compare; None takes all.
        target: the key of its target; None takes what the losses and metrics compare. If they compare nothing, it takes
            the only target.
        class_names: the names of the classes; None takes those of the metrics, or numbers the classes.
        image: the key of images, [B, C, H, W] or [B, C, D, H, W], for the worst cases. One or three channels are drawn,
            of others the first.
        title: the heading of the page.

    Raises:
        OSError: when training, testing or predicting starts, nothing can be written to `run_dir`.

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
        self.run_dir = Path(run_dir).expanduser()
        self.pred, self.target, self.class_names, self.image = pred, target, class_names, image
        self.title = title
        self.epochs: dict[int, dict[str, float]] = {}
        self._trainer: pl.Trainer | None = None
        self._epoch = 0  # Lightning counts on before training ends
        self._epoch_ended = False
        self._validated = False
        self._wiring: dict[str, Any] | None = None
        self._compared: dict[str, str] = {}
        self._class_names: dict[str, Sequence[str]] = {}
        self._earlier_predictions: int | None = None
        self._worst: dict[str, list[dict[str, Any]]] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Make the run folder, so that a folder that cannot be written does not end the training after an epoch."""
        if stage != "validate" and trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            make_writable(self.run_dir)

    def state_dict(self) -> dict[str, Any]:
        """The values of all epochs. An epoch that has not ended has only those of its validation."""
        self._note_epoch()
        return {"epochs": self.epochs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self.epochs = state_dict["epochs"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget the epochs of an earlier training, unless it is continued."""
        if not trainer.global_step:
            self.epochs, self._wiring = {}, None
        # The epoch inside which a training continues has no start.
        self._start_epoch(trainer)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the page of the epochs before, which are complete by now."""
        if self._epoch_ended:
            self._note_epoch()
            self._write_training(trainer)
        self._start_epoch(trainer)

    def _start_epoch(self, trainer: pl.Trainer) -> None:
        self._trainer, self._epoch = trainer, trainer.current_epoch
        self._epoch_ended = self._validated = False

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note the wiring of the first batch."""
        wiring_of: Any = getattr(pl_module, "wiring", None)
        if self._wiring is None and callable(wiring_of):
            try:
                wiring = wiring_of(batch)
            except WiringError:  # the module's own check decides whether to train
                self._wiring = {}
                return
            self._wiring = {
                "writers": dict(wiring.writers),
                "readers": {key: list(by) for key, by in wiring.readers.items()},
            }

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note that the epoch has values of validation."""
        self._validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note that the epoch has ended. Its values are logged after this."""
        self._epoch_ended = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the last epoch, and write the page."""
        self._note_epoch()
        self._trainer, self._epoch_ended = None, False
        self._write_training(trainer)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the values of the test."""
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self._write(trainer, test=values)

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note what the losses and metrics compare, and forget the cases of an earlier prediction."""
        self._compared, self._worst, self._class_names = compared_keys(pl_module), {}, {}
        self._earlier_predictions = time_written(self.run_dir / PREDICTIONS_FILE)

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
        if not isinstance(outputs, Mapping):
            return
        for task in tasks_of(outputs, self._compared, self.pred, self.target):
            names = self.class_names or names_of_classes(pl_module, task.target)
            if names:
                self._class_names[task.pred] = list(names)
            images = batch.get(self.image) if isinstance(batch, Mapping) else None
            if not (isinstance(images, torch.Tensor) and images.ndim in (4, 5)):
                continue
            worst = self._worst.get(task.pred, [])
            is_full = bool(worst) and len(worst) == MOST[worst[0]["kind"]]
            below = worst[-1]["value"] if is_full else float("inf")
            ids = outputs.get(SAMPLE_ID) or range(len(images))
            if found := cases_of_batch(task, outputs, images, ids, below):
                cases = sorted([*worst, *found], key=lambda case: case["value"])
                self._worst[task.pred] = cases[: MOST[cases[0]["kind"]]]

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Add the predictions, when every callback has written its file."""
        if stage == "predict":
            self._write(
                trainer,
                worst=self._worst,
                compared=self._compared,
                class_names=self._class_names,
                earlier_predictions=self._earlier_predictions,
            )

    def _note_epoch(self) -> None:
        """Note the values of the epoch so far, not those that are still of the epoch before."""
        if self._trainer is None:
            return
        values = {
            name: float(value)
            for name, value in self._trainer.callback_metrics.items()
            if torch.as_tensor(value).numel() == 1
            and (self._validated if name.startswith("val") else self._epoch_ended)
        }
        if values:
            self.epochs[self._epoch] = values

    def _write_training(self, trainer: pl.Trainer) -> None:
        best: Any = next((one for one in trainer.checkpoint_callbacks if getattr(one, "monitor", None)), None)
        monitor = {} if best is None else {"monitor": best.monitor, "mode": best.mode}
        score = getattr(best, "best_model_score", None)
        if score is not None:
            monitor["best_score"] = float(score)
        self._write(trainer, {}, epochs=self.epochs, wiring=self._wiring, **monitor)

    def _write(self, trainer: pl.Trainer, data: dict[str, Any] | None = None, /, **changed: Any) -> None:
        """Write the page with changed data; None changes that of `report.json`."""
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        path = self.run_dir / DATA_FILE
        if data is None:
            data = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"epochs": {}}
        data.update(changed, title=self.title, environment=environment())
        with replace_file(path) as file:
            file.write(json.dumps(data).encode())
        write_run_page(self.run_dir, self.pred, self.target)
