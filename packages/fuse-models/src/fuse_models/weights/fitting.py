"""Compares weights with those that a module needs, for error messages."""

from collections.abc import Mapping, Sequence

from torch import Tensor

LISTED = 4


def misfit(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """The names that are missing, unknown or of another shape, the first few of each; empty if all weights fit.

    Counts of batches may be missing, as in old checkpoints.
    """
    found = {
        "missing": [name for name in own if name not in given and not name.endswith(".num_batches_tracked")],
        "unknown": [name for name in given if name not in own],
        "of another shape": [
            f"{name} {tuple(given[name].shape)} for {tuple(tensor.shape)}"
            for name, tensor in own.items()
            if name in given and given[name].shape != tensor.shape
        ],
    }
    return "; ".join(f"{kind}: {_listed(names)}" for kind, names in found.items() if names)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")
