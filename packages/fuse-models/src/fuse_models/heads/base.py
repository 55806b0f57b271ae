"""What all heads share: their declared inputs, and the keys of their predictions."""

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from fuse_core import logits_key, output_key, read_key

from ..argument_checks import check_name, check_option
from ..conv_inputs import BatchDict, concatenate_channels, found, is_symbolic, parse_conv_inputs
from ..layers.optional_inputs import OptionalInputs, Substitute
from ..weights.layouts.fusemedml import TakesFuseMedMLStateDict

Mode = Literal["classification", "multilabel", "regression"]
DeclaredInputs = Sequence[tuple[str, int]]


class HeadBase(TakesFuseMedMLStateDict):
    """Reads feature maps and vectors from the batch_dict and writes predictions to it.

    The arguments are those of `Head1D`; `vector_inputs` are its `append_features`.
    """

    # torch.jit.trace would compile them
    __jit_unused_properties__: ClassVar = ["reads", "writes", "prediction_kinds"]

    vectors_argument = "append_features"
    """The name of `vector_inputs` in the subclass."""

    def __init__(
        self,
        head_name: str,
        mode: Mode,
        conv_inputs: DeclaredInputs | None,
        vector_inputs: DeclaredInputs | None,
        optional_inputs: Mapping[str, Substitute] | None,
    ) -> None:
        super().__init__()
        kind = type(self).__name__
        head_name = check_name(head_name, f"{kind}(head_name=)")
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
        self.optional_inputs = OptionalInputs(optional_inputs, dict(self.vector_inputs), kind, self.vectors_argument)
        self.optional_reads = self.optional_inputs.optional_reads

    @property
    def reads(self) -> tuple[str, ...]:
        """The keys that the batch_dict must hold."""
        declared = self.conv_inputs + self.vector_inputs
        return tuple(key for key, _ in declared if key not in self.optional_inputs.keys)

    @property
    def writes(self) -> tuple[str, ...]:
        """The keys that are written."""
        return tuple(self.prediction_kinds)

    @property
    def prediction_kinds(self) -> dict[str, str]:
        """The kind of each written prediction, for `ModelEnsemble`."""
        output = output_key(self.head_name)
        if self.mode == "regression":
            return {output: "values"}
        kinds = ("logits", "probabilities") if self.mode == "classification" else ("label_logits", "labels")
        return dict(zip((logits_key(self.head_name), output), kinds, strict=True))

    def read_vectors(self, batch_dict: MutableMapping[str, Any], features: Tensor | None = None) -> Tensor:
        """The vectors, concatenated and in the precision of the head's weights: `(batch, sum of sizes)`.

        A vector of size 1 may have the shape `(batch,)`, which is what collating numbers gives. `features`, `(batch,
        ...)`, tell the batch size where all vectors are missing.
        """
        vectors = [self._read_vector(batch_dict, key, size) for key, size in self.vector_inputs]
        known = [tensor for tensor in (*vectors, features) if tensor is not None]  # torch 2.6 compiles no next()
        if not known:
            raise ValueError(f"{self._reader}: all its inputs are missing in this batch. Skip such batches.")
        filled = []
        for (key, _), vector in zip(self.vector_inputs, vectors, strict=True):
            if vector is None:
                vector = self.optional_inputs.substitute(key, known[0]).expand(known[0].shape[0], -1)
            filled.append(vector.to(self._precision()))
        return concatenate_channels(filled, (key for key, _ in self.vector_inputs), self._reader)

    def _read_vector(self, batch_dict: MutableMapping[str, Any], key: str, size: int) -> Tensor | None:
        vector: Any
        is_optional = key in self.optional_inputs.keys
        if is_optional:
            vector, present = self.optional_inputs.read(batch_dict, key)
            if vector is None:
                return None
        else:
            vector = read_key(batch_dict, key, self._reader)
        if size == 1 and (is_symbolic(vector) or (isinstance(vector, Tensor) and vector.ndim == 1)):
            vector = vector.reshape(-1, 1)
        if not is_symbolic(vector) and (not isinstance(vector, Tensor) or vector.shape[1:] != (size,)):
            raise ValueError(
                f"{self._reader} expects {key!r} to be vectors of size {size}, of shape (batch, {size}), but "
                f"{found(vector)}. Declare the size that it has, or give another input."
            )
        vector = vector.to(self._precision())
        return self.optional_inputs.fill(key, vector, present) if is_optional else vector

    def _precision(self) -> torch.dtype:
        """The dtype that the layers compute in. Weights of 8 bits are stored, not computed, in their dtype."""
        for weight in self.parameters():
            if weight.is_floating_point() and weight.element_size() > 1:
                return weight.dtype
        return torch.get_default_dtype()

    def write_scores(self, batch_dict: BatchDict, scores: Tensor | list[Tensor]) -> BatchDict:
        """The same batch_dict with the scores, `(batch, outputs, …)` or a list of such, under the head's keys."""
        if self.mode != "regression":
            batch_dict[logits_key(self.head_name)] = scores
        is_list = isinstance(scores, list)
        predictions = [self._activated(one) for one in scores] if is_list else self._activated(scores)
        batch_dict[output_key(self.head_name)] = predictions
        return batch_dict

    def _activated(self, scores: Any) -> Any:
        if self.mode == "regression":
            return scores
        return scores.softmax(dim=1) if self.mode == "classification" else scores.sigmoid()


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
