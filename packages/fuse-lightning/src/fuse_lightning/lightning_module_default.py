"""The LightningModule to train a model that works on a batch_dict."""

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar, cast, get_args

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, StochasticWeightAveraging, WeightAveraging
from pytorch_lightning.plugins.precision import DoublePrecision
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from fuse_core import GLOBAL_STEP, SAMPLE_ID, ContractError, NDict, Wiring, WiringError

from .checkpoints.best_epoch_source import BestEpochSource
from .checkpoints.hyperparameters import keep_plain_values
from .checkpoints.model_export import check_only_tensors, save_best_or_last_model
from .checkpoints.state_dict_names import fitting_state_dict, is_of_fusemedml
from .checks.closure_optimizers import check_accumulation, closure_callback
from .checks.module_contract import CheckMode, check_first_batch, check_is_real
from .checks.module_wiring import mode_losses, module_wiring
from .checks.monitors import check_monitors, names_to_log
from .checks.nonfinite_losses import NonFiniteLosses, NonFinitePolicy
from .checks.replaced_hooks import warn_of_replaced_hooks
from .default_callbacks import callbacks_for_trainer, model_default_callbacks
from .epoch_ends import epoch_end_compute_and_log_losses, epoch_end_compute_and_log_metrics, log_reduced
from .evaluation import Evaluation
from .loaders.components_by_loader import LoaderComponents, PerLoader, register_components
from .loaders.empty_loaders import check_loaders_have_batches
from .loaders.resumable_loader import refuse_shuffling, warn_of_loaders
from .losses.epoch_losses import EpochLosses, batch_losses
from .metrics.mode_metrics import register_metrics
from .progress_bar import shorten_progress_bar
from .step_functions import step_extract_predictions, step_losses, step_metrics
from .training_epoch import EPOCH_SUMS, TrainingEpoch, begin_next_epoch

LogUnit = Literal["optimizer_step", "epoch"]

COMPONENTS = ("losses", "validation_losses", "test_losses", "train_metrics", "validation_metrics", "test_metrics")

# Not Any: the command line reads from this type that an optimizer in YAML comes without its parameters.
OptimizersAndSchedules: TypeAlias = (
    Callable[[pl.LightningModule], Any] | torch.optim.Optimizer | Mapping[str, Any] | Sequence[Any]
)
"""A result of `LightningModule.configure_optimizers`, or a function of the module that returns one."""


Function = TypeVar("Function", bound=Callable[..., Any])


def _not_compiled(step: Function) -> Function:
    """Leaves a step to Python with `torch.compile(module)`: it would be compiled again for each step's number.

    `forward`, which the step calls, is compiled.
    """
    not_compiled = torch.compiler.disable(step)  # type: ignore[no-untyped-call]

    @functools.wraps(step)  # a method around it: torch 2.6 loses `self` of one that it does not compile
    def method(*args: Any, **kwargs: Any) -> Any:
        return not_compiled(*args, **kwargs)

    return cast(Function, method)


class LightningModuleDefault(pl.LightningModule):
    """Trains, validates, tests and predicts with a model, losses and metrics that work on a batch_dict.

    Each step passes the batch_dict through the model, the losses and the metrics; the sum of the losses is minimized.
    At an epoch's end, `<mode>.losses.<name>`, `<mode>.losses.total_loss` and `<mode>.metrics.<name>` are logged. The
    mode is `train`, `validation` or `test`. Losses are means, over all processes, of what they counted: see
    `step_losses`. A loss that does not tell it is weighted by the batches' samples.

    During training, the means of the losses since the last log appear every `Trainer(log_every_n_steps=)` steps, as
    `train.losses.<name>_step` in loggers and in the progress bar, without blocking on a GPU. The bar shows the total as
    `loss`, then `progress_bar_metrics`, then single losses as far as they fit into the terminal.
    In distributed training these are the first process's.

    Before the first step on a loader, its first batch is checked: are all keys there that model, losses and metrics
    read? Before training, copies of them also run on fake tensors like the first batch, to find shapes, dtypes and
    gradients that do not fit; see `check_module_contract`. Problems that may be meant are warnings.

    **Several loaders** for validation or test have names: those of the mapping of loaders given to the Trainer, or
    those that losses and metrics use, in order, or else `loader_0`, `loader_1`. Logged names are then
    `validation.<loader>.losses.<name>`. Losses and metrics given by name are used for every loader. To use different
    ones, give `{loader: {name: loss}}`, or a list of `(loader, {name: loss})`.

    Args:
        model_dir: the folder for checkpoints and the epoch summary. None writes neither, as for prediction and test; a
            training then has the checkpoint that Lightning writes to the Trainer's folder.
        model: takes a batch_dict and returns it with its outputs added.
        losses: losses by name. None or an empty mapping for prediction, and for tests by metrics alone.
        validation_losses: losses for validation and test; None takes `losses`.
        train_metrics: metrics by name, such as `MetricDefault`, or objects with FuseMedML's `collect`, `eval` and
            `reset`. A metric that is also given for validation, or for several loaders, is copied.
        validation_metrics: as `train_metrics`.
        test_metrics: as `train_metrics`.
        optimizers_and_lr_schs: the result of `LightningModule.configure_optimizers`, or a function of this module that
            returns it. Only needed for training.
        callbacks: callbacks beside the default ones.
        best_epoch_source: see `model_default_callbacks`.
        prediction_keys: the keys that `predict` returns, beside `data.sample_id`; see `set_predictions_keys`.
        save_hyperparameters_kwargs: arguments for a call of `save_hyperparameters`; None does not call it. Checkpoints
            and logs hold only plain values: numbers, strings, tensors, and collections of them.
        save_model: at the end of training, write the model's weights of the best epoch to `model.safetensors`, and a
            description to `model.md`. Without a best epoch, the last one is written.
        on_nonfinite: what to do if a step's total loss is NaN or infinite. `"raise"` stops and names losses, step and
            samples; on a GPU a few steps later, because the check does not wait for the device, but before a checkpoint
            is written. `"skip"` warns and leaves the process's batch out of the gradient, the model's buffers and the
            logged losses. Training metrics still include it, and an optimizer with momentum or weight decay still
            changes the weights. `"ignore"` does not check.
        tensorboard_sep: the separator in logged names; `"/"` groups them in TensorBoard.
        log_unit: the x-axis of loggers: None or `"optimizer_step"` for steps, or `"epoch"`.
        test_losses: losses for test; None takes `validation_losses`.
        log_counted: also log how much each loss counted in the epoch, as `<mode>.counted.<name>`.
        progress_bar_metrics: logged names, such as `"validation.metrics.auc"`, that the progress bar shows beside the
            training losses.
        save_every_n_steps: also write `last.ckpt` after so many optimizer steps.
        save_every_minutes: also write `last.ckpt` after so many minutes.
        check: what to check on first batches: `"contract"`, `"wiring"` for keys only, or `"off"`. Of a module with a
            `training_step` or `forward` of its own, and with several processes, only the keys are checked.

    Raises:
        TypeError: a loss or metric is not a module, or `best_epoch_source` has an argument that ModelCheckpoint lacks.
        ValueError: a reserved name, an unknown option, a wrong `best_epoch_source`, or no `model_dir` where an option
            needs it.

    Example:
        >>> class Model(nn.Linear):
        ...     reads, writes = ("data.features",), ("model.logits.cls",)
        ...
        ...     def forward(self, batch_dict):
        ...         batch_dict["model.logits.cls"] = super().forward(batch_dict["data.features"])
        ...         return batch_dict
        >>> class Loss(nn.Module):
        ...     reads = ("model.logits.cls", "data.label")
        ...
        ...     def forward(self, batch_dict):
        ...         return nn.functional.cross_entropy(*(batch_dict[key] for key in self.reads))
        >>> module = LightningModuleDefault(
        ...     model_dir=None,  # writes no checkpoints
        ...     model=Model(5, 2),
        ...     losses={"cls": Loss()},
        ...     optimizers_and_lr_schs=lambda module: torch.optim.Adam(module.parameters(), lr=0.1),
        ... )
        >>> batch = NDict({"data.features": torch.randn(16, 5), "data.label": torch.randint(2, (16,))})
        >>> print(module.wiring(batch))
        key                written by            read by
        data.features      the batch             Model 'model'
        data.label         the batch             Loss 'losses.cls'
        global_step        the batch             -
        model.logits.cls   Model 'model'         Loss 'losses.cls'
        losses.cls         step_losses 'losses'  -
        losses.total_loss  step_losses 'losses'  -

        Train it with `Trainer(...).fit(module, loader)`, where the loader yields such batches.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        warn_of_replaced_hooks(cls, LightningModuleDefault)

    def __init__(
        self,
        model_dir: str | Path | None,
        model: nn.Module,
        losses: Mapping[str, nn.Module] | None = None,
        *,
        validation_losses: PerLoader | None = None,
        train_metrics: Mapping[str, Any] | None = None,
        validation_metrics: PerLoader | None = None,
        test_metrics: PerLoader | None = None,
        optimizers_and_lr_schs: OptimizersAndSchedules | None = None,
        callbacks: Sequence[Callback] | None = None,
        best_epoch_source: BestEpochSource | None = None,
        prediction_keys: Sequence[str] | None = None,
        save_hyperparameters_kwargs: Mapping[str, Any] | None = None,
        save_model: bool = False,
        on_nonfinite: NonFinitePolicy = "raise",
        tensorboard_sep: str = ".",
        log_unit: LogUnit | None = None,
        test_losses: PerLoader | None = None,
        log_counted: bool = False,
        progress_bar_metrics: Sequence[str] | None = None,
        save_every_n_steps: int | None = None,
        save_every_minutes: float | None = None,
        check: CheckMode = "contract",
    ) -> None:
        super().__init__()
        if save_hyperparameters_kwargs is not None:
            self.save_hyperparameters(**save_hyperparameters_kwargs)
            keep_plain_values(self.hparams)
            self._hparams_initial = copy.deepcopy(self.hparams)  # for loggers: CSVLogger pickles objects
        _check_option("on_nonfinite", on_nonfinite, get_args(NonFinitePolicy))
        _check_option("log_unit", log_unit, (None, *get_args(LogUnit)))
        _check_option("check", check, get_args(CheckMode))
        self._check = check
        self.model_dir = None if model_dir is None else Path(model_dir).expanduser()
        self.model = model
        self.losses = register_components("losses", losses)
        # Shared losses are registered once, so that a checkpoint holds them once.
        self.validation_losses = (
            None if validation_losses is None else register_components("validation_losses", validation_losses)
        )
        self.test_losses = None if test_losses is None else register_components("test_losses", test_losses)
        self.train_metrics = register_metrics("train_metrics", train_metrics)
        self.validation_metrics = register_metrics("validation_metrics", validation_metrics, [self.train_metrics])
        self.test_metrics = register_metrics("test_metrics", test_metrics)
        for argument in ("losses", "train_metrics"):
            if isinstance(getattr(self, argument), LoaderComponents):
                raise TypeError(
                    f"LightningModuleDefault({argument}=) takes components by name: training has one loader."
                )
        self._optimizers_and_lr_schs = optimizers_and_lr_schs
        self._callbacks = list(callbacks or ())
        self._attached_callbacks: list[Callback] = []
        self._best_epoch_source = best_epoch_source
        self._save_every: dict[str, Any] = {
            "save_every_n_steps": save_every_n_steps,
            "save_every_minutes": save_every_minutes,
        }
        model_default_callbacks(model_dir, best_epoch_source, **self._save_every)  # a wrong argument fails here
        self.prediction_keys: tuple[str, ...] | None = None
        if prediction_keys is not None:
            self.set_predictions_keys(prediction_keys)
        if save_model:
            if model_dir is None:
                raise ValueError("save_model=True needs model_dir, the folder for model.safetensors; got None.")
            check_only_tensors(model.state_dict())
        self._save_model = save_model
        self._sep = tensorboard_sep
        self._log_unit = log_unit
        self._log_counted = log_counted
        if isinstance(progress_bar_metrics, str):
            raise TypeError(
                f"LightningModuleDefault(progress_bar_metrics=) takes a sequence of names; got the string "
                f"{progress_bar_metrics!r}."
            )
        self.lr: float | None = None  # set by Tuner.lr_find, and read by ConfigureOptimizers
        self._progress_bar_metrics = tuple(progress_bar_metrics or ())
        self._training = TrainingEpoch(tensorboard_sep)
        self._closure_callback: Any = None  # see `closure_optimizers`
        self._warned_of_loader = False
        self._evaluations = {mode: Evaluation(mode) for mode in ("validation", "test")}
        self._nonfinite_losses = NonFiniteLosses(on_nonfinite)
        self._train_ended = False
        self._plateaus_updated = False
        self._checked_wiring: set[tuple[str, int]] = set()
        self._first_step = False  # after a check of shapes
        self._expected_failure: ContractError | None = None  # of the first step

    # ------------------------------------------------------------------------------------------------------- the steps

    def forward(self, batch_dict: Mapping[str, Any]) -> NDict:
        """The batch_dict with `global_step` and the model's outputs added. Any mapping is accepted.

        Raises:
            TypeError: the model did not return a batch_dict.
        """
        if not isinstance(batch_dict, NDict) or GLOBAL_STEP not in batch_dict:
            batch_dict = self._with_global_step(batch_dict)
        result = self.model(batch_dict)
        if not isinstance(result, Mapping):
            raise TypeError(
                f"The model must return the batch_dict with its outputs added, but {type(self.model).__name__} "
                f"returned a {type(result).__name__}. Return the batch_dict, or wrap a model of tensors in "
                f"ModelWrapSeqToDict."
            )
        return _as_ndict(result)

    def _with_global_step(self, batch_dict: Mapping[str, Any]) -> NDict:
        batch_dict = _as_ndict(batch_dict)
        batch_dict[GLOBAL_STEP] = self.global_step
        return batch_dict

    @_not_compiled
    def training_step(self, batch_dict: Mapping[str, Any], batch_idx: int) -> Tensor:
        """The sum of the losses of one batch."""
        expected = self._expected_failure
        try:
            total = self._train_on(batch_dict, batch_idx)
        except Exception as error:
            if expected is None:
                raise
            raise expected from error
        if expected is not None:
            self._expected_failure = None
        return total

    def _train_on(self, batch_dict: Mapping[str, Any], batch_idx: int) -> Tensor:
        self._nonfinite_losses.before_forward(self.model.buffers())
        result = self(self._with_global_step(batch_dict))
        total = step_losses(self.losses, result)
        if self._first_step:
            check_is_real(total, LightningModuleDefault)
            self._first_step = False
        losses = batch_losses(result)
        counts = self._nonfinite_losses.watch(losses, self.global_step, result.get(SAMPLE_ID))
        if self._is_first_pass(batch_idx):
            self._training.losses.update(result, counts=counts, losses=losses)
            step_metrics(self.train_metrics, result)
        return total

    def _is_first_pass(self, batch_idx: int) -> bool:
        """Whether the batch is evaluated at the current weights. SAM evaluates it again, at moved weights."""
        if self._closure_callback is not None:
            return not self._closure_callback.repeated_pass
        is_first_pass = batch_idx != self._training.last_batch
        self._training.last_batch = batch_idx
        return is_first_pass

    def on_after_backward(self) -> None:
        """Stop guarding gradients and buffers against this batch's losses."""
        self._nonfinite_losses.after_backward()

    @_not_compiled
    def validation_step(self, batch_dict: Mapping[str, Any], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Update losses and metrics with one batch."""
        self._evaluations["validation"][dataloader_idx].step(self, self._with_global_step(batch_dict))

    @_not_compiled
    def test_step(self, batch_dict: Mapping[str, Any], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Update losses and metrics with one batch."""
        self._evaluations["test"][dataloader_idx].step(self, self._with_global_step(batch_dict))

    @_not_compiled
    def predict_step(self, batch_dict: Mapping[str, Any], batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """The predictions of one batch: `data.sample_id` and the prediction keys."""
        return step_extract_predictions(self.prediction_keys or (), self(self._with_global_step(batch_dict)))

    def set_predictions_keys(self, keys: Sequence[str]) -> None:
        """Set the keys that `predict` returns, beside `data.sample_id`."""
        if isinstance(keys, str):
            raise TypeError(f"prediction_keys takes a sequence of keys, got the string {keys!r}. Use [{keys!r}].")
        self.prediction_keys = tuple(keys)

    # ------------------------------------------------------------------------------------------------------ the wiring

    def wiring(self, batch_dict: Mapping[str, Any], mode: str = "train", loader: str | None = None) -> Wiring:
        """Which component writes and reads which key in a step: to print, to draw or to check.

        Args:
            batch_dict: a batch as the loader gives it.
            mode: `"train"`, `"validation"`, `"test"` or `"predict"`.
            loader: the name of a loader, if losses or metrics differ between loaders.

        Raises:
            ValueError: an unknown `mode`, or a `loader` that losses or metrics do not name.
            WiringError: a key is read that nothing provides.
        """
        return module_wiring(self, batch_dict, mode, loader)

    def _check_wiring(self, mode: str, batch_dict: Mapping[str, Any], loader_idx: int = 0) -> None:
        """Check the first batch of a loader."""
        if (mode, loader_idx) in self._checked_wiring or self._check == "off":
            return
        batch_dict = _as_ndict(batch_dict)
        self._checked_wiring.add((mode, loader_idx))
        evaluation = self._evaluations.get(mode)
        loader = None if evaluation is None else evaluation[loader_idx].log_prefix.partition(".")[2]
        if mode == "train" and self._check == "contract":
            self._first_step = True
            self._expected_failure = check_first_batch(self, LightningModuleDefault, batch_dict)
        self.wiring(batch_dict, mode, loader)
        if mode == "train" and self.prediction_keys is not None:
            self._warn_of_prediction_keys(batch_dict)

    def _warn_of_prediction_keys(self, batch_dict: Mapping[str, Any]) -> None:
        """Warn before a long training of prediction keys that nothing writes; predict may get other batches."""
        try:
            self.wiring(batch_dict, "predict")
        except WiringError as error:
            rank_zero_warn(f"With batches like those of training, predict would fail. {error}")

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Check the wiring on the first batch."""
        self._check_wiring("train", batch)

    def on_validation_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Check the wiring on the first batch."""
        self._check_wiring("validation", batch, dataloader_idx)

    def on_test_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Check the wiring on the first batch."""
        self._check_wiring("test", batch, dataloader_idx)

    def on_predict_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Check the wiring on the first batch."""
        self._check_wiring("predict", batch, dataloader_idx)

    # ------------------------------------------------------------------------------------------------------ the epochs

    def setup(self, stage: str) -> None:
        """Check the wiring again: losses, metrics and loaders may have changed since the last run."""
        self._checked_wiring.clear()
        self._training.continue_with(None)
        self._evaluations = {mode: Evaluation(mode) for mode in ("validation", "test")}

    def on_fit_start(self) -> None:
        """Check before training what would fail later.

        Raises:
            ValueError: no losses, see `check_accumulation`, or `on_nonfinite="skip"` does not work with the strategy.
        """
        if not self.losses:
            raise ValueError("Training needs a loss. Give LightningModuleDefault(losses={name: loss}).")
        self._train_ended = False
        self._closure_callback = closure_callback(self.trainer)
        shorten_progress_bar(self, self._training.running.names)
        check_accumulation(self.trainer)
        self._nonfinite_losses.check_strategy(self.trainer.strategy)

    def on_train_start(self) -> None:
        """Check that validation has batches and that monitored values will be logged; see `check_monitors`."""
        if self.trainer.enable_validation and self.trainer.val_dataloaders is None:  # the first epoch has no validation
            self.trainer.validating = True
            self.trainer.fit_loop.epoch_loop.val_loop.setup_data()
            self.trainer.training = True
        check_loaders_have_batches(self.trainer, "validate")
        refuse_shuffling(self.trainer)
        self._check_monitors()
        self._start_training_epoch()  # Lightning skips the hook below in an epoch that is resumed inside
        begin_next_epoch(self.trainer.fit_loop)
        self._training.resume(self)

    def on_train_epoch_start(self) -> None:
        """Reset losses and metrics."""
        self._start_training_epoch()

    def on_train_epoch_end(self) -> None:
        """Log the epoch."""
        self._nonfinite_losses.check(wait=True)
        self._log_running_losses(wait=True)
        self._training.end(self)
        self._log_epoch("train", self._training.losses, self.train_metrics)
        self._log_unit_of_epoch()
        loop = self.trainer.fit_loop.epoch_loop
        if loop.batch_progress.is_last_batch:  # before callbacks write checkpoints; Lightning's update comes after them
            loop.update_lr_schedulers("epoch", update_plateau_schedulers=True)
            self._plateaus_updated = True

    def lr_scheduler_step(self, scheduler: Any, metric: Any | None) -> None:
        """Update a scheduler; one that follows a metric only once at an epoch's end."""
        if not (self._plateaus_updated and isinstance(scheduler, ReduceLROnPlateau)):
            super().lr_scheduler_step(scheduler, metric)

    def on_train_end(self) -> None:
        """Write the model with `save_model=True`."""
        self._train_ended = True
        self._nonfinite_losses.stop()
        if self._save_model and self.model_dir and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            save_best_or_last_model(self.trainer, self.model_dir, self.model)

    def on_fit_end(self) -> None:
        """End a training that was killed after its last checkpoint: with no step left, Lightning skips the hooks."""
        if self._train_ended or self.trainer.limit_train_batches == 0:
            return
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]  # set by one of its connectors
            # With batch normalization, an epoch follows the copy: the checkpoint already holds the mean.
            is_swa = isinstance(callback, StochasticWeightAveraging)
            if isinstance(callback, WeightAveraging) or (is_swa and not callback.pl_module_contains_batch_norm(self)):
                callback.on_train_end(self.trainer, self)  # copies the mean weights to the module
        self.on_train_end()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log the losses' means since the last log, if it is time."""
        self._log_running_losses()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the sums of the epoch so far. No checkpoint is written after a loss that is not finite."""
        self._nonfinite_losses.check(wait=True)
        checkpoint[EPOCH_SUMS] = self._training.states(self)
        if not self._warned_of_loader:
            self._warned_of_loader = warn_of_loaders(self.trainer)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the sums of an epoch that is resumed inside, and fit the names to this module.

        Losses and metrics in the checkpoint are left out if the module has none. FuseMedML's checkpoints are taken, but
        not to resume a training.

        Raises:
            ValueError: a training would be resumed from a checkpoint of FuseMedML.
        """
        self._training.continue_with(checkpoint.get(EPOCH_SUMS))
        if self._trainer is not None and isinstance(self._trainer.precision_plugin, DoublePrecision):
            self.double()  # Lightning loads the weights before it converts the module, and would round them
        resumes = self._trainer is not None and self._trainer.state.fn == TrainerFn.FITTING
        if resumes and is_of_fusemedml(checkpoint["state_dict"]):
            raise ValueError(
                "The checkpoint is FuseMedML's: its optimizer does not fit. Give its weights to the model, with "
                "fuse_models.load_weights(model, path), and train without ckpt_path."
            )
        left_out = [name for name in COMPONENTS if not getattr(self, name)]
        checkpoint["state_dict"] = fitting_state_dict(checkpoint["state_dict"], self.state_dict(), left_out)

    def on_validation_epoch_start(self) -> None:
        """Reset losses and metrics."""
        self._start_evaluation("validation")

    def on_validation_epoch_end(self) -> None:
        """Log the epoch."""
        self._log_evaluation("validation")

    def on_validation_end(self) -> None:
        """Show the chosen metrics in the progress bar."""
        self._show_chosen_values()

    def on_test_epoch_start(self) -> None:
        """Reset losses and metrics."""
        self._start_evaluation("test")

    def on_test_epoch_end(self) -> None:
        """Log the epoch."""
        self._log_evaluation("test")

    def on_predict_start(self) -> None:
        """Check that there are keys to predict.

        Raises:
            ValueError: no prediction keys.
        """
        if self.prediction_keys is None:
            raise ValueError(
                "Predicting needs the keys to return. Give LightningModuleDefault(prediction_keys=[...]) or call "
                "set_predictions_keys([...])."
            )

    def teardown(self, stage: str) -> None:
        """Refuse loaders without batches, which Lightning skips silently."""
        check_loaders_have_batches(self.trainer, stage)

    def _log_running_losses(self, wait: bool = False) -> None:
        if self._training.running.log(self.trainer, wait):
            self._show_chosen_values()

    def _show_chosen_values(self) -> None:
        logged = self.trainer.callback_metrics if self._progress_bar_metrics else {}
        shown = {name: float(logged[name]) for name in self._progress_bar_metrics if name in logged}
        self.trainer.progress_bar_metrics.update(shown)

    def _log_evaluation(self, mode: str) -> None:
        for loader in self._evaluations[mode]:
            self._log_epoch(loader.log_prefix, loader.epoch_losses, loader.metrics)
        self._log_unit_of_epoch()

    def _log_epoch(self, prefix: str, losses: EpochLosses, metrics: nn.ModuleDict) -> None:
        folder = None if self.trainer.fast_dev_run else self.model_dir  # type: ignore[attr-defined]
        epoch_end_compute_and_log_losses(self, prefix, losses, self._sep, self._log_counted)
        epoch_end_compute_and_log_metrics(self, prefix, metrics, self._sep, folder)

    def _start_training_epoch(self) -> None:
        self._plateaus_updated = False
        self._training.start(self)
        self._nonfinite_losses.start(self.parameters())

    def _start_evaluation(self, mode: str) -> None:
        loaders = self.trainer.val_dataloaders if mode == "validation" else self.trainer.test_dataloaders
        if not self.trainer._evaluation_loop._is_sequential:  # a CombinedLoader whose batches hold one of each loader
            loaders = None
        metrics = getattr(self, f"{mode}_metrics")
        self._evaluations[mode].start(loaders, mode_losses(self, mode), metrics, self.device)

    def _log_unit_of_epoch(self) -> None:
        if self._log_unit == "epoch":
            log_reduced(self, "step", float(self.current_epoch))

    def _check_monitors(self) -> None:
        names = names_to_log(self.model, "train", self.losses, self.train_metrics, self._sep)
        if self.trainer.enable_validation:
            self._start_evaluation("validation")
            for loader in self._evaluations["validation"]:
                names += names_to_log(self.model, loader.log_prefix, loader.losses, loader.metrics, self._sep)
        if self._log_unit == "epoch":
            names.append("step")
        check_monitors(self, LightningModuleDefault, names, self._sep)

    # ---------------------------------------------------------------------------------------------- what Lightning asks

    def configure_optimizers(self) -> Any:
        """The value of `optimizers_and_lr_schs`, or the result of that function."""
        if self._optimizers_and_lr_schs is None:
            raise ValueError(
                "Training needs an optimizer. Give LightningModuleDefault(optimizers_and_lr_schs=) an optimizer, a "
                "dict of optimizer and lr_scheduler, or a function of the module that returns one."
            )
        if callable(self._optimizers_and_lr_schs):
            return self._optimizers_and_lr_schs(self)
        return self._optimizers_and_lr_schs

    def configure_callbacks(self) -> list[Callback]:
        """The default callbacks and those of `callbacks`, once for each Trainer."""
        present: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]  # set by one of its connectors
        if any(one is other for one in self._attached_callbacks for other in present):
            return []
        self._attached_callbacks = callbacks_for_trainer(
            self.trainer, self._callbacks, self.model_dir, best_epoch_source=self._best_epoch_source, **self._save_every
        )
        return self._attached_callbacks


def _as_ndict(batch_dict: Mapping[str, Any]) -> NDict:
    if not isinstance(batch_dict, Mapping):
        what = f"a {type(batch_dict).__name__}"
        if isinstance(batch_dict, list | tuple):
            what += f" of {len(batch_dict)} values"
        raise TypeError(
            f"Steps take a batch_dict, a mapping of keys to values, but the loader gives {what}. Wrap its dataset, "
            f"DatasetWrapSeqToDict(dataset, sample_keys=['data.image', 'data.label']), and use "
            f"DataLoader(..., collate_fn=collate); both are in fuse_core."
        )
    # Strategies that cast a batch's tensors, such as FSDP, return a plain dict.
    return batch_dict if isinstance(batch_dict, NDict) else NDict(batch_dict)


def _check_option(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    if value not in choices:
        raise ValueError(f"LightningModuleDefault({name}=) is one of {', '.join(map(repr, choices))}; got {value!r}.")
