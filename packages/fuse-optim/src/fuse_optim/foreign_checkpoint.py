"""Read checkpoints of other implementations of SAM."""

import warnings
from typing import Any

PERTURBATION_BUFFERS = ("old_p", "e_w")
"""Keys by which other implementations keep copies of the weights, or perturbations, in a parameter's state."""


def without_perturbation_buffers(state_dict: dict[str, Any]) -> dict[str, Any]:
    """Remove other implementations' copies of the weights from an optimizer's state_dict; return a new one.

    The copies are useless between steps, and an optimizer would mistake a parameter's state that holds only a copy for
    its own.

    Warns:
        UserWarning: the state_dict holds nothing but copies, so the base optimizer's state was never saved.
    """
    if "state" not in state_dict:  # of an optimizer with a format of its own
        return state_dict
    state = {
        index: {key: value for key, value in entries.items() if key not in PERTURBATION_BUFFERS}
        if isinstance(entries, dict)
        else entries  # not of a parameter: a counter, for example
        for index, entries in state_dict["state"].items()
    }
    kept = {index: entries for index, entries in state.items() if not isinstance(entries, dict) or entries}
    if state and not kept and any(state_dict["state"].values()):
        warnings.warn(
            "This checkpoint holds copies of the weights but no state of the base optimizer: the SAM that wrote it did "
            "not save it. The settings of the parameter groups are loaded; the base optimizer starts without momentum.",
            stacklevel=3,
        )
    return {**state_dict, "state": kept}
