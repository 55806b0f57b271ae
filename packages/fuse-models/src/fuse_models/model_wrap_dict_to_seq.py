"""Wraps a model over a batch_dict as a module that takes and returns tensors."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from fuse_core import NDict, did_you_mean, provides, read_key

from .argument_checks import plain_key
from .conv_inputs import is_symbolic

TORCH_2_6 = torch.__version__.startswith("2.6.")
"""torch 2.6 cannot compile an NDict. A plain dict works there for models that use dotted keys, as ours do."""


class ModelWrapDictToSeq(nn.Module):
    """Puts its arguments into a batch_dict, calls the model with it, and returns the model's outputs.

    For tools that call a model with tensors: export, attribution maps, profilers.

    Args:
        fuse_model: a module that takes the batch_dict and returns it with its outputs added.
        output_key: the key of the output; a sequence of keys returns a tuple.
        input_key: the key of the argument; a sequence of keys takes as many arguments.

    Attributes:
        reads: the keys of the arguments.
        writes: the keys of the outputs.

    Raises:
        NestedKeyError: the model did not write an output.
        TypeError: `fuse_model` is no module, or the number of arguments differs from that of the input keys.
        ValueError: the model declares that it reads a key that is not an input key, or that it does not write an
            output key.

    Example:
        >>> import torch
        >>> from fuse_models import ModelWrapSeqToDict
        >>> model = ModelWrapSeqToDict(
        ...     model=nn.Linear(8, 2), model_inputs=["data.features"], model_outputs=["model.logits.cls"]
        ... )
        >>> plain = ModelWrapDictToSeq(model, output_key="model.logits.cls", input_key="data.features")
        >>> plain(torch.zeros(5, 8)).shape
        torch.Size([5, 2])
    """

    def __init__(self, fuse_model: nn.Module, output_key: str | Sequence[str], input_key: str | Sequence[str]) -> None:
        super().__init__()
        if not isinstance(fuse_model, nn.Module):
            raise TypeError(f"ModelWrapDictToSeq(fuse_model=) takes a module, got {fuse_model!r}.")
        self.model = fuse_model
        self.returns_tuple = not isinstance(output_key, str)
        self.reads = _keys("input_key", input_key)
        self.writes = _keys("output_key", output_key)
        self._empty_batch = NDict.fromkeys(self.reads)  # copied in each call, so that the keys are checked only once
        self._check(getattr(fuse_model, "reads", None), getattr(fuse_model, "writes", None))

    def _check(self, reads: Sequence[str] | None, writes: Sequence[str] | None) -> None:
        """Compares the given keys with those that the model declares, if any."""
        name = type(self.model).__name__
        for key in reads or ():
            if not provides(self.reads, key):
                hint = did_you_mean(key, self.reads)
                raise ValueError(f"{name} reads {key!r}, which input_key={list(self.reads)} lacks. Add it there.{hint}")
        if writes is not None:
            for key in self.writes:
                if not provides((*writes, *self.reads), key):
                    hint = did_you_mean(key, writes)
                    raise ValueError(f"{name} does not write {key!r}, but {list(writes)}.{hint}")

    def forward(self, *inputs: Any) -> Any:
        """The model's output under `output_key`, a tuple for a sequence of keys."""
        if is_symbolic(inputs):  # one stand-in for all arguments
            inputs = tuple(inputs[i] for i in range(len(self.reads)))
        if len(inputs) != len(self.reads):
            raise TypeError(
                f"ModelWrapDictToSeq takes {len(self.reads)} arguments, for {list(self.reads)}, got {len(inputs)}."
            )
        batch_dict: dict[str, Any] = {} if TORCH_2_6 and torch.compiler.is_compiling() else self._empty_batch.copy()
        for key, value in zip(self.reads, inputs, strict=True):
            batch_dict[key] = value
        model: Any = self._modules["model"]  # as self.model, without the detour through __getattr__
        result = model(batch_dict)
        if self.returns_tuple:
            return tuple([read_key(result, key, "ModelWrapDictToSeq") for key in self.writes])
        return read_key(result, self.writes[0], "ModelWrapDictToSeq")


def _keys(argument: str, keys: str | Sequence[str]) -> tuple[str, ...]:
    listed = (keys,) if isinstance(keys, str) else tuple(keys)
    if not listed or not all(isinstance(key, str) for key in listed):
        raise ValueError(f"ModelWrapDictToSeq({argument}=) takes a key or a non-empty sequence of keys, got {keys!r}.")
    return tuple(map(plain_key, listed))
