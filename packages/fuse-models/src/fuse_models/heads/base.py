"""What all heads share: their declared inputs, and the keys of their predictions."""

from collections.abc import MutableMapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from fuse_core import logits_key, output_key, read_key

from ..argument_checks import check_name, check_option
from ..conv_inputs import BatchDict, concatenate_channels, found, is_symbolic, parse_conv_inputs

Mode = Literal["classification", "regression"]
DeclaredInputs = Sequence[tuple[str, int]]


class HeadBase(nn.Module):
    """Reads feature maps and vectors from the batch_dict and writes predictions to it.

    Args:
        head_name: the last part of the written keys.
        mode: `"classification"` writes `model.logits.<head_name>` and, after a softmax over the classes,
            `model.output.<head_name>`; `"regression"` writes the values to `model.output.<head_name>`.
        conv_inputs: `(key, channels)` of each feature map, None for none.
        vector_inputs: `(key, size)` of each vector, None for none.

    Raises:
        ValueError: the mode is unknown, or there are no inputs, or an input does not declare its channels.
    """

    vectors_argument = "append_features"
    """The name of `vector_inputs` in the subclass."""

    def __init__(
        self, head_name: str, mode: Mode, conv_inputs: DeclaredInputs | None, vector_inputs: DeclaredInputs | None
    ) -> None:
        super().__init__()
        kind = type(self).__name__
        check_name(head_name, f"{kind}(head_name=)")
        self._reader = f"{kind} {head_name!r}"
        check_option(mode, get_args(Mode), f"{kind}(mode=)")
        if not conv_inputs and not vector_inputs:
            raise ValueError(
                f"{self._reader} has no inputs. Give conv_inputs=[(key, channels)], {self.vectors_argument}=[(key, "
                f"size)], or both."
            )
        self.head_name = head_name
        self.mode = mode
        self.conv_inputs = _declared(conv_inputs, f"{kind}(conv_inputs=)")
        self.vector_inputs = _declared(vector_inputs, f"{kind}({self.vectors_argument}=)")
        self.reads = tuple(key for key, _ in self.conv_inputs + self.vector_inputs)
        self.writes: tuple[str, ...] = (output_key(head_name),)
        if mode == "classification":
            self.writes = (logits_key(head_name), *self.writes)

    def read_vectors(self, batch_dict: MutableMapping[str, Any]) -> Tensor:
        """The vectors, concatenated and in the precision of the head's weights: `(batch, sum of sizes)`.

        A vector of size 1 may have the shape `(batch,)`, which is what collating numbers gives.
        """
        dtype = self._precision()
        vectors = []
        for key, size in self.vector_inputs:
            vector: Any = read_key(batch_dict, key, self._reader)
            if isinstance(vector, Tensor) and vector.ndim == 1 and size == 1:
                vector = vector[:, None]
            if not is_symbolic(vector) and (not isinstance(vector, Tensor) or vector.shape[1:] != (size,)):
                raise ValueError(
                    f"{self._reader} expects {key!r} to be vectors of size {size}, of shape (batch, {size}), but "
                    f"{found(vector)}. Declare the size that it has, or give another input."
                )
            vectors.append(vector.to(dtype))
        return concatenate_channels(vectors, (key for key, _ in self.vector_inputs), self._reader)

    def _precision(self) -> torch.dtype:
        """The dtype that the layers compute in. Weights of 8 bits are stored, not computed, in their dtype."""
        for weight in self.parameters():
            if weight.is_floating_point() and weight.element_size() > 1:
                return weight.dtype
        return torch.get_default_dtype()

    def write_scores(self, batch_dict: BatchDict, scores: Tensor) -> BatchDict:
        """The same batch_dict with the scores, `(batch, outputs, …)`, under the head's keys."""
        prediction = scores
        if self.mode == "classification":
            batch_dict[logits_key(self.head_name)] = scores
            prediction = scores.softmax(dim=1)
        batch_dict[output_key(self.head_name)] = prediction
        return batch_dict


def total_size(inputs: DeclaredInputs) -> int:
    """The number of channels of all inputs together."""
    return sum(size for _, size in inputs)


def _declared(inputs: DeclaredInputs | None, argument: str) -> tuple[tuple[str, int], ...]:
    declared = []
    for key, size in parse_conv_inputs(inputs, argument) if inputs else ():
        if size is None:
            raise ValueError(f"{argument} takes (key, size) pairs, as layers are built for a size, got {key!r} alone.")
        declared.append((key, size))
    return tuple(declared)
