"""The members of an ensemble, run one after another or in one vectorized pass."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from fuse_core import NDict, read_key

from ..conv_inputs import is_symbolic
from .same_architecture import architecture_difference

Execution = Literal["sequential", "vmap"]
EXECUTIONS: tuple[str, ...] = get_args(Execution)


class EnsembleMembers(nn.ModuleList):
    """Modules that each take a copy of the batch_dict; their predictions are stacked. See `ModelEnsemble`."""

    low_memory = False  # set by the ensemble; slices are made by PyTorch, from modules alone

    def check_one_architecture(self) -> None:
        """Raises `ValueError` unless the members differ in the values of their weights only."""
        for i, member in enumerate(self):
            difference = architecture_difference(self[0], member)
            if difference is not None:
                raise ValueError(
                    f"ModelEnsemble(execution='vmap') needs models of one architecture, but models 0 and {i} differ in "
                    f"{difference}. Use execution='sequential'."
                )

    def forward(
        self, batch_dict: Mapping[str, Any], keys: Sequence[str], execution: Execution
    ) -> list[tuple[Sequence[Tensor], Tensor]]:
        """For each prediction key the members' predictions, and the same stacked on a new first axis."""
        if not len(self):
            raise ValueError("ModelEnsemble has no models left. Append one to ModelEnsemble.models.")
        if execution == "vmap" and _can_be_vectorised(self, batch_dict):
            self.check_one_architecture()  # in each call, because members may be changed or replaced at any time
            return [(predictions.unbind(), predictions) for predictions in self._predict_stacked(batch_dict, keys)]
        predict = self._predict_and_leave if self.low_memory else self._predict
        by_member = [predict(member, batch_dict, keys, f"model {i}") for i, member in enumerate(self)]
        by_key = list(zip(*by_member, strict=True))
        for key, predictions in zip(keys, by_key, strict=True):
            if is_symbolic(predictions[0]):
                continue
            if any(prediction.shape != predictions[0].shape for prediction in predictions):
                shapes = ", ".join(str(tuple(prediction.shape)) for prediction in predictions)
                raise ValueError(f"ModelEnsemble needs predictions of one shape, but those for {key!r} have {shapes}.")
        return [(predictions, torch.stack(predictions)) for predictions in by_key]

    def _predict_and_leave(
        self, member: nn.Module, batch_dict: Mapping[str, Any], keys: Sequence[str], name: str
    ) -> tuple[Tensor, ...]:
        """Predict with a member that is on the batch's device only meanwhile."""
        device = next((value.device for value in batch_dict.values() if isinstance(value, Tensor)), torch.device("cpu"))
        try:
            with torch.no_grad():  # gradients would need all members on the device
                if not _is_on(member, device):  # exporters cannot follow a move, even to where it is
                    member.to(device)
                return self._predict(member, batch_dict, keys, name)
        finally:
            if not _is_on(member, torch.device("cpu")):
                member.cpu()

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """As in every module, for `.to()` and `.half()`, but in low memory the members return to the CPU one by one."""
        if not self.low_memory:
            return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for member in self:
            member._apply(fn, recurse)  # type: ignore[no-untyped-call]
            member.cpu()
        return self

    def _predict_stacked(self, batch_dict: Mapping[str, Any], keys: Sequence[str]) -> tuple[Tensor, ...]:
        """The members' predictions, stacked on a new first axis, from one pass over their stacked weights.

        The weights are stacked in each call, so that they are the members' current ones, and gradients reach the
        members. `torch.func.stack_module_state` would detach them. Each member draws random numbers of its own.
        """
        weights = [_weights(member) for member in self]
        stacked = {name: torch.stack([of_member[name] for of_member in weights]) for name in weights[0]}

        def predict(of_member: dict[str, Tensor]) -> tuple[Tensor, ...]:
            def member(batch_dict: Mapping[str, Any]) -> Any:
                return functional_call(self[0], of_member, (batch_dict,), tie_weights=False)

            return self._predict(member, batch_dict, keys, "a model")

        predictions: tuple[Tensor, ...] = vmap(predict, randomness="different")(stacked)
        return predictions

    def _predict(
        self, member: Callable[..., Any], batch_dict: Mapping[str, Any], keys: Sequence[str], name: str
    ) -> tuple[Tensor, ...]:
        result = member(_own_copy(batch_dict))
        predictions = []
        for key in keys:
            prediction = read_key(result, key, f"ModelEnsemble, in what {name} returned,")
            is_tensor = isinstance(prediction, Tensor)
            if not is_symbolic(prediction) and not (is_tensor and prediction.is_floating_point()):
                kind = f"{prediction.dtype}" if is_tensor else type(prediction).__name__
                raise TypeError(
                    f"ModelEnsemble averages floating-point tensors, but {name} wrote {kind} to {key!r}. Use the key "
                    f"of its probabilities or logits."
                )
            predictions.append(prediction)
        return tuple(predictions)


def _is_on(member: nn.Module, device: torch.device) -> bool:
    return all(tensor.device == device for tensor in (*member.parameters(), *member.buffers()))


def _own_copy(batch_dict: Mapping[str, Any]) -> dict[str, Any]:
    """A copy that holds the same values. Keys added to it are not seen by the other members."""
    if isinstance(batch_dict, NDict):
        return batch_dict.copy()
    return {key: _own_copy(value) if isinstance(value, Mapping) else value for key, value in batch_dict.items()}


def _can_be_vectorised(members: nn.ModuleList, batch_dict: Mapping[str, Any]) -> bool:
    """Whether members of one architecture do the same in a pass over their stacked weights.

    They do not in training mode, in which layers write to buffers, nor with hooks, which would see the tensors of all
    members at once. Compilers and exporters trace the members one after another, so that each member's own attributes
    are in the graph. Members without weights have nothing to stack.
    """
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None or not _weights(members[0]):
        return False
    if any(map(is_symbolic, batch_dict.values())):
        return False
    return not any(
        module.training
        or module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        for module in members.modules()
        if module is not members
    )


def _weights(member: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, under one name for each place that holds them.

    A module that others share is named once; a parameter that two modules hold is named twice. With
    `functional_call(tie_weights=True)` the stacked tensors would stay in a shared module.
    """
    return {
        f"{path}.{name}" if path else name: tensor
        for path, module in member.named_modules()
        for named in (module._parameters, module._buffers)
        for name, tensor in named.items()
        if tensor is not None
    }
