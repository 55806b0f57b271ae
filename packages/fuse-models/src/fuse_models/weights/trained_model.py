"""A trained model from the file that its weights were saved to."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from .state_dict_file import PickledObjectsError, load_state_dict_file, state_dict_in

PREFIXES = ("", "model.", "_model.", "module.")
"""What may stand before the model's names: nothing; the model's name in a LightningModule, here and in FuseMedML; what
DistributedDataParallel adds."""

LISTED = 5


def load_trained_model(
    model_factory: Callable[[], nn.Module] | None, path: Path, trust_pickle: bool = False
) -> nn.Module:
    """A model with the weights in a file.

    Args:
        model_factory: makes a model of the architecture that was trained; may be None for a file that holds a module.
        path: a Lightning checkpoint, of which the model's part is taken and that of losses and metrics left, or a state
            dict, as safetensors or as saved by torch.
        trust_pickle: whether to unpickle what a file that is not safetensors holds beside tensors: objects in a
            checkpoint, or a whole module, which then is the model. **This runs whatever code is in the file.**

    Raises:
        ValueError: names are missing or unknown, or shapes differ; lists them. Or the file holds pickled objects, and
            `trust_pickle` is False.
    """
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
                f"{error} If you trust who wrote it, trust_pickle=True unpickles it, and runs what code it holds."
            ) from None
    if model_factory is None:
        raise ValueError(f"{str(path)!r} holds weights, for which model_factory must make the model, but it is None.")
    model = model_factory()
    model.load_state_dict(_weights_of(model, weights, path))
    return model


def _weights_of(model: nn.Module, weights: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The model's weights among those in the file, under the model's names."""
    own = {_uncompiled(name): (name, tensor) for name, tensor in model.state_dict(keep_vars=True).items()}
    parts = [
        {_uncompiled(name.removeprefix(prefix)): tensor for name, tensor in weights.items() if name.startswith(prefix)}
        for prefix in PREFIXES
    ]
    part = min(parts, key=lambda part: len(own.keys() ^ part.keys()))  # the first that fits, or else fits best
    # Of a weight that several modules share, safetensors.torch.save_model keeps one name only.
    kept = {id(tensor): name for name, (_, tensor) in own.items() if name in part}
    part |= {
        name: part[kept[id(tensor)]] for name, (_, tensor) in own.items() if name not in part and id(tensor) in kept
    }
    differences = {
        "missing": [name for name in own if name not in part],
        "unknown": [name for name in part if name not in own],
        "of another shape": [
            f"{name} {tuple(part[name].shape)} for {tuple(tensor.shape)}"
            for name, (_, tensor) in own.items()
            if name in part and part[name].shape != tensor.shape
        ],
    }
    if any(differences.values()):
        listed = "; ".join(f"{kind}: {_listed(names)}" for kind, names in differences.items() if names)
        raise ValueError(
            f"The weights in {str(path)!r} are not those of the {type(model).__name__} that model_factory makes: "
            f"{listed}. Make the model as it was made for training."
        )
    return {own[name][0]: tensor for name, tensor in part.items()}


def _uncompiled(name: str) -> str:
    return name.replace("_orig_mod.", "")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")
