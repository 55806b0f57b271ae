"""Predictions to a CSV or Parquet file, while they are made."""

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

from .atomic_file import replace_file
from .prediction_rows import Row, RowFile, gather_files, merge_rows
from .predictions import prediction_columns

ROWS_AT_ONCE = 8192


class PredictionsToFile(BasePredictionWriter):
    """Writes what `predict` returns to a file, a row per sample, in the order of the dataset.

    The columns are those of `convert_predictions_to_dataframe`; with several loaders `loader` comes first, its name or
    position. Each batch goes to disk when it is predicted, so that memory stays bounded, with
    `Trainer.predict(return_predictions=False)`. At the end the rows of all processes are brought together, and samples
    that a distributed sampler repeats are dropped. The file appears when it is whole.

    Args:
        path: the file to write; `.csv` or `.parquet`. Parquet needs pyarrow: `pip install "fuse-lightning[parquet]"`.

    Raises:
        ValueError: another suffix.
        ImportError: Parquet without pyarrow.

    Example:
        >>> writer = PredictionsToFile("runs/first/predictions.csv")
        >>> trainer = pl.Trainer(callbacks=[writer], logger=False, accelerator="cpu")
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(write_interval="batch")
        self.path = Path(path)
        if self.path.suffix not in (".csv", ".parquet"):
            raise ValueError(f"PredictionsToFile(path=) ends in .csv or .parquet, got {self.path.name!r}.")
        if self.path.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
            raise ImportError(
                'Parquet files need pyarrow: pip install "fuse-lightning[parquet]", or write a .csv file.'
            )
        self._rows: RowFile | None = None
        self._samples: dict[int, int] = {}

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open this process's file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._rows = RowFile(self.path.with_name(f".{self.path.name}.rank{trainer.global_rank}"))
        self._samples = {}

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
                f"PredictionsToFile takes what predict_step returns as a mapping of keys to values, such as "
                f"step_extract_predictions gives; got a {type(prediction).__name__}."
            )
        columns = prediction_columns(prediction)
        samples = max(map(len, columns.values()), default=0)
        seen = self._samples.get(dataloader_idx, 0)
        self._samples[dataloader_idx] = seen + samples
        if not _has_positions(trainer.predict_dataloaders, dataloader_idx):
            # As if the processes took samples in turn.
            first = seen * trainer.world_size + trainer.global_rank
            batch_indices = range(first, first + samples * trainer.world_size, trainer.world_size)
        self._opened().write(dataloader_idx, batch_indices or (), columns)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Bring the rows of all processes together and write the file."""
        rows = self._opened()
        rows.close()
        distributed = trainer.world_size > 1
        paths = gather_files(rows.path, trainer.global_rank, trainer.world_size) if distributed else [rows.path]
        try:
            if trainer.is_global_zero:
                columns, merged = merge_rows(paths, drop_repeated=distributed)
                names = _loader_names(trainer.predict_dataloaders)
                self._write(columns, merged, names if len(names) > 1 else [])
        finally:
            self._remove(*paths)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave no file of a run that failed."""
        self._remove()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave no file of a run that failed."""
        self._remove()

    def _opened(self) -> RowFile:
        if self._rows is None:
            raise RuntimeError("PredictionsToFile has no file open: on_predict_start was not called.")
        return self._rows

    def _remove(self, *paths: Path) -> None:
        if self._rows is not None:
            self._rows.remove()
            self._rows = None
        for path in paths:
            path.unlink(missing_ok=True)

    def _write(self, columns: Mapping[str, str], rows: Iterator[Row], loaders: Sequence[Any]) -> None:
        """Write the table; `loaders` are the names to show, none for a single one."""
        kinds = dict(columns)
        if loaders:
            kinds = {"loader": "int64" if isinstance(loaders[0], int) else "str", **kinds}
        table = ([loaders[loader], *values] if loaders else values for loader, _, *values in rows)
        write = _write_csv if self.path.suffix == ".csv" else _write_parquet
        with replace_file(self.path) as file:
            write(file, kinds, table)


def _loader_names(loaders: Any) -> list[Any]:
    if isinstance(loaders, Mapping):
        return list(loaders)
    return list(range(len(loaders))) if isinstance(loaders, list | tuple) else [0]


def _has_positions(loaders: Any, loader_idx: int) -> bool:
    """Whether Lightning knows which samples of its dataset a loader's batch holds."""
    several = list(loaders.values()) if isinstance(loaders, Mapping) else loaders
    loader = several[loader_idx] if isinstance(several, list | tuple) else several
    return hasattr(getattr(loader, "batch_sampler", None), "seen_batch_indices")


def _write_csv(file: BinaryIO, kinds: Mapping[str, str], table: Iterator[Row]) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(kinds)
    # A float32 is written with the digits that it has, 0.1, not those of its value as a float64.
    narrow = [np.dtype(kind).type if kind == "float32" else None for kind in kinds.values()]
    for row in table:
        writer.writerow([value if dtype is None else dtype(value) for value, dtype in zip(row, narrow, strict=True)])
    text.detach()


def _write_parquet(file: BinaryIO, kinds: Mapping[str, str], table: Iterator[Row]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [(name, pa.string() if kind == "str" else pa.from_numpy_dtype(np.dtype(kind))) for name, kind in kinds.items()]
    )
    with pq.ParquetWriter(file, schema) as writer:
        while rows := list(islice(table, ROWS_AT_ONCE)):
            columns = zip(*rows, strict=True)
            arrays = [pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
