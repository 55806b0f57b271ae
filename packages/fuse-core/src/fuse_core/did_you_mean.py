"""Finds the known names or keys that are most similar to a misspelt one."""

import difflib
from collections.abc import Iterable

from .flat_keys import branches_above, plain


def did_you_mean(name: str, known: Iterable[str], n: int = 1, cutoff: float = 0.6) -> str:
    """A question that names the nearest known names. Append it to an error message.

    Args:
        name: the unknown name.
        known: the accepted names.
        n: the maximum number of names to suggest.
        cutoff: the similarity they need, from 0 (any) to 1 (equal).

    Returns:
        `" Did you mean 'gamma'?"` with a leading space, or an empty string if no known name is similar.

    Example:
        >>> "There is no option 'gama'." + did_you_mean("gama", ["alpha", "gamma"])
        "There is no option 'gama'. Did you mean 'gamma'?"
    """
    nearest = difflib.get_close_matches(plain(name), list(map(plain, known)), n=n, cutoff=cutoff)
    return f" Did you mean {' or '.join(map(repr, nearest))}?" if nearest else ""


def nearest_keys(key: str, available: Iterable[str], n: int = 3, cutoff: float = 0.6) -> list[str]:
    """The keys and branches of `available` most similar to `key`, best first.

    Args:
        key: the missing key.
        available: the dotted keys that exist. Their branches are candidates too.
        n: the maximum number of keys to return.
        cutoff: the similarity they need, from 0 (any) to 1 (equal).

    Example:
        >>> nearest_keys("model.logits.clas", ["data.image", "model.logits.cls"])
        ['model.logits.cls', 'model.logits']
    """
    keys = map(plain, available)
    candidates = dict.fromkeys(name for flat_key in keys for name in (flat_key, *branches_above(flat_key)))
    return difflib.get_close_matches(plain(key), candidates, n=n, cutoff=cutoff)
