"""Read checkpoints of other implementations of SAM."""

import warnings
from typing import Any

PERTURBATION_BUFFERS = {"old_p", "e_w"}
"""Keys by which other implementations keep copies of the weights, or perturbations, in a parameter's state."""


def without_perturbation_buffers(state_dict: dict[str, Any]) -> dict[str, Any]:
    """Remove other implementations' copies of the weights from an optimizer's state_dict; return a new one.

    The copies are useless between steps, and an optimizer would mistake a parameter's state that holds only a copy for
    its own.

    Warns:
        UserWarning: the state_dict holds nothing but copies, so the base optimizer's state was never saved.
    """
    kept, has_copies = {}, False
    for index, entries in state_dict.get("state", {}).items():
        if isinstance(entries, dict) and PERTURBATION_BUFFERS & entries.keys():  # else a counter, for example
            has_copies = True
            entries = {key: value for key, value in entries.items() if key not in PERTURBATION_BUFFERS}
            if not entries:
                continue
        kept[index] = entries
    if not has_copies:
        return state_dict
    if not kept:
        warnings.warn(
            "This checkpoint holds copies of the weights but no state of the base optimizer: the SAM that wrote it did "
            "not save it. The settings of the parameter groups are loaded; the base optimizer starts without momentum.",
            stacklevel=3,
        )
    return {**state_dict, "state": kept}
