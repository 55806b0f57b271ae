"""Sharpness-aware minimization along the momentum, in one pass."""

import sys
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from .base_optimizer import with_wrapped
from .gradient_bucket import GroupParamGradient, bucket_gradients, global_norm
from .optimizer_wrapper import Closure, OptimizerWrapper
from .rng_snapshot import RNGSnapshot

MOMENTUM = ("momentum_buffer", "exp_avg")
"""The keys by which optimizers keep a momentum in a parameter's state."""


class MomentumSAM(OptimizerWrapper):
    r"""Sharpness-aware minimization in one pass: perturb the weights along the base optimizer's momentum.

    The gradient is taken at

    .. math:: \hat w = w - \rho \, \frac{v}{\lVert v \rVert_2} ,

    where :math:`v` is the momentum of the last step, `momentum_buffer` of SGD or `exp_avg` of Adam. Then :math:`w` is
    restored bit by bit, and the base optimizer takes its step with this gradient. The norm is over all parameters of
    groups with a `rho` above 0. The first step has no momentum yet, so nothing is perturbed. Source: Becker et al.
    2024, "Momentum-SAM: Sharpness Aware Minimization without Computational Overhead", arXiv 2401.12033, algorithm 1.

    A step costs one evaluation of the batch, and memory for one more set of weights. It needs no closure: `zero_grad`
    perturbs the weights and `step` restores them. So **call `zero_grad` before the forward pass, not after the step**;
    then the weights are the true ones between `step` and `zero_grad`, for evaluation and checkpoints. With a closure,
    as in PyTorch Lightning, `step` does both. With a `GradScaler`, call `step(grad_scaler=scaler)`: it restores the
    weights also if the scaler skips the step. `scaler.step(optimizer)` works as well, but leaves the weights perturbed
    in a skipped step; call `restore_weights` after it.

    Args:
        params: parameters or parameter groups. A group may have its own `rho`, stored as `sam_rho`.
        base_optimizer: an optimizer with momentum, its class, or a function of `(params, **base_kwargs)`.
        rho: the radius of the perturbation, in units of the weights. It is larger than SAM's: the paper uses 3 for
            ResNets on CIFAR100, where it uses 0.2 for SAM.
        start_step: the number of steps before the first one with a perturbation.
        start_fraction: the same as a fraction of `total_steps`.
        total_steps: the number of steps of the whole training, as for `SAM`.
        base_kwargs: arguments of the base optimizer.

    Raises:
        TypeError: `base_optimizer` neither is nor makes an optimizer.
        ValueError: as for `SAM`; or the base optimizer has no momentum.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        >>> optimizer = MomentumSAM([weight], torch.optim.SGD, rho=0.1, lr=0.1, momentum=0.9)
        >>> for _ in range(2):
        ...     optimizer.zero_grad()
        ...     weight.square().sum().backward()
        ...     optimizer.step()
        >>> weight.data
        tensor([ 0.4689, -0.9379])
    """

    def __init__(
        self,
        params: Iterable[Any],
        base_optimizer: Callable[..., Optimizer] | Optimizer,
        rho: float = 0.3,
        *,
        start_step: int = 0,
        start_fraction: float | None = None,
        total_steps: int | None = None,
        **base_kwargs: Any,
    ) -> None:
        settings = {"rho": rho}
        super().__init__(params, base_optimizer, settings, start_step, start_fraction, total_steps, base_kwargs)
        name = type(self.base_optimizer).__name__
        for group in self.param_groups:
            off = group["sam_rho"] > 0 and group.get("momentum") == 0 and "betas" not in group
            self._require(not off, f"a base optimizer with momentum, such as {name} with momentum=0.9", "momentum=0")
        if _leaves_momentum(self.base_optimizer, max(self.param_groups, key=lambda group: group["sam_rho"])) is False:
            raise ValueError(self._no_momentum())

    @torch.no_grad()
    def perturb_weights(self) -> None:
        """Perturb the weights before the forward pass. `zero_grad` calls it. A second call does nothing."""
        self._perturbation.opened = True
        if self._perturbation or self._steps_since_start < 0:
            return
        buckets = bucket_gradients(self._momentum())
        if buckets:
            norm = global_norm([bucket.norm(bucket.grads) for bucket in buckets])
            for bucket in buckets:
                self._perturbation.add(bucket, -bucket.group["sam_rho"], bucket.grads, norm)

    def _momentum(self) -> list[GroupParamGradient]:
        """Find the momentum that a step left: the group, the parameter, and its momentum."""
        found = []
        states = [optimizer.state for optimizer in with_wrapped(self.base_optimizer)]
        for group in self._checked_groups():
            if group["sam_rho"] == 0:
                continue
            for param in group["params"]:
                momentum = _momentum_in([state.get(param, {}) for state in states])
                if momentum is not None:
                    if momentum.layout is not torch.strided or momentum.shape != param.shape:
                        raise RuntimeError(
                            f"{type(self).__name__} needs a dense momentum of its parameter's shape "
                            f"{tuple(param.shape)}. {type(self.base_optimizer).__name__} keeps one of shape "
                            f"{tuple(momentum.shape)} and layout {momentum.layout}. Build embeddings with "
                            "sparse=False, or use another base optimizer, such as SGD or AdamW."
                        )
                    found.append((group, param, momentum))
        return found

    def restore_weights(self) -> None:
        """Undo `perturb_weights`. Otherwise it does nothing.

        Raises:
            RuntimeError: weights were written while they were perturbed. They keep what was written.
        """
        if changed := self._perturbation.restore(keep_written=True):
            raise RuntimeError(
                f"{type(self).__name__} cannot restore a weight of shape {tuple(changed[0].shape)}: it was written "
                "between zero_grad and step, while the weights were perturbed, and keeps what was written. Write "
                "weights, as load_state_dict or averaged weights do, between step and zero_grad, or after "
                "restore_weights. If the forward pass writes them (nn.Embedding with max_norm), pass step a closure."
            )

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients, and perturb the weights for the next forward pass.

        Args:
            set_to_none: as in torch's optimizers.

        Raises:
            RuntimeError: PyTorch Lightning calls it after the forward pass, as it does with `16-mixed` precision.
        """
        if not self._perturbation.opened and _lightning_has_run_forward():
            raise RuntimeError(
                f"{type(self).__name__}.zero_grad must come before the forward pass, because it perturbs the weights. "
                "With precision='16-mixed' or accumulate_grad_batches, Lightning calls it after. Give the Trainer "
                "fuse_optim.lightning.OptimizerClosureCallback(), or use 'bf16-mixed' or '32-true'."
            )
        super().zero_grad(set_to_none)
        self.perturb_weights()

    def step(self, closure: Closure | None = None, *, grad_scaler: GradScaler | None = None) -> Any:
        """Restore the weights and let the base optimizer take its step.

        Args:
            closure: clears the gradients, computes the loss, calls `backward` on it and returns it. It is called once,
                at the perturbed weights. Leave it out in a loop that calls `zero_grad` and `backward` itself.
            grad_scaler: the scaler whose `scale` multiplied the loss. It takes the base optimizer's step. Call its
                `update` after each step.

        Returns:
            What the closure returned.

        Raises:
            RuntimeError: the gradient was taken without a perturbation, because `zero_grad` was not called before;
                weights were written between `zero_grad` and `step`; or the base optimizer keeps no momentum.
        """
        loss = None
        if closure is not None:
            self._check_closure(closure)
            self.perturb_weights()
            try:
                with torch.enable_grad():
                    loss = closure()
            finally:
                self._perturbation.restore()
        elif self._perturbation.opened or self._steps_since_start < 0 or not self._momentum():
            self.restore_weights()
        else:
            raise RuntimeError(
                f"{type(self).__name__}.step got a gradient that was taken at the weights themselves. Call "
                "optimizer.zero_grad() before the forward pass: it perturbs the weights. Or pass a closure."
            )
        self._take_base_step(grad_scaler)
        if self.param_groups[0]["sam_steps"] == 1:
            self._check_momentum()
        return loss

    def _check_momentum(self) -> None:
        has_state = any(param.grad is not None for group in self.param_groups for param in group["params"])
        moving = any(group["sam_rho"] > 0 for group in self.param_groups)
        if has_state and moving and not self._momentum():
            raise RuntimeError(self._no_momentum())

    def _no_momentum(self) -> str:
        return (
            f"{type(self).__name__} needs a base optimizer with momentum, but the state of "
            f"{type(self.base_optimizer).__name__} holds neither {MOMENTUM[0]!r} nor {MOMENTUM[1]!r}."
        )


def _leaves_momentum(optimizer: Optimizer, group: dict[str, Any]) -> bool | None:
    """Whether a step leaves a momentum, tried with one weight and a group's settings. None if it cannot be tried."""
    weight = nn.Parameter(torch.zeros(1, 1))
    weight.grad = torch.ones(1, 1)
    try:
        settings = {name: group.get(name, default) for name, default in optimizer.defaults.items()}
        with RNGSnapshot().replay():  # a step may draw random numbers
            trial = type(optimizer)([weight], **settings)
            trial.step()
        return _momentum_in([trial.state[weight]]) is not None
    except Exception:  # any class may fail in its own way; then the first step tells
        return None


def _momentum_in(states: list[dict[str, Any]]) -> Tensor | None:
    """The first momentum in a parameter's states; some optimizers keep several, not in a tensor."""
    known = [state[key] for state in states for key in MOMENTUM if isinstance(state.get(key), Tensor)]
    return known[0] if known else None


def _lightning_has_run_forward() -> bool:
    """Whether PyTorch Lightning's automatic optimization is the caller: its closure clears gradients after forward."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and not frame.f_globals.get("__name__", "").endswith("loops.optimization.automatic"):
        frame = frame.f_back
    return frame is not None
