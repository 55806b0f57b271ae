"""The quality of predicted numbers, as of a regression."""

import numpy as np


def number_scores(predicted: np.ndarray, target: np.ndarray) -> tuple[float, float, float, float, int]:
    """Mean absolute error, root mean squared error, R squared, mean error, and number of samples whose target is known.

    Args:
        predicted: shape [samples].
        target: shape [samples], NaN for unknown.

    Example:
        >>> number_scores(np.array([1.0, 3.0, 5.0]), np.array([1.0, 2.0, np.nan]))[:2]
        (0.5, 0.7071067811865476)
    """
    known = np.isfinite(target)
    error = (predicted - target)[known]
    spread = float(((target[known] - target[known].mean()) ** 2).sum())
    squares = float((error**2).sum())
    r_squared = 1 - squares / spread if spread else float("nan")
    mean_square = squares / len(error)
    return float(np.abs(error).mean()), mean_square**0.5, r_squared, float(error.mean()), len(error)
