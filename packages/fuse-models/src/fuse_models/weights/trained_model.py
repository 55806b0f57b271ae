"""A trained model from the file that its weights were saved to."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from .fitting import misfit
from .state_dict_file import PickledObjectsError, load_state_dict_file, state_dict_in

PREFIXES = ("", "model.", "_model.", "module.")
"""What may stand before the model's names: nothing; the model's attribute in a LightningModule, here and in FuseMedML;
the prefix that DistributedDataParallel adds."""


def load_trained_model(
    model_factory: Callable[[], nn.Module] | None, path: Path, trust_pickle: bool = False
) -> nn.Module:
    """A model with the weights in a file; see `ModelEnsemble.from_directories` for the arguments and errors."""
    if trust_pickle and path.suffix != ".safetensors":
        content = torch.load(path, map_location="cpu", weights_only=False)
        if isinstance(content, nn.Module):
            return content
        weights = state_dict_in(content, path)
    else:
        try:
            weights = load_state_dict_file(path)
        except PickledObjectsError as error:
            raise PickledObjectsError(
                f"{error} If you trust its author, trust_pickle=True unpickles it and runs the code it holds."
            ) from None
    if model_factory is None:
        raise ValueError(f"{str(path)!r} holds weights, for which model_factory must make the model, but it is None.")
    model = model_factory()
    model.load_state_dict(_weights_of(model, weights, path))
    return model


def _weights_of(model: nn.Module, weights: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The model's weights among those in the file, under the model's names."""
    names = {_uncompiled(name): name for name in model.state_dict()}
    own = {_uncompiled(name): tensor for name, tensor in model.state_dict(keep_vars=True).items()}
    parts = [
        {_uncompiled(name.removeprefix(prefix)): tensor for name, tensor in weights.items() if name.startswith(prefix)}
        for prefix in PREFIXES
    ]
    part = min(parts, key=lambda part: len(own.keys() ^ part.keys()))  # the first that fits, or else fits best
    # safetensors.torch.save_model keeps only one name of a weight that several modules share.
    kept = {id(tensor): part[name] for name, tensor in own.items() if name in part}
    part |= {name: kept[id(tensor)] for name, tensor in own.items() if name not in part and id(tensor) in kept}
    misfits = misfit(own, part)
    if misfits:
        raise ValueError(
            f"The weights in {str(path)!r} do not fit the {type(model).__name__} that model_factory makes: {misfits}. "
            f"Make the model as it was made for training."
        )
    return {name: part.get(bare, own[bare]) for bare, name in names.items()}


def _uncompiled(name: str) -> str:
    return name.replace("_orig_mod.", "")
