"""Which dotted keys lie below others."""

from collections.abc import Iterable


def plain(key: str) -> str:
    """The plain string of a key that is a `str` by inheritance, such as a member of a str Enum."""
    # Unlike `str` and f-strings, `+` never asks the subclass how to print itself. torch.compile traces
    # this sum, but not `key + "."`.
    return "" + key


def has_branch(flat_keys: Iterable[str], key: object) -> bool:
    """Whether any of `flat_keys` lies below `key`, that is, starts with `key` and a dot.

    One substring search over the joined keys is 2.6 times faster than a loop at 35 keys. It is exact: valid keys have
    no empty segment, so `..` occurs only before a key, and a line feed follows each key. A match could run over the
    end of a key only if `key` itself holds a line feed.
    """
    if not isinstance(key, str):
        return False
    key = plain(key)  # torch.compile cannot search in a member of a str Enum
    if ".." in key:
        return False
    if "\n" in key:
        return any(flat_key.startswith(key + ".") for flat_key in flat_keys)
    return ".." + key + "." in "\n..".join(("", *flat_keys))


def keys_below(flat_keys: Iterable[str], prefix: str) -> list[str]:
    """The keys that start with `prefix`, which ends with a dot."""
    return [key for key in flat_keys if key.startswith(prefix)]


def branches_above(key: str) -> list[str]:
    """The branches that hold `key`, the outermost first."""
    return [key[:position] for position, character in enumerate(key) if character == "."]


def keys_at_or_below(flat_keys: Iterable[str], chosen: Iterable[str]) -> dict[str, None]:
    """The keys that equal one of the `chosen` keys or lie below one, as an ordered set."""
    exact = frozenset(map(plain, chosen))
    prefixes = tuple(key + "." for key in exact)
    return dict.fromkeys(key for key in flat_keys if key in exact or key.startswith(prefixes))


def provides(written: Iterable[str], key: str) -> bool:
    """Whether `key` can be read after a component wrote the keys `written`.

    That is so if the component wrote `key`, a key below it, or a branch above it, which may hold anything.

    Example:
        >>> provides(["model.features"], "model.features.layer4"), provides(["model.logits.cls"], "model.logits")
        (True, True)
    """
    return any(key == other or other.startswith(key + ".") or key.startswith(other + ".") for other in written)
