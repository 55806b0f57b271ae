"""Metrics of one mode, each loader with values of its own."""

import copy
from collections.abc import Iterable

from torch import nn

from .loader_components import LoaderComponents, PerLoader, of_loader, register_components
from .metric_collected import registered


def register_metrics(argument: str, metrics: PerLoader | None, in_use: Iterable[nn.Module] = ()) -> nn.ModuleDict:
    """The metrics as modules; see `register_components`.

    A metric adds up the batches of one loader. One that was given for another loader too, or is in use already, is
    copied: validation runs within a training epoch, and would clear what training has added up.

    Args:
        argument: the name of LightningModuleDefault's argument, for messages.
        metrics: what that argument was given; None for none.
        in_use: metrics that add up other batches at the same time.
    """
    modules = register_components(argument, metrics, registered)
    if isinstance(modules, LoaderComponents):
        earlier: list[nn.Module] = []
        for name in modules:
            modules[name] = _unshared(of_loader(modules, name), earlier)
            earlier.append(modules[name])
    return _unshared(modules, in_use)


def _unshared(modules: nn.ModuleDict, others: Iterable[nn.Module]) -> nn.ModuleDict:
    taken = {_identity(module) for other in others for module in other.modules()}
    shared = any(_identity(module) in taken for module in modules.modules())
    return copy.deepcopy(modules) if shared else modules


def _identity(module: nn.Module) -> int:
    return id(getattr(module, "metric", module))  # what it wraps, which may be no module
