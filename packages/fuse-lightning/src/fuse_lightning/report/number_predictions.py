"""The quality of predicted numbers, as of a regression."""

from collections.abc import Sequence

import numpy as np

from ..predictions.compared_keys import Task
from .charts import scatter_chart
from .html_parts import TaskSections, note, table
from .prediction_columns import PredictionColumns, names_or_numbers

MOST_CHARTS = 12  # of a prediction of many numbers


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


def number_sections(columns: PredictionColumns, task: Task, class_names: Sequence[str]) -> TaskSections | None:
    """Errors, and charts of predicted against true numbers; None if the columns hold no such numbers."""
    pair = columns.of_one_shape(task)
    if pair is None or not np.isfinite(pair[1]).any(axis=0).all() or not np.isfinite(pair[0]).all():
        return None
    predicted, target = pair
    samples = int(np.isfinite(target).any(axis=1).sum())
    names = names_or_numbers(class_names, predicted.shape[1], task)
    scores = [number_scores(*own) for own in zip(predicted.T, target.T, strict=True)]
    rows = [
        (name, *(f"{value:.4g}" for value in own[:4]), f"{own[4]:,}") for name, own in zip(names, scores, strict=True)
    ]
    mean = np.mean([own[:3] for own in scores], axis=0)
    titles = ("mean absolute error", "root mean squared error", "R²")
    charts = [
        scatter_chart(name, target[:, index], predicted[:, index]) for index, name in enumerate(names[:MOST_CHARTS])
    ]
    sections = {
        "Errors": [
            note(columns.about(task, samples)),
            table(("value", *titles, "mean error", "samples"), rows, f"The errors of each value of {task.name}."),
        ],
        "Predicted against true": [f'<div class="charts">{"".join(charts)}</div>'],
    }
    return TaskSections([(title, f"{value:.4g}") for title, value in zip(titles, mean, strict=True)], sections)
