"""Rows of predictions on disk, while they are collected: one file a process, in the order of the dataset."""

import heapq
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch

from ..checkpoints.atomic_file import replace_file
from .column_types import NOTHING, Kind, common_kind, kind_of

Columns: TypeAlias = dict[str, Kind]
"""The kinds of the columns by their names, in the order of the columns."""

Row: TypeAlias = list[Any]
"""The loader's position, the sample's position in its dataset, then a value for each column."""

ORDER = itemgetter(0, 1)
CHUNK_BYTES = 1 << 20


class RowPart(NamedTuple):
    """The rows of one process: a file with a line of JSON for each. Its first lines may lack the last columns."""

    path: Path
    columns: Columns

    def rows(self) -> Iterator[Row]:
        """The rows, one at a time."""
        with self.path.open(encoding="utf-8") as file:
            yield from map(json.loads, file)


class RowFile:
    """Writes the rows of one process to a file.

    Args:
        path: the file, which is made or emptied.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.columns: Columns = {}
        self._last = (-1, -1)
        self._is_sorted = True
        self._file = path.open("w", encoding="utf-8")

    def write(self, loader_idx: int, positions: Sequence[int], columns: Mapping[str, Any]) -> None:
        """Add the rows of a batch, which may lack columns of other batches, or bring new ones.

        Args:
            loader_idx: the loader's position.
            positions: the samples' positions in the loader's dataset.
            columns: for each column a value a sample, an array of one axis or a list.

        Raises:
            ValueError: a column with another number of values than there are samples.
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
        """Finish the file. Rows of a loader that shuffles are put in order, for which they are held in memory."""
        self._file.close()
        part = RowPart(self.path, self.columns)
        if not self._is_sorted:
            ordered = sorted(part.rows(), key=ORDER)
            with replace_file(self.path) as file:
                file.writelines((json.dumps(row) + "\n").encode() for row in ordered)
        return part

    def remove(self) -> None:
        """Close the file, if it is open, and delete it."""
        with suppress(OSError):  # what a full disk has left no room for
            self._file.close()
        self.path.unlink(missing_ok=True)


def merge_rows(parts: Sequence[RowPart], drop_repeated: bool) -> tuple[Columns, Iterator[Row]]:
    """The rows of several processes in the order of the dataset, without holding them in memory.

    Args:
        parts: what `RowFile.close` returned on each process.
        drop_repeated: leave out a sample that was there already: distributed samplers repeat some.

    Returns:
        All columns, of the kinds that hold the values of all processes, and rows with a value for each; None where a
        row's batch had none.

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
            by_name = dict(zip(part.columns, values, strict=False))  # the last ones may be missing
            yield [loader_idx, position, *map(by_name.get, columns)]

    def merged() -> Iterator[Row]:
        previous = None
        for row in heapq.merge(*map(completed, parts), key=ORDER):
            if not (drop_repeated and ORDER(row) == previous):
                yield row
            previous = ORDER(row)

    return columns, merged()


def gather_rows(part: RowPart, rank: int, world_size: int) -> list[RowPart]:
    """Bring the rows of every process to the first one, piece by piece, because nodes may not share a disk.

    Returns:
        On the first process those of all, in order of the processes; on others none.
    """
    processes = range(world_size) if rank == 0 else ()
    copies = [part.path.with_name(f"{part.path.name}.from{process}") for process in processes]
    for copy in copies:
        copy.write_bytes(b"")
    with part.path.open("rb") as file:
        while True:
            pieces: list[Any] = [None] * world_size
            torch.distributed.all_gather_object(pieces, file.read(CHUNK_BYTES))
            if not any(pieces):
                break
            for copy, piece in zip(copies, pieces, strict=bool(copies)):
                with copy.open("ab") as target:
                    target.write(piece)
    columns: list[Any] = [None] * world_size
    torch.distributed.all_gather_object(columns, part.columns)
    return [RowPart(copy, columns[process]) for process, copy in enumerate(copies)]


def _plain(value: Any) -> Any:
    """What JSON can hold, and gives back as it was."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    # File names may hold bytes that are no text, which no file of text takes.
    return str(value).encode("utf-8", "backslashreplace").decode()
