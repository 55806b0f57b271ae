"""The members of an ensemble, run one after another or in one vectorised pass."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from fuse_core import NDict, read_key

from .faster_execution import is_faster
from .same_architecture import architecture_difference
from .stacked_members import can_be_stacked, run_stacked

Execution = Literal["auto", "sequential", "vmap"]
EXECUTIONS: tuple[str, ...] = get_args(Execution)

MOST_INPUT = 2**18
"""Elements of a batch beyond which vectorising gains nothing, but multiplies the memory of the activations."""

MOST_WEIGHTS = 2**20
"""Elements of a member's parameters beyond which stacking them costs more than vectorising gains."""


class EnsembleMembers(nn.ModuleList):
    """Modules that each take a copy of the batch_dict; their predictions are stacked.

    Args:
        members: the modules.
        prediction_keys: the keys of the predictions.
        execution: see `ModelEnsemble`.

    Raises:
        ValueError: `execution="vmap"`, and the architectures differ.
    """

    def __init__(
        self,
        members: Sequence[nn.Module],
        prediction_keys: Sequence[str] = (),  # the defaults are for slices, which PyTorch makes from modules alone
        execution: Execution = "sequential",
    ) -> None:
        super().__init__(members)
        self.prediction_keys = tuple(prediction_keys)
        self.execution = execution
        self._has_one_architecture = len(members) > 1 and self._architectures_are_equal()
        self._is_small = sum(weight.numel() for member in members[:1] for weight in member.parameters()) <= MOST_WEIGHTS
        self._vectorised_is_faster: dict[Any, bool] = {}

    def _architectures_are_equal(self) -> bool:
        for i, member in enumerate(self):
            difference = architecture_difference(self[0], member)
            if difference is not None:
                if self.execution == "vmap":
                    raise ValueError(
                        f"ModelEnsemble(execution='vmap') needs models of one architecture, but models 0 and {i} "
                        f"differ in {difference}. Use execution='auto'."
                    )
                return False
        return True

    def forward(self, batch_dict: Mapping[str, Any]) -> list[Tensor]:
        """For each prediction key the members' predictions, stacked on a new first axis."""
        return self._vectorised(batch_dict) if self._vectorises(batch_dict) else self._one_by_one(batch_dict)

    def _one_by_one(self, batch_dict: Mapping[str, Any]) -> list[Tensor]:
        by_member = [self._predict(member, batch_dict, f"model {i}") for i, member in enumerate(self)]
        by_key = list(zip(*by_member, strict=True))
        for key, predictions in zip(self.prediction_keys, by_key, strict=True):
            if any(prediction.shape != predictions[0].shape for prediction in predictions):
                shapes = ", ".join(str(tuple(prediction.shape)) for prediction in predictions)
                raise ValueError(f"ModelEnsemble needs predictions of one shape, but those for {key!r} have {shapes}.")
        return [torch.stack(predictions) for predictions in by_key]

    def _vectorised(self, batch_dict: Mapping[str, Any]) -> list[Tensor]:
        # "auto" leaves members that draw random numbers alone: what they draw would depend on which way was faster.
        randomness: Literal["different", "error"] = "different" if self.execution == "vmap" else "error"
        return list(run_stacked(self, lambda member: self._predict(member, batch_dict, "a model"), randomness))

    def _predict(self, member: Callable[..., Any], batch_dict: Mapping[str, Any], name: str) -> tuple[Tensor, ...]:
        result = member(_own_copy(batch_dict))
        predictions = []
        for key in self.prediction_keys:
            prediction = read_key(result, key, f"ModelEnsemble, in what {name} returned,")
            if not isinstance(prediction, Tensor) or not prediction.is_floating_point():
                kind = f"{prediction.dtype}" if isinstance(prediction, Tensor) else type(prediction).__name__
                raise TypeError(
                    f"ModelEnsemble averages floating-point tensors, but {name} wrote {kind} to {key!r}. Take the key "
                    f"of its probabilities or logits."
                )
            predictions.append(prediction)
        return tuple(predictions)

    def _vectorises(self, batch_dict: Mapping[str, Any]) -> bool:
        if self.execution == "sequential" or not self._has_one_architecture:
            return False
        if self.execution == "vmap":
            return can_be_stacked(self)
        if torch.compiler.is_compiling() or torch.are_deterministic_algorithms_enabled() or not self._is_small:
            return False
        tensors = [value for value in batch_dict.values() if isinstance(value, Tensor)]
        if not tensors or sum(tensor.numel() for tensor in tensors) > MOST_INPUT:
            return False
        largest = max(tensors, key=Tensor.numel)
        # Lengths as powers of two, so that inputs of ever new shapes do not ask for ever new measurements.
        device = next((weight.device for weight in self.parameters()), largest.device)
        if torch.is_autocast_enabled(device.type):
            return False
        case = (device, torch.is_grad_enabled(), *(length.bit_length() for length in largest.shape))
        if not self._vectorised_is_faster.get(case, True) or not can_be_stacked(self):
            return False
        if case not in self._vectorised_is_faster:
            self._vectorised_is_faster[case] = is_faster(
                lambda: self._vectorised(batch_dict), lambda: self._one_by_one(batch_dict), device
            )
        return self._vectorised_is_faster[case]


def _own_copy(batch_dict: Mapping[str, Any]) -> dict[str, Any]:
    """The batch_dict with the same values, to which keys can be added without anyone else's seeing them."""
    if isinstance(batch_dict, NDict):
        return batch_dict.copy()
    return {key: _own_copy(value) if isinstance(value, Mapping) else value for key, value in batch_dict.items()}
