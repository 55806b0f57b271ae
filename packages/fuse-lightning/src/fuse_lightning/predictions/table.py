"""Predictions as a table."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from fuse_core import SAMPLE_ID, NDict

if TYPE_CHECKING:
    import pandas as pd


def convert_predictions_to_dataframe(
    predictions: Sequence[Mapping[str, Any]], *, cells: bool = False, id_column: str = SAMPLE_ID
) -> "pd.DataFrame":
    """The predictions of `Trainer.predict` as a table with one row per sample.

    A number, or a value that is not a tensor, becomes the column `<key>`; a vector becomes the columns `<key>.0`,
    `<key>.1` and so on. A list of tensors, such as the boxes found in each image, becomes a column of arrays. NumPy
    arrays are treated like tensors, and nested mappings like dotted keys. If a batch lacks a column of other batches,
    its rows are empty there.

    Args:
        predictions: for each batch, a mapping of keys to tensors `[B]` or `[B, N]`, or to lists with an entry per
            sample; with several loaders, one such list per loader.
        cells: write each tensor `[B, ...]` of any rank to one column, whose cells hold an array per sample. With
            `id_column="id"` this is FuseMedML's table, which the evaluator of `fuse.eval` reads.
        id_column: the name of the column with the values of `data.sample_id`.

    Raises:
        ImportError: pandas is not installed.
        TypeError: a value is not a tensor, array or list.
        ValueError: a tensor has another rank, a batch's values have different lengths, `data.sample_id` cannot be
            renamed to `id_column`, or there are no predictions.

    Example:
        >>> import torch
        >>> batches = [{"data.sample_id": ["a", "b"], "model.output.cls": torch.tensor([[0.25, 0.75], [0.5, 0.5]])}]
        >>> print(convert_predictions_to_dataframe(batches).to_csv(index=False))
        data.sample_id,model.output.cls.0,model.output.cls.1
        a,0.25,0.75
        b,0.5,0.5
        <BLANKLINE>
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError(
            "convert_predictions_to_dataframe needs pandas, which is not installed: pip install pandas."
        ) from error

    batches = [batch for part in predictions for batch in (part if isinstance(part, list) else [part])]
    if not batches:
        raise ValueError("convert_predictions_to_dataframe got no predictions. Was the loader empty?")
    columns = [prediction_columns(batch, cells) for batch in batches]
    if id_column != SAMPLE_ID:
        if any(id_column in one or SAMPLE_ID not in one for one in columns):
            raise ValueError(
                f"convert_predictions_to_dataframe(id_column={id_column!r}) renames {SAMPLE_ID!r}, but the predictions "
                f"are under {', '.join(map(repr, columns[0]))}."
            )
        columns = [{id_column if key == SAMPLE_ID else key: one[key] for key in one} for one in columns]
    return pd.concat([pd.DataFrame(one) for one in columns], ignore_index=True)


def prediction_columns(batch: Mapping[str, Any], cells: bool = False) -> dict[str, Any]:
    """The columns of one batch's predictions: one-dimensional arrays, and lists with a value per sample.

    With `cells`, the value is the sample's array, whatever its rank.
    """
    columns: dict[str, Any] = {}
    for key, value in NDict(batch).items():
        if not isinstance(value, Tensor | np.ndarray):
            if isinstance(value, str | bytes) or not isinstance(value, Collection):
                raise TypeError(
                    f"Predictions are tensors, arrays or lists, with an entry per sample; {key!r} is a "
                    f"{type(value).__name__}. Leave it out, or repeat it for each sample."
                )
            columns[key] = [_array(one) if isinstance(one, Tensor | np.ndarray) else one for one in value]
            continue
        array = _array(value)
        if array.ndim == 1:
            columns[key] = array
        elif cells and array.ndim > 1:
            columns[key] = list(array)
        elif array.ndim == 2:
            columns.update({f"{key}.{i}": array[:, i] for i in range(array.shape[1])})
        else:
            raise ValueError(
                f"A table of predictions takes one number or one vector per sample, but {key!r} has shape "
                f"{array.shape}. Leave it out of prediction_keys, save it in on_predict_batch_end, or call "
                f"convert_predictions_to_dataframe(cells=True)."
            )
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name!r} has {length}" for name, length in lengths.items())
        raise ValueError(f"Predictions have an entry for each sample of the batch, but {found}.")
    return columns


def _array(value: Tensor | np.ndarray[Any, Any]) -> Any:
    """The values as an array on the CPU; a single value as itself."""
    if isinstance(value, Tensor):
        half = value.is_floating_point() and value.itemsize < 4  # NumPy or pandas may lack the dtype
        value = (value.float() if half else value).numpy(force=True)
    elif value.dtype == np.float16:
        value = value.astype(np.float32)
    return value[()]
