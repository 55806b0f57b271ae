"""Writes predictions to a CSV or Parquet file batch by batch."""

import csv
import importlib.util
import io
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.callbacks import BasePredictionWriter
from pytorch_lightning.utilities import CombinedLoader

from ..checkpoints.atomic_file import replace_file
from .column_types import LONG, NOTHING, TEXT, Kind, is_float
from .compared_keys import compared_keys
from .pixel_counts import masks_to_counts
from .rows_on_disk import Columns, Row, RowFile, gather_rows, merge_rows
from .table import prediction_columns

ROWS_AT_ONCE = 8192


class PredictionsToFile(BasePredictionWriter):
    """Writes the results of `predict` to a file, one row per sample, in the order of the dataset.

    The columns are those of `convert_predictions_to_dataframe`. A predicted segmentation and its true one are written
    as counts of pixels, `<prediction>.pixels.<true class>.<predicted class>`; an empty cell is 0. With several loaders
    the first column, `loader`, holds the loader's name or position. Each batch is written to disk when it is predicted;
    memory stays bounded with `Trainer.predict(return_predictions=False)`. At the end, the first process merges the rows
    of all processes and drops samples that a distributed sampler repeats. The file appears when it is complete.
    `Trainer(fast_dev_run=True)` writes no file.

    A Parquet column has the smallest type that holds the values of all batches: integers become float64 if another
    batch has fractions, None is null, lists are lists. Values without a common type are written as text, as in CSV.

    Args:
        path: the file to write; `.csv` or `.parquet`. Parquet needs pyarrow: `pip install "fuse-lightning[parquet]"`.

    Raises:
        ValueError: `path` has another suffix.
        IsADirectoryError: when predicting starts, `path` is a folder.
        ImportError: Parquet without pyarrow.

    Example:
        >>> writer = PredictionsToFile("runs/first/predictions.csv")
        >>> trainer = pl.Trainer(callbacks=[writer], logger=False, accelerator="cpu")
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(write_interval="batch")
        self.path = Path(path).expanduser()
        if self.path.suffix not in (".csv", ".parquet"):
            raise ValueError(f"PredictionsToFile(path=) ends in .csv or .parquet, got {self.path.name!r}.")
        if self.path.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
            raise ImportError(
                'Parquet files need pyarrow: pip install "fuse-lightning[parquet]", or write a .csv file.'
            )
        self._rows: RowFile | None = None
        self._files: list[Path] = []  # to remove in the end
        self._loaders: list[tuple[Any, Any]] = []
        self._samples: dict[int, int] = {}
        self._compared: dict[str, str] = {}

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open this process's file."""
        if self.path.is_dir():
            raise IsADirectoryError(f"PredictionsToFile(path=) is the file to write, but {self.path} is a folder.")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._rows = RowFile(self.path.with_name(f".{self.path.name}.rank{trainer.global_rank}"))
        self._files = [self._rows.path]
        self._loaders = _loaders_by_name(trainer.predict_dataloaders)
        self._samples = {}
        self._compared = compared_keys(pl_module)

    def write_on_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Write the rows of one batch."""
        if not isinstance(prediction, Mapping):
            raise TypeError(
                f"PredictionsToFile needs a predict_step that returns a mapping of keys to values, as "
                f"step_extract_predictions does; got a {type(prediction).__name__}."
            )
        columns = prediction_columns(masks_to_counts(prediction, self._compared))
        if "loader" in columns and len(self._loaders) > 1:
            raise ValueError(
                "With several loaders, PredictionsToFile writes a column 'loader', but predict_step returns that key "
                "too. Return it under another name."
            )
        samples = max(map(len, columns.values()), default=0)
        seen = self._samples.get(dataloader_idx, 0)
        self._samples[dataloader_idx] = seen + samples
        _, loader = self._loaders[dataloader_idx]
        if not hasattr(getattr(loader, "batch_sampler", None), "seen_batch_indices"):
            # Lightning does not know the samples' positions: assume that the processes took them in turn.
            first = seen * trainer.world_size + trainer.global_rank
            batch_indices = range(first, first + samples * trainer.world_size, trainer.world_size)
        self._opened().write(dataloader_idx, batch_indices or (), columns)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Merge the rows of all processes and write the file. If that fails, the rows stay on disk."""
        rows = self._opened()
        try:
            self._merge(rows, trainer)
        except Exception as error:
            kept = [path for path in self._files if path.exists() and path.stat().st_size]
            if kept:
                self._rows, self._files = None, []  # do not remove them
                error.add_note(
                    f"{self.path} was not written. The predictions are kept in {', '.join(map(str, kept))}, until "
                    f"predicting starts again: a JSON list for each sample, of the loader's position, the sample's "
                    f"position, then {', '.join(rows.columns)}."
                )
            raise
        self._remove()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Remove the files of a run that failed."""
        self._remove()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Remove the files of a run that failed."""
        self._remove()

    def _opened(self) -> RowFile:
        if self._rows is None:
            raise RuntimeError("PredictionsToFile has no file open: on_predict_start was not called.")
        return self._rows

    def _remove(self) -> None:
        if self._rows is not None:
            self._rows.remove()
            self._rows = None
        for path in self._files:
            path.unlink(missing_ok=True)
        self._files, self._loaders = [], []

    def _merge(self, rows: RowFile, trainer: pl.Trainer) -> None:
        parts = [rows.close()]
        distributed = trainer.world_size > 1
        if distributed:
            parts = gather_rows(parts[0], trainer.global_rank, trainer.world_size)
            rows.remove()
            self._files = [part.path for part in parts]
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            columns, merged = merge_rows(parts, drop_repeated=distributed)
            self._write(columns, merged, [name for name, _ in self._loaders] if len(self._loaders) > 1 else [])

    def _write(self, columns: Columns, rows: Iterator[Row], loaders: Sequence[Any]) -> None:
        """Write the table; `loaders` are the names to show, empty for a single loader."""
        if loaders:
            columns = {"loader": "int64" if isinstance(loaders[0], int) else TEXT, **columns}
        table = ([loaders[loader], *values] if loaders else values for loader, _, *values in rows)
        write = _write_csv if self.path.suffix == ".csv" else _write_parquet
        with replace_file(self.path) as file:
            write(file, columns, table)


def _loaders_by_name(loaders: Any) -> list[tuple[Any, Any]]:
    """Each loader with its name or position, in Lightning's order."""
    flattened = CombinedLoader(loaders, "sequential").flattened
    named = isinstance(loaders, Mapping) and len(loaders) == len(flattened)  # no name holds several loaders
    return list(zip(loaders if named else range(len(flattened)), flattened, strict=True))


def _write_csv(file: BinaryIO, columns: Columns, table: Iterator[Row]) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(text, lineterminator="\n")
    # Readers take "\r" for the end of a line too, but `writer` quotes only its own line terminator.
    quoting_writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(columns)
    # A float32 is written as 0.1, not with the digits of its value as a float64.
    narrow = [kind == "float32" for kind in columns.values()]
    for row in table:
        pairs = zip(row, narrow, strict=True)
        cells = [np.float32(value) if short and value is not None else value for value, short in pairs]
        has_returns = any("\r" in cell for cell in cells if isinstance(cell, str))
        (quoting_writer if has_returns else writer).writerow(cells)
    text.detach()


def _write_parquet(file: BinaryIO, columns: Columns, table: Iterator[Row]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, _arrow_type(kind)) for name, kind in columns.items()])
    with pq.ParquetWriter(file, schema) as writer:
        while rows := list(islice(table, ROWS_AT_ONCE)):
            arrays = [
                pa.array([_as_kind(value, kind) for value in values], field.type)
                for values, kind, field in zip(zip(*rows, strict=True), columns.values(), schema, strict=True)
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _arrow_type(kind: Kind) -> Any:
    import pyarrow as pa

    if isinstance(kind, tuple):
        return pa.list_(_arrow_type(kind[0]))
    named = {NOTHING: pa.null(), TEXT: pa.string(), LONG: pa.int64()}
    return named[kind] if kind in named else pa.from_numpy_dtype(np.dtype(kind))


def _as_kind(value: Any, kind: Kind) -> Any:
    """A value of a column in the form that its Parquet type takes."""
    if value is None:
        return None
    if isinstance(kind, tuple):
        return [_as_kind(one, kind[0]) for one in value]
    if kind == TEXT:
        return str(value)
    return value if kind == "bool" or is_float(kind) else int(value)  # int() because the value may be a bool
