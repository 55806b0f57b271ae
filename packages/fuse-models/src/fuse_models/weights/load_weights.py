"""Loads weights of many origins into a module."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from fuse_core import did_you_mean

from .match_to_module import LoadReport, MisfitError, fit_weights
from .state_dict_file import load_state_dict_file, state_dict_in


@runtime_checkable
class DownloadableWeights(Protocol):
    """A member of a torchvision weights enum, such as `torchvision.models.ResNet18_Weights.DEFAULT`."""

    def get_state_dict(self, *, progress: bool, check_hash: bool) -> Mapping[str, Tensor]:
        """The state dict, from the cache or the internet."""


Weights = Mapping[str, Any] | str | Path | DownloadableWeights


def load_weights(module: nn.Module, weights: Weights, *, strict: bool | Sequence[str] = True) -> LoadReport:
    """Load weights into a module and report what was loaded.

    The weights' names may have a prefix, as in a Lightning checkpoint of fuse-lightning (`model.`) or FuseMedML
    (`_model.`), from DataParallel (`module.`) or `torch.compile` (`_orig_mod.`), or because the module is a part of the
    trained model (`model.backbone.`). The names of FuseMedML's models and, for `BackboneResnet3D`, those of MONAI's and
    MedicalNet's ResNets are known too.

    Args:
        module: the module to load into.
        weights: a state dict; the path of a `.pth`, `.ckpt` or `.safetensors` file, see `load_state_dict_file`; a
            mapping that holds a state dict under `"state_dict"`, `"model"`, `"model_state_dict"` or
            `"network_weights"`, or that holds only one; or a member of a torchvision weights enum, which downloads its
            file unless it is in torch's cache.
        strict: True if all weights must fit, except those that stand beside the module in a larger model; a sequence of
            names that need not fit, with all names below them; or False if none must.

    Returns:
        What was loaded, what is missing, and what was left.

    Raises:
        TypeError: `weights` is of another type.
        ValueError: a name is missing or unknown, or a shape differs; says which layouts of names were tried.

    Example:
        >>> import torch
        >>> trained = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> checkpoint = {"epoch": 3, "state_dict": {f"model.{n}": w for n, w in trained.state_dict().items()}}
        >>> new = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> print(load_weights(new, checkpoint, strict=["2"]))
        2 of 4 weights loaded (names as given, prefix 'model.'); missing: 2.weight, 2.bias; left: model.2.weight, \
model.2.bias
    """
    return load_into(module, read_weights(weights, "load_weights(weights=)"), "load_weights", strict=strict)


def load_into(
    module: nn.Module,
    weights: Mapping[str, Tensor],
    owner: str,
    *,
    strict: bool | Sequence[str] = True,
    left_out: Sequence[str] = (),
    adapt: Callable[[dict[str, Tensor]], None] | None = None,
    hint: str = "Check the depth and the other arguments.",
) -> LoadReport:
    """Load a state dict; see `fit_weights` for the arguments. `owner` and `hint` are for the error message."""
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        module = module.module
    _check_strict(strict, (*module.state_dict(), *weights), owner)
    names = {name.replace("_orig_mod.", ""): name for name in module.state_dict()}
    own = {name.replace("_orig_mod.", ""): tensor for name, tensor in module.state_dict(keep_vars=True).items()}
    try:
        part, report = fit_weights(own, weights, strict=strict, left_out=left_out, adapt=adapt)
    except MisfitError as error:
        raise ValueError(f"{owner}: the weights do not fit: {error}. {hint}") from None
    module.load_state_dict({name: part.get(bare, own[bare]) for bare, name in names.items()})
    return report


def _check_strict(strict: bool | Sequence[str], names: Sequence[str], owner: str) -> None:
    if isinstance(strict, str):
        raise ValueError(f"{owner}: the names that need not fit are a sequence, got {strict!r}. Use [{strict!r}].")
    for branch in () if isinstance(strict, bool) else strict:
        if not any(f".{branch}." in f".{name}." for name in names):
            branches = {name.rsplit(".", depth)[0] for name in names for depth in range(name.count(".") + 1)}
            raise ValueError(
                f"{owner}: {branch!r} need not fit, but neither the module nor the weights have this name."
                f"{did_you_mean(branch, branches)}"
            )


def read_weights(weights: Weights, where: str) -> Mapping[str, Tensor]:
    """The state dict in what users may give as weights."""
    if isinstance(weights, str | Path):
        return load_state_dict_file(weights)
    if isinstance(weights, Mapping):
        return state_dict_in(weights, where)
    if isinstance(weights, DownloadableWeights) and not isinstance(weights, type):
        return weights.get_state_dict(progress=True, check_hash=True)
    if isinstance(weights, nn.Module):
        raise TypeError(f"{where} takes a state dict, got a {type(weights).__name__}. Give its state_dict().")
    raise TypeError(
        f"{where} takes a state dict, the path of one, or a member of a torchvision weights enum such as "
        f"ResNet18_Weights.DEFAULT, got {weights!r}."
    )
