"""Subclasses whose hooks replace those of their base class."""

import inspect
from typing import Any

from pytorch_lightning.utilities import rank_zero_warn


def warn_of_replaced_hooks(subclass: type, base: type) -> None:
    """Warn of each hook of a subclass that does not call that of `base`. Lightning's own hooks do nothing.

    Hooks of batches, which only check and show something, may be replaced, and so may methods that are no hooks.
    """
    for name, hook in vars(subclass).items():
        code: Any = getattr(inspect.unwrap(hook) if callable(hook) else None, "__code__", None)
        is_hook = name in ("setup", "configure_callbacks") or (name.startswith("on_") and "_batch_" not in name)
        if is_hook and name in vars(base) and code is not None and name not in code.co_names:
            rank_zero_warn(
                f"{subclass.__name__}.{name} replaces a hook in which {base.__name__} works, so values may be wrong or "
                f"missing. Call super().{name}({', '.join(code.co_varnames[1 : code.co_argcount])}) in it."
            )
