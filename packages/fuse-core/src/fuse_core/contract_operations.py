"""Operations that torch allows on fake tensors, and that a working training does not have."""

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

PRODUCTS = {"linear", "matmul", "mm", "bmm"}  # torch checks their dtypes on real tensors only
CLASS_LOSSES = {"cross_entropy", "nll_loss"}
NO_CLASS_INDICES = {torch.int32, torch.int16, torch.int8, torch.bool}  # refused on real tensors only
WARNED = {"l1_loss", "mse_loss", "smooth_l1_loss", "huber_loss"}  # torch warns if they broadcast
ELEMENTWISE = {"add", "sub", "rsub", "mul", "div", "truediv", "true_divide", "maximum", "minimum"}
ELEMENTWISE |= {"subtract", "multiply", "divide", "poisson_nll_loss", "gaussian_nll_loss", "kl_div"}
ELEMENTWISE |= {"eq", "ne", "lt", "le", "gt", "ge", "where", "pow", "broadcast_tensors", *WARNED}


class WatchOperations(TorchFunctionMode):
    """Finds products of two dtypes, wrong class indices, and operations that pair each sample with each other one.

    `(B, 1)` with `(B,)` pairs samples. `(B, 1)` with `(1, B)` is meant, and so are pairs of a tensor with itself: no
    one makes them by mistake.

    Attributes:
        found: what was found, each after its kind: certain, failure or possible; see `ContractError`.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.found: list[tuple[str, str]] = []
        self.views: list[Tensor] = []  # with an axis of size 1 that was made on purpose

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "").strip("_")
        tensors = [one for one in (*args, *(kwargs or {}).values()) if isinstance(one, Tensor)][:2]
        if len(tensors) == 2:
            self._look_at(name, tensors[0], tensors[1], (kwargs or {}).get("reduction") == "none")
        if name in CLASS_LOSSES and len(args) > 1 and args[1].dtype is torch.uint8 and args[1].ndim == 1:
            args = (args[0], args[1].long(), *args[2:])  # works on real tensors only
        result = func(*args, **(kwargs or {}))
        index = args[1] if name == "getitem" and isinstance(args[1], tuple) else ()
        if name == "unsqueeze" or any(one is None for one in index):
            self.views.append(result)
        return result

    def _look_at(self, name: str, one: Tensor, other: Tensor, is_unreduced: bool) -> None:
        shapes = f"{tuple(one.shape)} with {tuple(other.shape)}"
        if name in PRODUCTS and one.dtype != other.dtype and not torch.is_autocast_enabled(one.device.type):
            self.found.append(("failure", f"multiplies {one.dtype} by {other.dtype}: convert one of them"))
        if name in CLASS_LOSSES and other.dtype in NO_CLASS_INDICES:
            self.found.append(("failure", f"gets class indices of {other.dtype}: convert them to torch.int64"))
        is_meant = any(tensor is view for tensor in (one, other) for view in self.views)
        if name in ELEMENTWISE and not is_meant and _pairs_samples(one, other, self.size):
            kind = "certain" if name in WARNED and not is_unreduced else "possible"
            found = f"compares each sample with each other one, {shapes} for {self.size} samples"
            self.found.append((kind, f"{found}: make the shapes equal"))
        elif name in WARNED and one.shape != other.shape:
            self.found.append(("possible", f"compares {shapes}: make the shapes equal"))


def _pairs_samples(one: Tensor, other: Tensor, size: int) -> bool:
    if one.ndim == other.ndim or size < 2 or one.is_nested or other.is_nested:
        return False
    rank = max(one.ndim, other.ndim)
    shapes = ((1,) * (rank - tensor.ndim) + tuple(tensor.shape) for tensor in (one, other))
    pairs = list(zip(*shapes, strict=True))
    if not (all(a == b or 1 in (a, b) for a, b in pairs) and {(size, 1), (1, size)} <= set(pairs)):
        return False
    try:
        return bool(one.untyped_storage()._cdata != other.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # sparse, or inside of torch.func
        return False
