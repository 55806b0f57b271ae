"""The error for a key that is not there."""

from collections.abc import Iterable

from .did_you_mean import nearest_keys


class NestedKeyError(KeyError):
    """A key is neither a leaf nor a branch. Names the nearest keys that are.

    Args:
        key: the key looked for.
        available: the flat keys there are; an NDict will do.
        reader: who looked, for the message: a component's name.

    Example:
        >>> print(NestedKeyError("data.imgae", ["data.image", "model.logits"], reader="LossDefault"))
        LossDefault reads 'data.imgae', which this batch_dict does not hold. Nearest keys: 'data.image'.
    """

    def __init__(self, key: object, available: Iterable[str] = (), reader: str | None = None) -> None:
        super().__init__(key)
        self.key = key
        self.available = tuple(available)
        self.reader = reader

    @property
    def nearest_keys(self) -> list[str]:
        """The nearest keys, best first; computed when asked for, so that a caught error costs little."""
        return nearest_keys(str(self.key), self.available)

    def __str__(self) -> str:
        problem = (
            f"{self.reader} reads {self.key!r}, which this batch_dict does not hold."
            if self.reader
            else f"{self.key!r} is not a key of this NDict."
        )
        if not self.available:
            return f"{problem} It is empty."
        nearest = self.nearest_keys
        if nearest:
            return f"{problem} Nearest keys: {', '.join(map(repr, nearest))}."
        return f"{problem} Its keys: {', '.join(map(repr, self.available))}."

    def __reduce__(self) -> tuple[type["NestedKeyError"], tuple[object, tuple[str, ...], str | None]]:
        return type(self), (self.key, self.available, self.reader)
