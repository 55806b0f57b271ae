"""Rows of predictions on disk: one file per process, merged into the order of the dataset."""

import heapq
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ..checkpoints.atomic_file import replace_file
from ..processes import of_all_processes
from .column_types import NOTHING, Kind, common_kind, kind_of

Columns: TypeAlias = dict[str, Kind]
"""The kinds of the columns by their names, in the order of the columns."""

Row: TypeAlias = list[Any]
"""The loader's position, the sample's position in its dataset, then a value for each column."""

ORDER = itemgetter(0, 1)
CHUNK_BYTES = 1 << 20


class RowPart(NamedTuple):
    """The rows of one process: a file with one line of JSON per row. The first lines may lack the last columns."""

    path: Path
    columns: Columns

    def rows(self) -> Iterator[Row]:
        """The rows, one at a time."""
        with self.path.open(encoding="utf-8") as file:
            yield from map(json.loads, file)


class RowFile:
    """Writes the rows of one process to a file.

    Args:
        path: the file; it is created or emptied.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.columns: Columns = {}
        self._last = (-1, -1)
        self._is_sorted = True
        self._file = path.open("w", encoding="utf-8")

    def write(self, loader_idx: int, positions: Sequence[int], columns: Mapping[str, Any]) -> None:
        """Add the rows of a batch. It may lack columns of other batches, or have new ones.

        Args:
            loader_idx: the loader's position.
            positions: the samples' positions in the loader's dataset.
            columns: for each column one value per sample, as a one-dimensional array or a list.

        Raises:
            ValueError: a column's number of values is not the number of samples.
        """
        for name, values in columns.items():
            if len(values) != len(positions):
                raise ValueError(f"A batch of {len(positions)} samples gives {len(values)} values of {name!r}.")
            self.columns[name] = common_kind(self.columns.get(name, NOTHING), kind_of(values))
        missing = [None] * len(positions)
        plain = [_plain(columns[name]) if name in columns else missing for name in self.columns]
        for position, *values in zip(positions, *plain, strict=True):
            row = [loader_idx, position, *values]
            self._is_sorted = self._is_sorted and ORDER(row) >= self._last
            self._last = ORDER(row)
            self._file.write(json.dumps(row) + "\n")

    def close(self) -> RowPart:
        """Finish the file. If the loader shuffles, the rows are sorted in memory."""
        self._file.close()
        part = RowPart(self.path, self.columns)
        if not self._is_sorted:
            ordered = sorted(part.rows(), key=ORDER)
            with replace_file(self.path) as file:
                file.writelines((json.dumps(row) + "\n").encode() for row in ordered)
        return part

    def remove(self) -> None:
        """Close the file and delete it."""
        with suppress(OSError):  # a full disk
            self._file.close()
        self.path.unlink(missing_ok=True)


def merge_rows(parts: Sequence[RowPart], drop_repeated: bool) -> tuple[Columns, Iterator[Row]]:
    """The rows of several processes in the order of the dataset, without holding them in memory.

    Args:
        parts: the result of `RowFile.close` on each process.
        drop_repeated: drop samples that a distributed sampler repeats.

    Returns:
        All columns, with kinds that hold the values of all processes, and rows with a value for each column; None if
        the row's batch lacked the column.

    Raises:
        ValueError: there are no rows.
    """
    columns: Columns = {}
    for part in parts:
        for name, kind in part.columns.items():
            columns[name] = common_kind(columns.get(name, NOTHING), kind)
    if not columns:
        raise ValueError("There are no predictions to write. Was the loader empty?")

    def completed(part: RowPart) -> Iterator[Row]:
        for loader_idx, position, *values in part.rows():
            by_name = dict(zip(part.columns, values, strict=False))  # the last values may be missing
            yield [loader_idx, position, *map(by_name.get, columns)]

    def merged() -> Iterator[Row]:
        previous = None
        for row in heapq.merge(*map(completed, parts), key=ORDER):
            if not (drop_repeated and ORDER(row) == previous):
                yield row
            previous = ORDER(row)

    return columns, merged()


def gather_rows(part: RowPart, rank: int, world_size: int) -> list[RowPart]:
    """Send the rows of every process to the first one in chunks: nodes may not share a disk.

    Returns:
        On the first process, the rows of each process in order; on other processes, nothing.
    """
    processes = range(world_size) if rank == 0 else ()
    copies = [part.path.with_name(f"{part.path.name}.from{process}") for process in processes]
    for copy in copies:
        copy.write_bytes(b"")
    with part.path.open("rb") as file:
        while True:
            pieces = of_all_processes(file.read(CHUNK_BYTES))
            if not any(pieces):
                break
            for copy, piece in zip(copies, pieces, strict=bool(copies)):
                with copy.open("ab") as target:
                    target.write(piece)
    columns = of_all_processes(part.columns)
    return [RowPart(copy, columns[process]) for process, copy in enumerate(copies)]


def _plain(value: Any) -> Any:
    """The value in a form that JSON stores without a change."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    # A file name may hold bytes that are not valid text.
    return str(value).encode("utf-8", "backslashreplace").decode()
