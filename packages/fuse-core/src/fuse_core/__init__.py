"""The nested batch_dict of the fuse packages: its type, its key names, collating, and a check of the wiring."""

from typing import TYPE_CHECKING, Any

from .__about__ import __version__
from .collate import Collate, collate, number_of_samples
from .dataset import DatasetWrapSeqToDict
from .did_you_mean import did_you_mean, nearest_keys
from .flat_keys import provides
from .key_names import (
    BACKBONE_FEATURES,
    GLOBAL_STEP,
    LOSSES,
    SAMPLE_ID,
    TOTAL_LOSS,
    log_name,
    logits_key,
    loss_key,
    output_key,
    read_key,
)
from .ndict import NDict
from .ndict_view import NDictView
from .nested_key_error import NestedKeyError
from .padding import pad_to_largest
from .uncollate import uncollate
from .wiring import Wiring, WiringError, check_wiring

if TYPE_CHECKING:
    from .contract import Contract, ContractError, TensorSpec, check_contract

__all__ = [
    "BACKBONE_FEATURES",
    "GLOBAL_STEP",
    "LOSSES",
    "SAMPLE_ID",
    "TOTAL_LOSS",
    "Collate",
    "Contract",
    "ContractError",
    "DatasetWrapSeqToDict",
    "NDict",
    "NDictView",
    "NestedKeyError",
    "TensorSpec",
    "Wiring",
    "WiringError",
    "__version__",
    "check_contract",
    "check_wiring",
    "collate",
    "did_you_mean",
    "log_name",
    "logits_key",
    "loss_key",
    "nearest_keys",
    "number_of_samples",
    "output_key",
    "pad_to_largest",
    "provides",
    "read_key",
    "uncollate",
]


def __getattr__(name: str) -> Any:
    if name in ("Contract", "ContractError", "TensorSpec", "check_contract"):
        from . import contract  # on demand: it imports torch's fake tensors

        return getattr(contract, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
