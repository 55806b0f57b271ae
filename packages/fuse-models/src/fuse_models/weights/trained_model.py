"""A trained model from the file that its weights were saved to."""

from collections.abc import Callable
from pathlib import Path

from torch import nn

from .load_weights import load_into
from .state_dict_file import PickledObjectsError, is_safetensors, load_state_dict_file, load_torch_file, state_dict_in


def load_trained_model(
    model_factory: Callable[[], nn.Module] | None, path: Path, trust_pickle: bool = False
) -> nn.Module:
    """A model with the weights in a file; see `ModelEnsemble.from_directories` for the arguments and errors."""
    if trust_pickle and not is_safetensors(path):
        content = load_torch_file(path, trust_pickle=True)
        if isinstance(content, nn.Module):
            return content
        weights = state_dict_in(content, repr(str(path)))
    else:
        try:
            weights = load_state_dict_file(path)
        except PickledObjectsError as error:
            raise PickledObjectsError(
                f"{error} If you trust its author, trust_pickle=True unpickles it and runs the code it holds."
            ) from None
    if model_factory is None or isinstance(model_factory, nn.Module):
        given = "it is None" if model_factory is None else f"it is a {type(model_factory).__name__}. Give a function"
        raise ValueError(f"{str(path)!r} holds weights, for which model_factory must make the model, but {given}.")
    model = model_factory()
    kind = type(model).__name__
    owner = f"{str(path)!r} for the {kind} that model_factory makes"
    load_into(model, weights, owner, hint="Make the model as it was made for training.")
    return model
