"""Rows of predictions on disk, while they are collected: one file a process, in the order of the dataset."""

import heapq
import json
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch

Row = list[Any]
"""The loader's position, the sample's position in its dataset, then a value for each column."""

ORDER = itemgetter(0, 1)
CHUNK_BYTES = 1 << 20


class RowFile:
    """A file of one process's rows: a line that names the columns, then a line a row.

    Args:
        path: the file, which is made or emptied.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.columns: dict[str, str] | None = None
        self._last = (-1, -1)
        self._is_sorted = True
        self._file = path.open("w", encoding="utf-8")

    def write(self, loader_idx: int, positions: Sequence[int], columns: Mapping[str, Any]) -> None:
        """Add the rows of a batch.

        Args:
            loader_idx: the loader's position.
            positions: the samples' positions in the loader's dataset.
            columns: for each column a value a sample, an array or a list.

        Raises:
            ValueError: other columns than before, or a column with another number of values than there are samples.
        """
        if self.columns is None:
            self.columns = {name: _kind(values) for name, values in columns.items()}
            self._file.write(json.dumps(self.columns) + "\n")
        if list(columns) != list(self.columns):
            raise ValueError(f"Batches give different columns: {', '.join(self.columns)}; then {', '.join(columns)}.")
        for name, values in columns.items():
            if len(values) != len(positions):
                raise ValueError(f"A batch of {len(positions)} samples gives {len(values)} values of {name!r}.")
        plain = [map(_plain, values) for values in columns.values()]
        rows = [[loader_idx, position, *values] for position, *values in zip(positions, *plain, strict=True)]
        for row in rows:
            self._is_sorted = self._is_sorted and ORDER(row) >= self._last
            self._last = ORDER(row)
            self._file.write(json.dumps(row) + "\n")

    def close(self) -> None:
        """Finish the file. Rows of a loader that shuffles are put in order, for which they are held in memory."""
        self._file.close()
        if not self._is_sorted:
            header, rows = read_rows(self.path)
            ordered = sorted(rows, key=ORDER)  # read to its end before the file is written anew
            with self.path.open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(line) + "\n" for line in (header, *ordered))

    def remove(self) -> None:
        """Close the file, if it is open, and delete it."""
        self._file.close()
        self.path.unlink(missing_ok=True)


def read_rows(path: Path) -> tuple[dict[str, str] | None, Iterator[Row]]:
    """The columns and their kinds, None for an empty file, and the rows."""
    with path.open(encoding="utf-8") as file:
        header = file.readline()

    def rows() -> Iterator[Row]:
        with path.open(encoding="utf-8") as file:
            file.readline()
            yield from map(json.loads, file)

    return (json.loads(header) if header else None), rows()


def merge_rows(paths: Sequence[Path], drop_repeated: bool) -> tuple[dict[str, str], Iterator[Row]]:
    """The rows of several files in the order of the dataset, without holding them in memory.

    Args:
        paths: files that `RowFile` has closed.
        drop_repeated: leave out a sample that was there already: distributed samplers repeat some.

    Raises:
        ValueError: there are no rows.
    """
    opened = [read_rows(path) for path in paths]
    columns = next((header for header, _ in opened if header is not None), None)
    if columns is None:
        raise ValueError("There are no predictions to write. Was the loader empty?")

    def merged() -> Iterator[Row]:
        previous = None
        for row in heapq.merge(*(rows for _, rows in opened), key=ORDER):
            if not (drop_repeated and ORDER(row) == previous):
                yield row
            previous = ORDER(row)

    return columns, merged()


def gather_files(path: Path, rank: int, world_size: int) -> list[Path]:
    """Bring the file of every process to the first one, piece by piece, because nodes may not share a disk.

    Returns:
        On the first process the files, in order of the processes; on others none.
    """
    copies = [path.with_name(f"{path.name}.from{process}") for process in range(world_size)] if rank == 0 else []
    for copy in copies:
        copy.unlink(missing_ok=True)
    with path.open("rb") as file:
        while True:
            pieces: list[Any] = [None] * world_size
            torch.distributed.all_gather_object(pieces, file.read(CHUNK_BYTES))
            if not any(pieces):
                break
            for copy, piece in zip(copies, pieces, strict=bool(copies)):
                with copy.open("ab") as target:
                    target.write(piece)
    for copy in copies:
        copy.touch()
    return copies


def _kind(values: Any) -> str:
    """The numpy name of a column's type, or `str`."""
    if isinstance(values, np.ndarray):
        return str(values.dtype)
    for kind, types in (("bool", bool), ("int64", int), ("float64", int | float)):
        if all(isinstance(value, types) for value in values):
            return kind
    return "str"


def _plain(value: Any) -> Any:
    """What JSON can hold, and gives back as it was."""
    value = value.item() if isinstance(value, np.generic) else value
    return value if isinstance(value, bool | int | float | str) else str(value)
