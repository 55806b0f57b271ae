"""Wraps any PyTorch module as a model over a batch_dict."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from fuse_core import did_you_mean, read_key

from .argument_checks import plain_key
from .conv_inputs import BatchDict

OWNER = "ModelWrapSeqToDict"


class ModelWrapSeqToDict(nn.Module):
    """Reads the wrapped model's inputs from the batch_dict, calls it, and writes its outputs back.

    Args:
        model: the module to wrap. The wrapper hands on its attributes and submodules for reading: `wrapper.classifier`
            is `wrapper.model.classifier`. Set them on `wrapper.model`.
        model_inputs: the keys of the model's positional inputs, or `{argument name: key}`.
        model_outputs: one key for each output, None to drop one. A returned tuple is as many outputs as it has
            elements; a tensor, a list or any other value is one output. With several keys, a list is taken apart too.
            `{name: key}` selects outputs by name from a returned mapping, dataclass or named tuple.
        pre_forward_processing_function: gets the list (or dict, by argument name) of inputs and returns the inputs to
            use.
        post_forward_processing_function: gets the model's result and returns the result to use.

    Raises:
        NestedKeyError: the batch_dict lacks an input.
        TypeError: `model` is no module, a key is no string, or the pre-function returns neither list nor dict.
        ValueError: a key is given for two outputs, or the model's outputs differ from the declared ones in number or
            lack a declared name.

    Example:
        >>> import torch
        >>> from fuse_core import NDict
        >>> model = ModelWrapSeqToDict(
        ...     model=torch.nn.Linear(8, 2), model_inputs=["data.features"], model_outputs=["model.logits.cls"]
        ... )
        >>> model(NDict({"data.features": torch.zeros(5, 8)}))["model.logits.cls"].shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        model_inputs: Sequence[str] | Mapping[str, str],
        model_outputs: Sequence[str | None] | Mapping[str, str],
        pre_forward_processing_function: Callable[[Any], Any] | None = None,
        post_forward_processing_function: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__()
        for name, keys in (("model_inputs", model_inputs), ("model_outputs", model_outputs)):
            if isinstance(keys, str) or not keys:
                raise ValueError(
                    f"ModelWrapSeqToDict({name}=) takes a non-empty sequence or mapping of keys, got {keys!r}. "
                    f"For one key, use [key]."
                )
            may_drop = name == "model_outputs" and not isinstance(keys, Mapping)
            for key in keys.values() if isinstance(keys, Mapping) else keys:
                if not (isinstance(key, str) or (key is None and may_drop)):
                    raise TypeError(f"ModelWrapSeqToDict({name}=) takes keys, which are strings, got {key!r}.")
        if not isinstance(model, nn.Module):
            raise TypeError(f"ModelWrapSeqToDict(model=) takes a module, got {model!r}.")
        # Plain tuples and dicts: a caller's list may change later, and torch.compile need not guard more than these.
        self.model_inputs = _plain(model_inputs)
        self.model_outputs = _plain(model_outputs)
        self.reads, self.writes = _keys(self.model_inputs), _keys(self.model_outputs)
        if len(set(self.writes)) != len(self.writes):
            raise ValueError(f"ModelWrapSeqToDict needs a key of its own for each output, got {self.writes}.")
        self.model = model
        self.pre_forward_processing_function = pre_forward_processing_function
        self.post_forward_processing_function = post_forward_processing_function

    def forward(self, batch_dict: BatchDict) -> BatchDict:
        """The same batch_dict with the outputs written to it."""
        inputs: Any
        if isinstance(self.model_inputs, dict):
            inputs = {name: read_key(batch_dict, key, OWNER) for name, key in self.model_inputs.items()}
        else:
            inputs = [read_key(batch_dict, key, OWNER) for key in self.model_inputs]
        if self.pre_forward_processing_function is not None:
            inputs = self.pre_forward_processing_function(inputs)
            if not isinstance(inputs, (list, tuple, dict)):  # a tensor would be split into samples
                raise TypeError(
                    f"ModelWrapSeqToDict of {list(self.reads)}: pre_forward_processing_function must return the list "
                    f"or dict of inputs, but it returned {_kind(inputs)}. Return [input]."
                )
        model: Any = self._modules["model"]  # as self.model, without the detour through __getattr__
        outputs = model(**inputs) if isinstance(inputs, dict) else model(*inputs)
        if self.post_forward_processing_function is not None:
            outputs = self.post_forward_processing_function(outputs)
        for key, output in self._outputs_by_key(outputs):
            if key is not None:
                batch_dict[key] = output
        return batch_dict

    def _outputs_by_key(self, outputs: Any) -> Iterable[tuple[str | None, Any]]:
        keys = self.model_outputs
        if isinstance(keys, dict):
            by_name = _by_name(outputs)
            for name, key in keys.items():
                if name not in by_name:
                    raise ValueError(
                        f"ModelWrapSeqToDict takes the output {name!r} for {key!r}, but the model returned "
                        f"{sorted(by_name)}.{did_you_mean(name, by_name)}"
                    )
            return [(key, by_name[name]) for name, key in keys.items()]
        # A tuple is several outputs. A tensor or a list has a length too, but is one value.
        if len(keys) == 1 and not isinstance(outputs, tuple):
            return [(keys[0], outputs)]
        if not isinstance(outputs, (tuple, list)) or len(outputs) != len(keys):
            returned = f"{len(outputs)} outputs" if isinstance(outputs, (tuple, list)) else _kind(outputs)
            raise ValueError(
                f"ModelWrapSeqToDict writes {len(keys)} outputs {keys}, but the model returned {returned}. "
                f"Declare one key per output, None for those to drop."
            )
        return zip(keys, outputs, strict=True)

    def __getattr__(self, name: str) -> Any:
        # Only called for attributes that the wrapper itself does not have.
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "model":
                raise
            return getattr(self.model, name)


def _plain(keys: Mapping[str, str] | Sequence[Any]) -> dict[str, str] | tuple[Any, ...]:
    if isinstance(keys, Mapping):
        return {name: plain_key(key) for name, key in keys.items()}
    return tuple(None if key is None else plain_key(key) for key in keys)


def _keys(keys: Mapping[str, str] | Sequence[str | None]) -> tuple[str, ...]:
    return tuple(key for key in (keys.values() if isinstance(keys, Mapping) else keys) if key is not None)


def _kind(outputs: object) -> str:
    return (
        f"one tensor of shape {tuple(outputs.shape)}"
        if isinstance(outputs, Tensor)
        else f"one {type(outputs).__name__}"
    )


def _by_name(outputs: Any) -> Mapping[str, Any]:
    if isinstance(outputs, Mapping):
        return outputs
    if dataclasses.is_dataclass(outputs):
        return {field.name: getattr(outputs, field.name) for field in dataclasses.fields(outputs)}
    if isinstance(outputs, tuple) and hasattr(outputs, "_fields"):
        return dict(zip(outputs._fields, outputs, strict=True))
    raise ValueError(
        "ModelWrapSeqToDict(model_outputs={name: key}) needs a model that returns a mapping, dataclass or named tuple, "
        f"but it returned {_kind(outputs)}. Give model_outputs as a sequence of keys."
    )
