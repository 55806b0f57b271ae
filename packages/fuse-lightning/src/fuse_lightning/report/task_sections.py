"""The part of a run's page on one task, from the columns of `predictions.csv`."""

from collections.abc import Sequence

from ..predictions.compared_keys import Task
from .class_predictions import class_sections
from .html_parts import TaskSections
from .label_predictions import label_sections
from .number_predictions import number_sections
from .pixel_predictions import pixel_sections
from .prediction_columns import PredictionColumns

KINDS = (pixel_sections, class_sections, label_sections, number_sections)


def task_sections(columns: PredictionColumns, task: Task, class_names: Sequence[str]) -> TaskSections | None:
    """The numbers and sections of a task, of the first kind that fits its columns; None if none does.

    Args:
        columns: the predictions.
        task: the keys to compare.
        class_names: the names of the classes; empty numbers them.
    """
    return next((found for kind in KINDS if (found := kind(columns, task, class_names)) is not None), None)
