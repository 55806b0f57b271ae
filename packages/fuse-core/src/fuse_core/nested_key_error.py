"""The error for a missing key."""

from collections.abc import Iterable

from .did_you_mean import nearest_keys
from .flat_keys import has_branch, plain


class NestedKeyError(KeyError):
    """A key is neither a leaf nor a branch. The message names the nearest keys.

    Args:
        key: the missing key.
        available: the dotted keys that exist, such as an NDict.
        reader: the name of the component that reads the key.

    Example:
        >>> print(NestedKeyError("data.imgae", ["data.image", "model.logits"], reader="LossDefault"))
        LossDefault reads 'data.imgae', which this batch_dict does not hold. Nearest keys: 'data.image'.
    """

    def __init__(self, key: object, available: Iterable[str] = (), reader: str | None = None) -> None:
        # Not `super().__init__`, which torch.compile cannot trace: it could not name the missing key.
        self.args = (key,)
        self.key = plain(key) if isinstance(key, str) else key
        self.available = tuple(available)
        self.reader = reader

    @property
    def nearest_keys(self) -> list[str]:
        """The nearest keys, best first. They are computed on demand, so that an error that is caught costs little."""
        return nearest_keys(str(self.key), self.available)

    def __str__(self) -> str:
        if not self.reader:
            problem = f"{self.key!r} is not a key of this NDict."
        elif isinstance(self.key, str) and (self.key in self.available or has_branch(self.available, self.key)):
            return (
                f"{self.reader} reads {self.key!r}, but this batch_dict has nested keys and is not an NDict. "
                f"Pass NDict(batch_dict)."
            )
        else:
            problem = f"{self.reader} reads {self.key!r}, which this batch_dict does not hold."
        if not self.available:
            return f"{problem} It is empty."
        nearest = self.nearest_keys
        if nearest:
            return f"{problem} Nearest keys: {', '.join(map(repr, nearest))}."
        return f"{problem} Its keys: {', '.join(map(repr, self.available))}."

    def __reduce__(self) -> tuple[type["NestedKeyError"], tuple[object, tuple[str, ...], str | None]]:
        return type(self), (self.key, self.available, self.reader)
