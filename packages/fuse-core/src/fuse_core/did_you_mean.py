"""The known name or key nearest to one that was mistyped."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str], n: int = 1, cutoff: float = 0.6) -> str:
    """A question that names the nearest known names, to be appended to an error's message.

    Args:
        name: what was given.
        known: the names that would have been accepted.
        n: how many names to suggest at most.
        cutoff: how similar they must be, from 0 (anything) to 1 (equal).

    Returns:
        `" Did you mean 'gamma'?"` with a leading space, or an empty string if no known name is near.

    Example:
        >>> "There is no option 'gama'." + did_you_mean("gama", ["alpha", "gamma"])
        "There is no option 'gama'. Did you mean 'gamma'?"
    """
    nearest = difflib.get_close_matches(name, list(known), n=n, cutoff=cutoff)
    return f" Did you mean {' or '.join(map(repr, nearest))}?" if nearest else ""


def nearest_keys(key: str, available: Iterable[str], n: int = 3, cutoff: float = 0.6) -> list[str]:
    """The keys and branches of `available` most similar to `key`, best first.

    Args:
        key: the key looked for.
        available: flat dotted keys. The branches that they imply are candidates too.
        n: how many to return at most.
        cutoff: how similar they must be, from 0 (anything) to 1 (equal).
    """
    candidates: dict[str, None] = {}
    for flat_key in available:
        candidates[flat_key] = None
        end = flat_key.find(".")
        while end >= 0:
            candidates[flat_key[:end]] = None
            end = flat_key.find(".", end + 1)
    return difflib.get_close_matches(key, candidates, n=n, cutoff=cutoff)
