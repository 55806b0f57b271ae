"""The heads of a multi-part model, which run one after another."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Self

import torch
from torch import nn

from fuse_core import provides

from ..conv_inputs import BatchDict
from ..declared_keys import declared_keys

Keys = tuple[str, ...]


class HeadSequence(nn.ModuleList):
    """Heads that each take the batch_dict and return it with their outputs added; `owner` is named in errors."""

    def __init__(self, heads: Sequence[nn.Module], owner: str = "HeadSequence") -> None:
        is_sequence = isinstance(heads, Iterable) and not isinstance(heads, (str, nn.ModuleDict))
        if not is_sequence or not all(isinstance(head, nn.Module) for head in heads):
            raise TypeError(f"{owner}(heads=) takes a sequence of modules, got {heads!r}. For one head, use [head].")
        super().__init__()
        self._owner = owner
        self.extend(heads)

    def append(self, module: nn.Module) -> Self:
        """Add a head, which must write keys of its own."""
        return self.extend([module])

    def extend(self, modules: Iterable[nn.Module]) -> Self:
        """Add heads, which must write keys of their own."""
        added = list(modules)
        self._check_keys([*self, *added])
        return super().extend(added)

    def insert(self, index: int, module: nn.Module) -> None:
        """Add a head before the one at `index`."""
        self._check_keys([*self, module])
        super().insert(index, module)

    def __setitem__(self, index: int, module: nn.Module) -> None:
        others = list(self)
        others[index] = module
        self._check_keys(others)
        super().__setitem__(index, module)

    def _check_keys(self, heads: Sequence[nn.Module]) -> None:
        written = Counter(key for head in heads for key in getattr(head, "writes", None) or ())
        for key, count in written.items():
            if count > 1:
                raise ValueError(f"{self._owner}: {count} heads write {key!r}. Give each head a name of its own.")

    def forward(self, batch_dict: BatchDict) -> BatchDict:
        """The batch_dict that the last head returned."""
        if not torch.compiler.is_compiling():
            self._check_keys(list(self))  # heads may have been renamed
        for head in self:
            batch_dict = head(batch_dict)
            if batch_dict is None:
                raise TypeError(
                    f"{self._owner}: the head {type(head).__name__} returned None. A head must return the batch_dict "
                    f"that it was given, with its outputs added."
                )
        return batch_dict

    def keys_with(self, reads: Keys, writes: Keys) -> tuple[Keys | None, Keys | None]:
        """Keys read and written by a model that reads `reads`, writes `writes` and then runs these heads.

        None where a head declares no keys: what such a head reads and writes is not known, so that the wiring check
        must pass over the model too.
        """
        self._check_keys(list(self))
        all_reads, all_writes = dict.fromkeys(reads), dict.fromkeys(writes)
        for head in self:
            declared = declared_keys(head)
            if declared is None:
                return None, None
            all_reads.update((key, None) for key in declared[0] if not provides(all_writes, key))
            all_writes.update(dict.fromkeys(declared[1]))
        return tuple(all_reads), tuple(all_writes)
