"""Which component of a LightningModule writes and reads which key."""

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl

from fuse_core import Wiring

from ..loaders.components_by_loader import LoaderComponents, of_loader
from .step_wiring import check_step_wiring


def module_wiring(
    module: pl.LightningModule, batch_dict: Mapping[str, Any], mode: str = "train", loader: str | None = None
) -> Wiring:
    """Follow the keys through one step of a module; see `LightningModuleDefault.wiring`."""
    parts: Any = module
    if mode == "predict":
        keys = getattr(parts, "prediction_keys", None) or ()
        return check_step_wiring(batch_dict, parts.model, prediction_keys=keys)
    return check_step_wiring(batch_dict, parts.model, *mode_components(module, mode, loader))


def mode_components(module: pl.LightningModule, mode: str, loader: str | None = None) -> tuple[Any, Any]:
    """The losses and the metrics of a mode and loader."""
    if mode not in ("train", "validation", "test"):
        raise ValueError(f"wiring(mode=) is 'train', 'validation', 'test' or 'predict', got {mode!r}.")
    both = mode_losses(module, mode), getattr(module, f"{mode}_metrics", None)
    losses, metrics = (_of_loader(components, mode, loader) or {} for components in both)
    return losses, metrics


def mode_losses(module: pl.LightningModule, mode: str) -> Any:
    """The losses of a mode. Test falls back to validation's losses, and those to training's; None without losses."""
    own = {"validation": ["validation_losses"], "test": ["test_losses", "validation_losses"]}.get(mode, [])
    groups = [getattr(module, name, None) for name in (*own, "losses")]
    return next((losses for losses in groups if losses is not None), None)


def _of_loader(components: Any, mode: str, loader: str | None) -> Any:
    if isinstance(components, LoaderComponents) and (loader is None or loader not in components):
        names = ", ".join(map(repr, components))
        raise ValueError(
            f"Losses or metrics of {mode} differ between loaders: wiring(loader=) is one of {names}, got {loader!r}."
        )
    return components if components is None else of_loader(components, loader)
