"""The columns of `predictions.csv`."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fuse_core import SAMPLE_ID

from ..predictions.compared_keys import Task
from ..predictions.pixel_counts import PIXELS

PART = re.compile(rf"\.({PIXELS}\.\d+\.)?\d+$")
NUMBERS = {"": "nan", "True": "1", "False": "0"}


class PredictionColumns:
    """A file that `PredictionsToFile` wrote.

    Attributes:
        path: the file.
        ids: the samples' identifiers.
        loaders: a sentence that names the loaders if there are several; else empty.
        keys: the keys of the predictions and targets.
        with_pixels: those of the keys that are segmentations.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        limit = csv.field_size_limit(2**31 - 1)  # a cell may hold an array
        try:
            with path.open(newline="", encoding="utf-8") as file:
                header, *rows = csv.reader(file)
        finally:
            csv.field_size_limit(limit)
        self._columns = {name: [row[position] for row in rows] for position, name in enumerate(header)}
        self.ids = self._columns.get(SAMPLE_ID, [str(index) for index in range(len(rows))])
        loaders = list(dict.fromkeys(self._columns.get("loader", ())))
        self.loaders = f" The loaders are taken together: {', '.join(loaders)}." if len(loaders) > 1 else ""
        self.keys = list(dict.fromkeys(PART.sub("", name) for name in header))
        self.with_pixels = {name.rpartition(f".{PIXELS}.")[0] for name in header if f".{PIXELS}." in name}

    def numbers(self, key: str) -> np.ndarray | None:
        """The values of a key, shape [samples, values], NaN where there is none; None if they are no numbers."""
        count = next(count for count in range(len(self._columns) + 1) if f"{key}.{count}" not in self._columns)
        names = [f"{key}.{index}" for index in range(count)] or [key]
        try:
            columns = [[NUMBERS.get(text, text) for text in self._columns[name]] for name in names]
            return np.array(columns, dtype=float).T
        except (KeyError, ValueError):
            return None

    def is_whole(self, key: str) -> bool:
        """Whether a key has one whole number for each sample, as a predicted class; a float is written as 1.0."""
        return all(text.isdigit() for text in self._columns.get(f"{key}.0", self._columns.get(key, [])))

    def of_one_shape(self, task: Task) -> tuple[np.ndarray, np.ndarray] | None:
        """The numbers predicted and true, if there are as many of both for each sample."""
        predicted, target = self.numbers(task.pred), self.numbers(task.target)
        if predicted is None or target is None or predicted.shape != target.shape:
            return None
        return predicted, target

    def about(self, task: Task, samples: int) -> str:
        """What is compared, of how many samples, and how many others have no known target."""
        left_out = len(self.ids) - samples
        unknown = f" {left_out:,} samples without a known target are left out." if left_out else ""
        return f"{samples:,} samples of {self.path.name}: {task.pred} against {task.target}.{unknown}{self.loaders}"

    def pixels(self, key: str) -> np.ndarray | None:
        """Counts of pixels, shape [samples, true class, predicted class]; None if the key holds none."""
        start = f"{key}.{PIXELS}."
        pairs = {name: name.removeprefix(start).split(".") for name in self._columns if name.startswith(start)}
        if not pairs:
            return None
        classes = 1 + max(int(number) for pair in pairs.values() for number in pair)
        counts = np.zeros((len(self.ids), classes, classes), dtype=np.int64)
        for name, (true, predicted) in pairs.items():
            counts[:, int(true), int(predicted)] = [int(float(text or 0)) for text in self._columns[name]]
        return counts


def names_or_numbers(class_names: Sequence[str], count: int, task: Task | None = None) -> Sequence[str]:
    """The names of as many classes; else their numbers. A single value is named like the task, if it is given."""
    if task is not None and count == 1:
        return [task.name]
    return class_names if len(class_names) == count else [str(index) for index in range(count)]
