"""Reads a state dict from a file, without running code that the file may hold."""

import os
import pickle
import pickletools
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

CONTAINERS = ("state_dict", "model", "model_state_dict", "network_weights")
"""Where checkpoints keep the state dict: Lightning, torchvision's references, PyTorch's tutorials and nnU-Net. They are
taken first if a checkpoint holds several state dicts."""

EXTRA_STATE = "_extra_state"
"""The end of the name under which a module keeps what `get_extra_state` gives, which need not be a tensor."""


class PickledObjectsError(ValueError):
    """A file holds pickled objects, which were not loaded because that could run any code."""


def load_state_dict_file(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a file, on the CPU.

    A safetensors file is read by safetensors, any other by `torch.load(weights_only=True)`, which rebuilds only tensors
    and plain containers and runs no code. From a checkpoint it takes the state dict below `"state_dict"`, `"model"`,
    `"model_state_dict"` or `"network_weights"`, or the only one that it holds.

    Args:
        path: a file such as `model.safetensors`, `resnet18.pth` or `best_epoch.ckpt`.

    Returns:
        Tensors by dotted name, and the extra state of modules that have one.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, holds pickled objects, or holds no state dict. Names the file.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "linear.pth")
        >>> torch.save(torch.nn.Linear(3, 2).state_dict(), path)
        >>> {name: tuple(tensor.shape) for name, tensor in load_state_dict_file(path).items()}
        {'weight': (2, 3), 'bias': (2,)}
    """
    path = Path(path)
    if not path.is_file():
        what = "it is a folder. Give the file in it" if path.is_dir() else "there is no such file"
        raise FileNotFoundError(f"No weights at {str(path)!r}: {what}.")
    if is_safetensors(path):
        try:
            return safetensors.torch.load_file(path)
        except safetensors.SafetensorError as error:
            raise ValueError(f"{str(path)!r} is no readable safetensors file: {error}.") from error
    return state_dict_in(load_torch_file(path), repr(str(path)))


def is_safetensors(path: Path) -> bool:
    """Whether a file is one of safetensors, by its name or by the JSON that follows the length of its header."""
    with path.open("rb") as file:
        return path.suffix.lower() == ".safetensors" or file.read(9)[8:] == b"{"


def load_torch_file(path: Path, *, trust_pickle: bool = False) -> Any:
    """The content of a file saved by torch, on the CPU; errors as in `load_state_dict_file`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols, which the error below is about
            return torch.load(path, map_location="cpu", weights_only=not trust_pickle)
    except pickle.UnpicklingError as error:
        reason = " ".join(str(error).rpartition("WeightsUnpickler error:")[2].split()).partition(". ")[0]
        reason = reason.partition(" Check the documentation")[0]
        if trust_pickle or not _is_whole_pickle(path, reason):
            raise _damaged(path, error, reason) from error
        raise PickledObjectsError(
            f"{str(path)!r} holds pickled objects, not only tensors and plain containers ({reason}), and was not "
            f"loaded: unpickling runs whatever code the file's author put there. Save the weights alone, by "
            f"torch.save(model.state_dict(), path) or safetensors.torch.save_model(model, path), if you trust the file."
        ) from None
    except MemoryError:
        raise
    except Exception as error:  # what a damaged file raises depends on where it is damaged
        if isinstance(error, OSError) and error.filename is not None:  # such as a missing permission
            raise
        raise _damaged(path, error, str(error).partition("\n")[0].partition(". ")[0]) from error


def _is_whole_pickle(path: Path, reason: str) -> bool:
    """Whether the file was refused for a class in it, not because it is text or damaged."""
    refused = re.search(r"GLOBAL (\S*)", reason)
    operand = re.search(r"Unsupported operand (\d+)", reason)
    if operand is not None and chr(int(operand[1])) not in {known.code for known in pickletools.opcodes}:
        return False
    with path.open("rb") as file:
        start = file.read(4)
        if start[:1] != b"\x80" and start != b"PK\x03\x04":  # a pickle's, and a zip archive's
            return False
        file.seek(-min(200, path.stat().st_size), os.SEEK_END)
        end = file.read().rstrip(b"\n")
    name = refused[1].rpartition(".")[2].encode() if refused else b""
    return refused is None or (
        not end.endswith(name) and not end[:-1].rstrip(b"\n").endswith(name)
    )  # torch drops the last character


def _damaged(path: Path, error: Exception, reason: str) -> ValueError:
    return ValueError(
        f"{str(path)!r} is no readable checkpoint ({type(error).__name__}: {reason}). If it is damaged, copy or "
        f"download it again. If it is of another format, save its state dict by torch.save."
    )


def state_dict_in(content: Any, where: str) -> dict[str, Tensor]:
    """The state dict in a checkpoint: the content itself, below one or several of `CONTAINERS`, or the only one."""
    while isinstance(content, Mapping):
        known = [content[name] for name in CONTAINERS if isinstance(content.get(name), Mapping)]
        inner = known or [value for value in content.values() if isinstance(value, Mapping) and _holds_weights(value)]
        if not known and (len(inner) != 1 or any(isinstance(value, Tensor) for value in content.values())):
            break
        content = inner[0]
    if not isinstance(content, Mapping):
        raise ValueError(f"{where} holds a {type(content).__name__}, where a state dict was expected.")
    if others := _others(content):
        listed = ", ".join(others[:5]) + ", …" * (len(others) > 5)
        raise ValueError(
            f"{where} holds no state dict, which maps names to tensors, but {listed}. Take the state dict out of "
            f"it and pass that, or save it alone."
        )
    return dict(content)


def _holds_weights(content: Mapping[Any, Any]) -> bool:
    """Whether a mapping is a state dict, and not one of metrics, which are single numbers."""
    return not _others(content) and any(isinstance(one, Tensor) and one.ndim > 0 for one in content.values())


def _others(content: Mapping[Any, Any]) -> list[str]:
    """What a mapping holds that a state dict does not."""
    others = [
        f"{name!r} ({type(value).__name__})"
        for name, value in content.items()
        if not isinstance(name, str) or not (isinstance(value, Tensor) or name.endswith(EXTRA_STATE))
    ]
    return others if content else ["nothing at all"]
