"""Checkpoints that other implementations of SAM wrote."""

import warnings
from typing import Any

PERTURBATION_BUFFERS = ("old_p", "e_w")
"""Keys under which other implementations keep copies of the weights, or perturbations, in a parameter's state."""


def without_perturbation_buffers(state_dict: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's state_dict without other implementations' copies of the weights; the argument is not changed.

    The copies must go: they are of no use between steps, and optimizers take a state that is not empty for their own.

    Warns:
        UserWarning: the copies were all there was, so the base optimizer's state was never saved.
    """
    state = {
        index: {key: value for key, value in entries.items() if key not in PERTURBATION_BUFFERS}
        for index, entries in state_dict["state"].items()
    }
    kept = {index: entries for index, entries in state.items() if entries}
    if state and not kept and any(state_dict["state"].values()):
        warnings.warn(
            "This checkpoint holds copies of the weights but no state of the base optimizer: the SAM that wrote it did "
            "not save it. The settings of the parameter groups are loaded; momentum and the like begin anew.",
            stacklevel=3,
        )
    return {**state_dict, "state": kept}
