"""Modules whose `load_state_dict` takes the names of FuseMedML 0.4.1 too."""

from itertools import chain
from typing import Any

from torch import nn

from .layouts.fusemedml import rename_fusemedml


class TakesFuseMedMLStateDict(nn.Module):
    """Loads FuseMedML's state dicts also where only `load_state_dict` is called, as in `load_from_checkpoint`."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        given = {name.removeprefix(prefix): name for name in state_dict if name.startswith(prefix)}
        own = dict(chain(self.named_parameters(remove_duplicate=False), self.named_buffers(remove_duplicate=False)))
        if given.keys() - own.keys():
            weights = {name: state_dict.pop(full_name) for name, full_name in given.items()}
            renamed = rename_fusemedml(weights, own)
            state_dict.update({prefix + name: weight for name, weight in renamed.items() if weight is not None})
        super()._load_from_state_dict(state_dict, prefix, *arguments)
