"""SAM, LBFGS and whatever else calls its closure repeatedly, with PyTorch Lightning's automatic optimization."""

from .closure_callback import OptimizerClosureCallback

__all__ = ["OptimizerClosureCallback"]
