"""Several backbones side by side, whose features are joined, and heads."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from fuse_core import BACKBONE_FEATURES

from .argument_checks import is_positive
from .conv_inputs import BatchDict, ConvInput, concatenate_channels, is_symbolic, parse_conv_inputs, read_conv_inputs
from .layers.optional_inputs import OptionalInputs, Substitute
from .model_with_heads import ModelWithHeads

SplitLogic = Callable[[Mapping[str, Any], Sequence[nn.Module]], Sequence[Any]]
JoinLogic = Callable[[Mapping[str, Any], Sequence[Any]], Any]


class ModelMultistream(ModelWithHeads):
    """Streams that each see a part of the input, their features joined on the channel axis, and heads.

    Args:
        conv_inputs: the input of the streams. A key, or a pair of a key and its number of channels: a tensor of shape
            (N, C, ...) with one channel for each stream. A sequence of one such key or pair, `[("data.image", 3)]`,
            means the same, unless there is only one stream. A sequence of several: one key for each stream.
        backbone_streams: a module for each stream. Streams share their weights if the same module stands there several
            times, as in `[backbone] * 3`; it is registered once.
        heads: modules that take the batch_dict and return it with their outputs added, as in `ModelMultiHead`.
        split_logic: a function that runs the streams in place of the above, called as
            `split_logic(batch_dict, streams)`, and returns their outputs. It must read the keys of `conv_inputs` only.
        join_logic: a function called as `join_logic(batch_dict, outputs)` that returns the features; None concatenates
            the outputs on the channel axis.
        key_out_features: the key of the features.
        optional_inputs: the keys of `conv_inputs` that a batch or a sample may lack, each with `"learned"` or `"zero"`:
            the features of its stream are then a vector that is trained, or zeros, at every location. A batch lacks it
            if the key is missing or holds None; a sample does where `<key>_present`, `(batch,)`, is False. It takes one
            key for each stream, and streams with `feature_depth`. A stream runs on zeros in place of missing samples,
            which its batch normalization sees. For batches that lack a key, DistributedDataParallel needs
            `find_unused_parameters=True`.

    Attributes:
        backbone_streams: each module once, in the order of first use.
        reads: as `ModelMultiHead.reads`.
        writes: as `ModelMultiHead.writes`.

    Raises:
        NestedKeyError: the batch_dict lacks an input.
        TypeError: a stream or a head is no module, or a logic is not callable.
        ValueError: there are not as many channels, or keys, as streams; two heads write the same key; or the outputs
            cannot be concatenated.

    Example:
        >>> import torch
        >>> from fuse_core import NDict
        >>> streams = [nn.Conv2d(1, 4, 3), nn.Conv2d(1, 6, 3)]
        >>> model = ModelMultistream(("data.image", 2), streams, heads=[])
        >>> model(NDict({"data.image": torch.rand(5, 2, 8, 8)}))["model.backbone_features"].shape
        torch.Size([5, 10, 6, 6])
    """

    def __init__(
        self,
        conv_inputs: ConvInput | Sequence[ConvInput],
        backbone_streams: Sequence[nn.Module],
        heads: Sequence[nn.Module],
        split_logic: SplitLogic | None = None,
        join_logic: JoinLogic | None = None,
        key_out_features: str = BACKBONE_FEATURES,
        optional_inputs: Mapping[str, Substitute] | None = None,
    ) -> None:
        super().__init__()
        streams = list(backbone_streams) if isinstance(backbone_streams, Iterable) else []
        if not streams or not all(isinstance(stream, nn.Module) for stream in streams):
            raise TypeError(
                f"ModelMultistream(backbone_streams=) takes a non-empty sequence of modules, got {backbone_streams!r}."
            )
        for name, logic in (("split_logic", split_logic), ("join_logic", join_logic)):
            if logic is not None and not callable(logic):
                raise TypeError(f"ModelMultistream({name}=) takes a function or None, got {logic!r}.")
        is_one_input = _is_one_input(conv_inputs)
        listed: Any = [conv_inputs] if is_one_input else conv_inputs
        self.inputs = parse_conv_inputs(listed, "ModelMultistream(conv_inputs=)")
        self.splits_channels = is_one_input or len(self.inputs) == 1 < len(streams)
        unique = list(dict.fromkeys(streams))
        self.backbone_streams = nn.ModuleList(unique)
        self._module_of_stream = tuple(unique.index(stream) for stream in streams)
        if split_logic is None:
            self._check_inputs()
        self.split_logic = split_logic
        self.join_logic = join_logic
        self._add_heads(heads, self.inputs, key_out_features)
        self.optional_inputs = self._optional(optional_inputs or {}, streams)
        self._optional_reads = self.optional_inputs.optional_reads

    def _optional(self, substitutes: Mapping[str, Substitute], streams: Sequence[nn.Module]) -> OptionalInputs:
        if not substitutes:
            return OptionalInputs({}, {}, "ModelMultistream", "conv_inputs")
        if self.splits_channels or self.split_logic is not None:
            raise ValueError("ModelMultistream(optional_inputs=) needs one key in conv_inputs for each stream.")
        keys = (key for key, _ in self.inputs)
        sizes = {key: getattr(stream, "feature_depth", 0) for key, stream in zip(keys, streams, strict=True)}
        for key in substitutes:
            if not is_positive(sizes.get(key, 1)):
                raise ValueError(
                    f"ModelMultistream(optional_inputs=): the stream of {key!r} needs the attribute feature_depth, the "
                    f"number of its output channels."
                )
        return OptionalInputs(substitutes, sizes, "ModelMultistream", "conv_inputs")

    def _check_inputs(self) -> None:
        keys, streams = len(self.inputs), len(self._module_of_stream)
        if self.splits_channels:
            self._check_channels(self.inputs[0][1] or streams)
        elif keys != streams:
            raise ValueError(
                f"ModelMultistream gives each stream one of the keys in conv_inputs, but there are {keys} keys for "
                f"{streams} streams. Give as many keys as streams, or one, whose channels are split."
            )

    def _check_channels(self, channels: int) -> None:
        streams = len(self._module_of_stream)
        if channels != streams:
            raise ValueError(
                f"ModelMultistream gives each of its {streams} streams one channel, but {self.inputs[0][0]!r} has "
                f"{channels} channels (axis 1). Give as many streams as channels, or split_logic."
            )

    def forward(self, batch_dict: BatchDict) -> BatchDict:
        """The batch_dict with the joined features and the heads' outputs written to it."""
        streams = [self.backbone_streams[i] for i in self._module_of_stream]
        if self.split_logic is not None:
            outputs = self.split_logic(batch_dict, streams)
        else:
            outputs = self._outputs(batch_dict, streams)
        if self.join_logic is not None:
            features = self.join_logic(batch_dict, outputs)
        else:
            names = (f"stream {i}" for i in range(len(outputs)))
            features = concatenate_channels(outputs, names, type(self).__name__)
        return self._run_heads(batch_dict, features)

    def _outputs(self, batch_dict: Mapping[str, Any], streams: Sequence[nn.Module]) -> Sequence[Tensor]:
        if not self.optional_inputs.keys:
            return [stream(part) for stream, part in zip(streams, self._parts(batch_dict), strict=True)]
        name = type(self).__name__
        outputs: list[Tensor | None] = []
        for declared, stream in zip(self.inputs, streams, strict=True):
            key = declared[0]
            if key not in self.optional_inputs.keys:
                outputs.append(stream(*read_conv_inputs(batch_dict, (declared,), name)))
                continue
            value, present = self.optional_inputs.read(batch_dict, key)
            if value is None:
                outputs.append(None)
                continue
            (x,) = read_conv_inputs({key: value}, (declared,), name)
            if present is not None:
                x = torch.where(present.reshape(-1, *[1] * (x.ndim - 1)), x, 0)  # where it may hold anything, even NaN
            outputs.append(self.optional_inputs.fill(key, stream(x), present))
        known = [output for output in outputs if output is not None]  # torch 2.6 compiles no next()
        if not known:
            raise ValueError(f"{name}: all inputs are missing in this batch. Skip such batches.")
        like = known[0]
        filled = []
        for (key, _), output in zip(self.inputs, outputs, strict=True):
            if output is None:
                vector = self.optional_inputs.substitute(key, like).reshape(1, -1, *[1] * (like.ndim - 2))
                output = vector.expand(like.shape[0], -1, *like.shape[2:])
            filled.append(output)
        return filled

    def _parts(self, batch_dict: Mapping[str, Any]) -> Sequence[Tensor]:
        tensors = read_conv_inputs(batch_dict, self.inputs, type(self).__name__)
        if not self.splits_channels:
            return tensors
        if not is_symbolic(tensors[0]):
            self._check_channels(tensors[0].shape[1])
        return [tensors[0][:, i : i + 1] for i in range(len(self._module_of_stream))]


def _is_one_input(conv_inputs: Any) -> bool:
    """Whether `conv_inputs` is one key, or one pair of a key and a number, not a sequence of them."""
    if isinstance(conv_inputs, str):
        return True
    return isinstance(conv_inputs, (tuple, list)) and len(conv_inputs) == 2 and isinstance(conv_inputs[1], Integral)
