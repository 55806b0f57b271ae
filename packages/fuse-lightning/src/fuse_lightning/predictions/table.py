"""Predictions as a table."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from fuse_core import NDict

if TYPE_CHECKING:
    import pandas as pd


def convert_predictions_to_dataframe(predictions: Sequence[Mapping[str, Any]]) -> "pd.DataFrame":
    """The predictions of `Trainer.predict` as a table with one row per sample.

    A number, or a value that is not a tensor, becomes the column `<key>`; a vector becomes the columns `<key>.0`,
    `<key>.1` and so on. A list of tensors, such as the boxes found in each image, becomes a column of arrays. NumPy
    arrays are treated like tensors, and nested mappings like dotted keys. If a batch lacks a column of other batches,
    its rows are empty there.

    Args:
        predictions: for each batch, a mapping of keys to tensors `[B]` or `[B, N]`, or to lists with an entry per
            sample; with several loaders, one such list per loader.

    Raises:
        ImportError: pandas is not installed.
        TypeError: a value is not a tensor, array or list.
        ValueError: a tensor has another rank, a batch's values have different lengths, or there are no predictions.

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
    return pd.concat([pd.DataFrame(prediction_columns(batch)) for batch in batches], ignore_index=True)


def prediction_columns(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of one batch's predictions: one-dimensional arrays, and lists with a value per sample."""
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
        elif array.ndim == 2:
            columns.update({f"{key}.{i}": array[:, i] for i in range(array.shape[1])})
        else:
            raise ValueError(
                f"A table of predictions takes one number or one vector per sample, but {key!r} has shape "
                f"{array.shape}. Leave it out of prediction_keys, or save it in on_predict_batch_end."
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
