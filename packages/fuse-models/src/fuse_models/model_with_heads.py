"""The part that `ModelMultiHead`, `ModelMultistream` and `ModelSiamese` share: features that heads use."""

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import nn

from .argument_checks import check_name
from .conv_inputs import BatchDict, ConvInputs
from .heads.sequence import HeadSequence
from .weights.layouts.fusemedml import TakesFuseMedMLStateDict


class ModelWithHeads(TakesFuseMedMLStateDict):
    """Declares the keys of its inputs, features and heads, as they are when asked for, and runs the heads."""

    # torch.jit.trace would compile them
    __jit_unused_properties__: ClassVar = ["reads", "writes", "optional_reads", "prediction_kinds"]

    def _add_heads(
        self, heads: Sequence[nn.Module], inputs: ConvInputs, key_out_features: str, more_features: tuple[str, ...] = ()
    ) -> None:
        """Called last by the constructors, so that the backbone stands first in the state dict."""
        self.heads: Any = heads  # becomes a HeadSequence
        key_out_features = check_name(key_out_features, f"{type(self).__name__}(key_out_features=)")
        self.inputs = inputs
        self._optional_reads: tuple[str, ...] = ()
        self.key_out_features = key_out_features
        self._more_features = tuple(f"{key_out_features}{suffix}" for suffix in more_features)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "heads" and not isinstance(value, HeadSequence):
            value = HeadSequence(value, type(self).__name__)
        super().__setattr__(name, value)

    @property
    def reads(self) -> tuple[str, ...] | None:
        """The keys that the batch_dict must hold."""
        return self._declared_keys()[0]

    @property
    def writes(self) -> tuple[str, ...] | None:
        """The keys of the features and of the heads' outputs."""
        return self._declared_keys()[1]

    @property
    def optional_reads(self) -> tuple[str, ...]:
        """The keys that the batch_dict may hold."""
        optional = (*self._optional_reads, *(key for head in self.heads for key in getattr(head, "optional_reads", ())))
        return tuple(dict.fromkeys(optional))

    @property
    def prediction_kinds(self) -> dict[str, str]:
        """What the heads' outputs are, for `ModelEnsemble`: a kind for each key, as far as the heads tell it."""
        return {key: kind for head in self.heads for key, kind in getattr(head, "prediction_kinds", {}).items()}

    def _declared_keys(self) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
        inputs = tuple(dict.fromkeys(key for key, _ in self.inputs if key not in self._optional_reads))
        heads: HeadSequence = self.heads
        return heads.keys_with(inputs, (self.key_out_features, *self._more_features))

    def _run_heads(self, batch_dict: BatchDict, features: Any) -> BatchDict:
        batch_dict[self.key_out_features] = features
        result: BatchDict = self.heads(batch_dict)
        return result
