"""Losses or metrics of one loader or several loaders, as registered modules."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from torch import nn

from fuse_core import TOTAL_LOSS, loss_key

ByName: TypeAlias = Mapping[str, Any]
PerLoader: TypeAlias = ByName | Mapping[str, ByName] | Sequence[tuple[str, ByName]]
"""Components by name for every loader; or a mapping, or pairs, of a loader's name and its components by name."""


class LoaderComponents(nn.ModuleDict):
    """Components by loader and name. Components for every loader are a plain `nn.ModuleDict`."""


def register_components(
    argument: str, components: PerLoader | None, convert: Callable[[Any], Any] = lambda component: component
) -> nn.ModuleDict:
    """The components as modules; a `LoaderComponents` if they differ between loaders.

    Args:
        argument: the name of LightningModuleDefault's argument, for messages.
        components: its value.
        convert: makes a module of a component that is not a module but may be used.

    Raises:
        TypeError: a component is not a module, or a loss does not take a batch_dict.
        ValueError: a name is reserved, or not allowed for a module.
    """
    if components is None:
        return nn.ModuleDict()
    if isinstance(components, Mapping | nn.ModuleDict):
        per_loader = [isinstance(one, Mapping | nn.ModuleDict) for one in components.values()]
        if not any(per_loader):
            return _modules(argument, components, convert)
        if not all(per_loader):
            raise TypeError(
                f"LightningModuleDefault({argument}=) takes components by name, or loaders by name with their "
                f"components; got both: {list(components)}."
            )
        pairs = list(components.items())
    else:
        pairs = _pairs(argument, components)
    loaders = LoaderComponents()
    for name, by_name in pairs:
        if name in loaders:
            raise ValueError(f"LightningModuleDefault({argument}=) names the loader {name!r} twice.")
        if "." in name:
            raise ValueError(f"LightningModuleDefault({argument}=): a loader's name has no dot, got {name!r}.")
        loaders[name] = _modules(argument, by_name, convert)
    return loaders


def _pairs(argument: str, components: Any) -> list[tuple[str, ByName]]:
    pairs = list(components) if isinstance(components, Sequence) and not isinstance(components, str) else [components]
    for pair in pairs:
        if not (isinstance(pair, tuple | list) and len(pair) == 2 and isinstance(pair[0], str)):
            raise TypeError(
                f"LightningModuleDefault({argument}=) takes components by name; for several loaders, a mapping or "
                f"pairs of the loader's name and its components; got {pair!r}."
            )
    return [(name, by_name) for name, by_name in pairs]


def _modules(argument: str, components: ByName | nn.ModuleDict, convert: Callable[[Any], Any]) -> nn.ModuleDict:
    modules = {name: convert(component) for name, component in components.items()}
    for name, module in modules.items():
        if not isinstance(module, nn.Module):
            raise TypeError(
                f"LightningModuleDefault({argument}=) takes modules, so that they move and save with it, but {name!r} "
                f"is a {type(module).__name__}. Wrap a function in LossDefault, or a metric in MetricDefault."
            )
        if argument.endswith("losses"):
            _check_takes_batch_dict(argument, name, module)
        if loss_key(name) == TOTAL_LOSS:
            raise ValueError(f"LightningModuleDefault({argument}=): the name {name!r} is taken by the losses' sum.")
    try:
        return nn.ModuleDict(modules)
    except (KeyError, TypeError) as error:
        raise ValueError(f"LightningModuleDefault({argument}=) needs names that a module may have: {error}.") from None


def _check_takes_batch_dict(argument: str, name: str, loss: nn.Module) -> None:
    try:
        inspect.signature(loss.forward).bind({})
    except TypeError:
        raise TypeError(
            f"LightningModuleDefault({argument}=): {name!r}, a {type(loss).__name__}, takes other arguments than the "
            f"batch_dict. Wrap it: LossDefault(pred=key, target=key, callable={type(loss).__name__}()), or "
            f"LossWrapToDict for other arguments."
        ) from None


def loader_names(mode: str, groups: Mapping[str, nn.ModuleDict], loaders: Any) -> list[str | None]:
    """The names of the loaders of one mode; `[None]` for a single loader without a name.

    The names come from the mapping of loaders given to the Trainer, or else from losses and metrics, or else they are
    `loader_0`, `loader_1` and so on.

    Raises:
        ValueError: losses, metrics and Trainer name different loaders, or different numbers of loaders.
    """
    named = {argument: list(group) for argument, group in groups.items() if isinstance(group, LoaderComponents)}
    if isinstance(loaders, Mapping):
        named["Trainer's loaders"] = list(loaders)
    count = len(in_order(loaders))
    if not named:
        return [None] if count == 1 else [f"loader_{i}" for i in range(count)]
    if len({frozenset(names) for names in named.values()}) > 1:
        described = "; ".join(f"{argument}: {', '.join(names)}" for argument, names in named.items())
        raise ValueError(f"Losses, metrics and loaders of {mode} name different loaders ({described}). Name the same.")
    names: list[str | None] = list(named.get("Trainer's loaders") or next(iter(named.values())))
    if len(names) != count:
        raise ValueError(
            f"The {mode} of this module has {_number(len(names), 'loader')} ({', '.join(map(str, names))}), but the "
            f"Trainer was given {_number(count, 'loader')}. Give one loader for each name, in this order or by name."
        )
    return names


def in_order(loaders: Any) -> list[Any]:
    """The loaders of what a Trainer was given: a loader, or a sequence or mapping of loaders."""
    if isinstance(loaders, Mapping):
        return list(loaders.values())
    return list(loaders) if isinstance(loaders, list | tuple) else [loaders]


def of_loader(components: nn.ModuleDict, loader: str | None) -> nn.ModuleDict:
    """The components for one loader."""
    if not isinstance(components, LoaderComponents):
        return components
    of_one: nn.ModuleDict = components[str(loader)]  # type: ignore[assignment]
    return of_one


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"
