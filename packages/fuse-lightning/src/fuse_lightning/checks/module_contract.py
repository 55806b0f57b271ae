"""Checks before a step that shapes, dtypes, devices and gradients of a module fit together."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import pytorch_lightning as pl
from pytorch_lightning.strategies import SingleDeviceStrategy
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn
from torch._subclasses import FakeTensor

from fuse_core import GLOBAL_STEP, Contract, ContractError, NDict, check_contract, number_of_samples

from .metric_inputs import wrong_inputs
from .module_wiring import mode_components, mode_losses
from .step_wiring import has_preprocessing, step_components

CheckMode = Literal["contract", "wiring", "off"]


def check_module_contract(
    module: pl.LightningModule, batch_spec: Mapping[str, Any], mode: str = "train", loader: str | None = None
) -> Contract:
    """Run the parts of a module on fake tensors, and report everything that does not fit; see `check_contract`.

    Parameters that do not require a gradient are meant to be frozen. The precision of the module's trainer is used.

    Args:
        module: has a `model`, and may have `losses`, `validation_losses`, `test_losses`, `train_metrics`,
            `validation_metrics`, `test_metrics` and `prediction_keys`, as LightningModuleDefault has them.
        batch_spec: a batch as the loader gives it, or `fuse_core.TensorSpec` by key.
        mode: `"train"`, `"validation"`, `"test"` or `"predict"`.
        loader: the name of a loader, if losses or metrics differ between loaders.

    Raises:
        ValueError: an unknown `mode`, or a `loader` that losses or metrics do not name.
        ContractError: the parts do not fit. The message lists all problems.

    Example:
        >>> from fuse_core import TensorSpec
        >>> from fuse_lightning import LightningModuleDefault
        >>> class Model(nn.Linear):
        ...     reads, writes = ("data.x",), ("model.y",)
        ...
        ...     def forward(self, batch_dict):
        ...         batch_dict["model.y"] = super().forward(batch_dict["data.x"])
        ...         return batch_dict
        >>> class Loss(nn.Module):
        ...     reads = ("model.y", "data.y")
        ...
        ...     def forward(self, batch_dict):
        ...         return nn.functional.mse_loss(batch_dict["model.y"], batch_dict["data.y"])
        >>> module = LightningModuleDefault(model_dir="run", model=Model(3, 1), losses={"mse": Loss()})
        >>> contract = check_module_contract(module, {"data.x": TensorSpec((None, 3)), "data.y": TensorSpec((None, 1))})
        >>> print(contract.keys["model.y"], contract.trained_by["Model 'model'"]["bias"])
        (B, 1) float32 ["Loss 'losses.mse'"]
    """
    return _check(module, batch_spec, mode, loader, wrong_inputs)


def _check(
    module: pl.LightningModule,
    batch_spec: Mapping[str, Any],
    mode: str,
    loader: str | None,
    check_component: Callable[..., Iterable[str]] | None,
) -> Contract:
    parts: Any = module
    prediction_keys = tuple(getattr(parts, "prediction_keys", None) or ())
    losses, metrics = ({}, {}) if mode == "predict" else mode_components(module, mode, loader)
    # Keys that are read later may be missing in training, for instance because predict gets other batches.
    read_later = [*prediction_keys, *_keys_of_evaluation(module)]
    components = step_components(parts.model, losses, metrics, predicted=() if mode == "predict" else read_later)
    only_in: dict[str, Literal["train", "eval"]]
    if mode == "train":
        trainer = getattr(module, "_trainer", None)
        evaluated = mode_losses(module, "validation") if trainer is None or trainer.enable_validation else None
        shared = {id(loss) for loss in evaluated.modules()} if isinstance(evaluated, nn.Module) else set()
        only_in = {f"losses.{name}": "train" for name, loss in losses.items() if id(loss) not in shared}
        only_in |= {f"metrics.{name}": "train" for name in metrics}
    else:
        only_in = {name: "eval" for name in components if name != "model"}
    with _precision(module):
        return check_contract(
            {name: _KeysUnknown(one) if has_preprocessing(one) else one for name, one in components.items()},
            NDict(batch_spec) | {GLOBAL_STEP: 0},
            prediction_keys=prediction_keys if mode == "predict" else (),
            frozen=[f"model.{name}" for name, one in parts.model.named_parameters() if not one.requires_grad],
            only_in=only_in,
            check_component=check_component,
        )


def _keys_of_evaluation(module: pl.LightningModule) -> Iterator[str]:
    for name in ("validation_losses", "validation_metrics", "test_losses", "test_metrics"):
        group = getattr(module, name, None)
        for component in group.modules() if isinstance(group, nn.Module) else ():
            yield from getattr(component, "reads", None) or ()


def check_first_batch(
    module: pl.LightningModule, ready_made: type, batch_dict: Mapping[str, Any]
) -> ContractError | None:
    """Check the contract of training on its first batch, where only the parts of the module decide what a step does.

    Only the keys are checked if the module has a `training_step` of its own, and with several processes or a strategy
    for them, because parts may wait for other processes.

    Problems that may be meant are warnings, such as parameters that no loss trains.

    Returns:
        What fails on fake tensors, if anything: an error to raise if the step fails as well.

    Raises:
        ContractError: the parts do not fit for certain. The message says how to train without this check.
    """
    trainer = module.trainer
    has_own_step = any(
        getattr(type(module), one) is not getattr(ready_made, one) for one in ("training_step", "forward")
    )
    is_single = isinstance(trainer.strategy, SingleDeviceStrategy) and trainer.world_size == 1
    if has_own_step or not is_single:
        return None
    for mode in ("train", "validation"):
        for name, metric in getattr(module, f"{mode}_metrics").named_children():
            for problem in wrong_inputs(f"{mode}_metrics {name!r}", metric):
                rank_zero_warn(problem)
    try:
        if number_of_samples(batch_dict):
            _check(module, batch_dict, "train", None, None)
    except ContractError as error:
        error.add_note(f"To train without this check: {ready_made.__name__}(check='wiring').")
        if error.certain:
            raise
        possible = [problem for problem in error.problems if problem not in error.failures]
        if possible:
            rank_zero_warn(f"Training goes on, with {ContractError(possible, error.notes)}\n{error.__notes__[0]}")
        return error if error.failures else None
    except Exception as error:  # a check must not stop a training that works
        rank_zero_warn(f"The contract could not be checked: {type(error).__name__}: {error}")
    return None


def check_is_real(total: Tensor, ready_made: type) -> None:
    """Raise if the sum of the losses is a fake tensor of the check: no parameter would change.

    Raises:
        RuntimeError: the message says how to mend it.
    """
    if isinstance(total, FakeTensor):
        raise RuntimeError(
            "The losses are fake tensors of the check before the first step. A function of the model, a loss or a "
            "metric keeps a tensor, such as a running mean or a window, outside of modules. Make it a buffer, or "
            f"train without this check: {ready_made.__name__}(check='wiring')."
        )


def _precision(module: pl.LightningModule) -> AbstractContextManager[Any]:
    trainer = getattr(module, "_trainer", None)
    return nullcontext() if trainer is None else trainer.precision_plugin.forward_context()


class _KeysUnknown(nn.Module):
    """A component with a `preprocess_func`, which may add keys: its keys are found by running it."""

    def __init__(self, component: Any) -> None:
        super().__init__()
        self.component = component
        self.__name__ = type(component).__name__
        if hasattr(component, "update"):
            self.update, self.compute = component.update, component.compute

    def forward(self, batch_dict: Any) -> Any:
        return self.component(batch_dict)
