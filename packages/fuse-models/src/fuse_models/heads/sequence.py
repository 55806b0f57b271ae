"""The heads of a multi-part model, which run one after another."""

from collections import Counter
from collections.abc import Iterable, MutableMapping, Sequence
from types import SimpleNamespace
from typing import Any, TypeVar

from torch import nn

from ..declared_keys import are_declared, keys_in_turn

Keys = tuple[str, ...]
BatchDict = TypeVar("BatchDict", bound=MutableMapping[str, Any])


class HeadSequence(nn.ModuleList):
    """Heads that each take the batch_dict and return it with their outputs added.

    Args:
        heads: the modules, in the order in which they run; a head may read what one before it wrote.
        owner: the model that they belong to, for the messages.

    Raises:
        TypeError: `heads` is no sequence of modules, or a head does not return the batch_dict.
        ValueError: two heads write the same key.
    """

    def __init__(self, heads: Sequence[nn.Module], owner: str = "HeadSequence") -> None:
        is_sequence = isinstance(heads, Iterable) and not isinstance(heads, (str, nn.ModuleDict))
        if not is_sequence or not all(isinstance(head, nn.Module) for head in heads):
            raise TypeError(f"{owner}(heads=) takes a sequence of modules, got {heads!r}. For one head, use [head].")
        super().__init__(heads)
        self._owner = owner
        written = Counter(key for head in self for key in getattr(head, "writes", None) or ())
        for key, count in written.items():
            if count > 1:
                raise ValueError(f"{owner}: {count} heads write {key!r}. Give each head a name of its own.")

    def forward(self, batch_dict: BatchDict) -> BatchDict:
        """What the last head returned."""
        for head in self:
            batch_dict = head(batch_dict)
            if batch_dict is None:
                raise TypeError(
                    f"{self._owner}: the head {type(head).__name__} returned None. A head must return the batch_dict "
                    f"that it was given, with its outputs added."
                )
        return batch_dict

    def keys_behind(self, reads: Keys, writes: Keys) -> tuple[Keys | None, Keys | None]:
        """What a model reads and writes that reads `reads`, writes `writes` and then runs the heads.

        None where a head declares no keys: what such a head reads and writes is not known, so that the wiring check
        must pass the model over, as it would the head.
        """
        if not all(are_declared(head) for head in self):
            return None, None
        return keys_in_turn([SimpleNamespace(reads=reads, writes=writes), *self])
