"""SAM, LBFGS and other optimizers that call their closure repeatedly, in Lightning's automatic optimization."""

from .closure_callback import OptimizerClosureCallback

__all__ = ["OptimizerClosureCallback"]


def __dir__() -> list[str]:
    return __all__
