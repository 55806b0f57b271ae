"""Fits the names in a checkpoint's state dict to the module that loads it."""

from collections.abc import Iterable, Mapping

from torch import Tensor

FUSEMEDML_MODEL = "_model."
COMPILED = "_orig_mod."


def is_of_fusemedml(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether FuseMedML's LightningModuleDefault wrote the state dict: all its names begin with `_model.`."""
    return bool(state_dict) and all(name.startswith(FUSEMEDML_MODEL) for name in state_dict)


def fitting_state_dict(
    state_dict: Mapping[str, Tensor], own: Mapping[str, Tensor], left_out: Iterable[str]
) -> dict[str, Tensor]:
    """The state dict under the module's names.

    The model may be compiled here and not there, or the other way round. A state dict of FuseMedML holds the model
    alone: what else the module has keeps its values. Parts that the module does not have, such as the losses at
    prediction, are `left_out`.
    """
    names = {name.replace(COMPILED, ""): name for name in own}
    if is_of_fusemedml(state_dict):
        state_dict = {f"model.{name.removeprefix(FUSEMEDML_MODEL)}": value for name, value in state_dict.items()}
        state_dict |= {name: value for name, value in own.items() if not name.startswith("model.")}
    prefixes = tuple(f"{part}." for part in left_out)
    return {
        names.get(name.replace(COMPILED, ""), name): value
        for name, value in state_dict.items()
        if not name.startswith(prefixes)
    }
