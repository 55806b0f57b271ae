"""The trained model as a file of tensors, with a page that describes it."""

import math
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from safetensors.torch import save
from torch import Tensor, nn

from ..__about__ import __version__
from ..run_folder import DESCRIPTION_FILE, MODEL_FILE
from .atomic_file import replace_file
from .state_dict_names import COMPILED


def save_model_files(model_dir: str | Path, model: nn.Module, state_dict: Mapping[str, Any], source: str) -> None:
    """Write a state dict as `model.safetensors` and a description of the model as `model.md`.

    The file holds no pickle. Tensors that share memory, such as tied embeddings, are each written in full, so that
    `load_state_dict` accepts the file.

    Args:
        model_dir: the folder.
        model: the module to describe.
        state_dict: its tensors, on any device.
        source: a sentence that says where the tensors come from.

    Raises:
        ValueError: a value is not a dense tensor with a dtype of safetensors.
    """
    check_only_tensors(state_dict)
    model = getattr(model, "_orig_mod", model)  # the model inside a compiled one
    tensors = {key: tensor.detach().to("cpu", copy=True).contiguous() for key, tensor in state_dict.items()}
    metadata = {"format": "pt", "model": type(model).__qualname__, "source": source}
    folder = Path(model_dir)
    with replace_file(folder / MODEL_FILE) as file:
        file.write(save(tensors, metadata=metadata))
    with replace_file(folder / DESCRIPTION_FILE) as file:
        file.write(describe_model(model, tensors, source).encode())


def check_only_tensors(state_dict: Mapping[str, Any]) -> None:
    """Raise ValueError if safetensors cannot store a value of the state dict."""
    others = [f"{key!r} ({_kind(value)})" for key, value in state_dict.items() if not _is_writable(value)]
    if others:
        raise ValueError(
            f"save_model writes tensors only, dense ones of safetensors' dtypes, but the model's state_dict holds "
            f"something else under {', '.join(others)}. Keep it in such a buffer, or save the model yourself."
        )


def _is_writable(value: Any) -> bool:
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized:
        return False
    try:
        save({"tensor": torch.empty(0, dtype=value.dtype)})
    except KeyError:  # in the table of dtypes
        return False
    return True


def _kind(value: Any) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{value.layout}, {value.dtype}".replace("torch.", "")


def describe_model(model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> str:
    """A page in Markdown: what the model is, its keys, its tensors and how to read them."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    lines = [
        f"# {type(model).__qualname__}",
        "",
        f"- Class: `{type(model).__module__}.{type(model).__qualname__}`",
        f"- Weights: `{MODEL_FILE}`. {source}",
        f"- Parameters: {parameters:,}, of which {trainable:,} were trained",
        f"- Written with fuse-lightning {__version__} and torch {torch.__version__}",
    ]
    for title, keys in (("Reads", getattr(model, "reads", None)), ("Writes", getattr(model, "writes", None))):
        if keys:
            lines.append(f"- {title}: {', '.join(f'`{key}`' for key in keys)}")
    lines += ["", "Make the model as it was made for training, then:", "", "```python"]
    lines += ["from safetensors.torch import load_file", "", f'model.load_state_dict(load_file("{MODEL_FILE}"))', "```"]
    lines += ["", "## Structure", "", "```", str(model), "```", ""]
    lines += ["## Tensors", "", "| name | shape | dtype |", "|---|---|---|"]
    for key, tensor in tensors.items():
        lines.append(f"| `{key}` | {tuple(tensor.shape)} | {str(tensor.dtype).removeprefix('torch.')} |")
    return "\n".join(lines) + "\n"


def save_best_or_last_model(trainer: pl.Trainer, model_dir: Path, model: nn.Module) -> None:
    """Write the weights of the best epoch, by the first checkpoint with a monitor; without one, the current weights.

    Call it on every process at the end of training. The first process writes. If that fails, it warns: the training has
    ended well, and its checkpoints are there.
    """
    best = next((one for one in trainer.checkpoint_callbacks if getattr(one, "monitor", None)), None)
    # A path without a score is in the folder of the run that was resumed. If every epoch's value is NaN,
    # ModelCheckpoint keeps the first epoch with an infinite score.
    score = getattr(best, "best_model_score", None)
    has_best = score is not None and math.isfinite(score)
    if has_best:
        source = f"They are of the best epoch: {best.monitor} was {float(score):.6g}."  # type: ignore[union-attr, arg-type]
    else:
        source = f"They are of the last epoch, {trainer.current_epoch - 1}."
        state_dict = trainer.strategy.lightning_module_state_dict()  # every process takes part: it may hold a shard
    if trainer.is_global_zero:
        try:
            if has_best:
                state_dict = _read_state_dict(Path(best.best_model_path))  # type: ignore[union-attr]
            save_model_files(model_dir, model, _of_model(state_dict), source)
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
            warnings.warn(f"save_model=True: {MODEL_FILE} was not written. {problem}", stacklevel=2)


def _read_state_dict(checkpoint: Path) -> dict[str, Any]:
    if checkpoint.is_dir():  # each process has written its part to it
        from torch.distributed.checkpoint.format_utils import dcp_to_torch_save  # the import takes 0.25 s

        with tempfile.TemporaryDirectory(dir=checkpoint.parent) as folder:
            whole = Path(folder) / "whole.ckpt"
            dcp_to_torch_save(checkpoint, whole)
            return _read_state_dict(whole)
    state_dict: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    return state_dict


def _of_model(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """The model's part of a module's state dict, with the keys of the model before it was compiled."""
    own = {key.removeprefix("model."): value for key, value in state_dict.items() if key.startswith("model.")}
    return {key.replace(COMPILED, ""): value for key, value in own.items()}
