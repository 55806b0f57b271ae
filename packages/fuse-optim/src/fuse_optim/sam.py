"""Sharpness-aware minimization."""

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from numbers import Integral
from typing import Any, Literal, cast

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from .batch_norm_stats import freeze_batch_norm_stats
from .gradient_bucket import GradientBucket, bucket_gradients, dense_gradients, global_norm
from .loss_scaling import overflows, skip_step
from .optimizer_wrapper import Closure, OptimizerWrapper
from .rng_snapshot import RNGSnapshot


class SAM(OptimizerWrapper):
    r"""Sharpness-aware minimization: descend along the gradient taken at the worst point nearby.

    A step takes the gradient :math:`g = \nabla L(w)` at the weights and perturbs the weights to

    .. math::
        \hat w = w + \rho \, \frac{g}{\lVert g \rVert_2}
        \qquad \text{or, if adaptive,} \qquad
        \hat w = w + \rho \, \frac{T_w^2 \, g}{\lVert T_w \, g \rVert_2}, \quad T_w = \mathrm{diag}(|w| + \eta).

    Then it takes the gradient there, restores :math:`w`, and the base optimizer descends along that gradient. Norms are
    over all parameters together. Sources: Foret et al. 2021, "Sharpness-Aware Minimization for Efficiently Improving
    Generalization", arXiv 2010.01412, equations 2 and 3; Kwon et al. 2021, "ASAM: Adaptive Sharpness-Aware Minimization
    for Scale-Invariant Learning of Deep Neural Networks", arXiv 2102.11600, equation 9 and algorithm 1.

    The weights are restored in place from a copy, bit by bit, also when the closure raises. The copy is kept, and needs
    as much memory as the weights. It is not part of the `state_dict`, which is the base optimizer's.

    Args:
        params: parameters or parameter groups. A group may have its own `rho`, `adaptive` and `adaptive_eta`. They are
            stored in `param_groups` as `sam_rho`, `sam_adaptive` and `sam_adaptive_eta`, because base optimizers may
            have settings of these names. Change them between steps there, as `lr`.
        base_optimizer: the optimizer that takes the step: its class, a function of `(params, **base_kwargs)`, or an
            optimizer over the same parameters, whose groups may hold `rho`, `adaptive` and `adaptive_eta`.
        rho: the radius of the neighborhood, in units of the weights. With `adaptive` it is relative to each weight,
            and usually about ten times as large.
        adaptive: measure the neighborhood relative to each weight (ASAM).
        adaptive_eta: :math:`\eta`, which lets ASAM move weights that are zero. Its authors use 0.01.
        norm_over: the gradients whose norm is taken. `"perturbed"`: those of groups with a `rho` above 0. So SAM-ON,
            which perturbs normalization layers only, is a second group with `rho` 0; `norm_layers` makes both groups.
            `"all"`: all gradients, as some implementations do it.
        interval: take the perturbed pass every `interval` steps. The steps in between call the closure once.
        start_step: the number of steps before the first one with a perturbed pass.
        start_fraction: the same as a fraction of `total_steps`. With 0.8, only the last fifth of the training takes
            two passes (Zhou et al. 2024, "Sharpness-Aware Minimization Efficiently Selects Flatter Minima Late in
            Training", arXiv 2410.10373).
        total_steps: the number of steps of the whole training; `OptimizerClosureCallback` for Lightning sets it.
        model: the model. Its batch normalization statistics do not change in the perturbed pass of `step`, and
            `perturbation="local"` uses its `no_sync`.
        perturbation: how to perturb with `DistributedDataParallel`. `"global"`: all processes perturb along the mean
            of their gradients. `"local"`: each process perturbs along the gradient of its own batch, which saves a
            synchronization and is the m-sharpness of the paper. Both descend along the mean.
        replay_rng: draw the same random numbers in both passes of `step`, so that dropout masks match.
        base_kwargs: arguments of the base optimizer.

    Raises:
        TypeError: `base_optimizer` neither is nor makes an optimizer.
        ValueError: an argument is out of its range; the base optimizer has other parameters, or its step needs more
            than gradients; or `perturbation="local"` is given without a `model` that has `no_sync`.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        >>> optimizer = SAM([weight], torch.optim.SGD, lr=0.1)
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     loss = weight.square().sum()
        ...     loss.backward()
        ...     return loss
        >>> optimizer.step(closure)
        tensor(5., grad_fn=<SumBackward0>)
        >>> weight.data
        tensor([ 0.7955, -1.5911])

        In a loop that calls `backward` itself:

        >>> optimizer.zero_grad()
        >>> weight.square().sum().backward()
        >>> optimizer.first_step(zero_grad=True)
        >>> weight.square().sum().backward()
        >>> optimizer.second_step(zero_grad=True)
        >>> weight.data
        tensor([ 0.6320, -1.2639])
    """

    calls_closure_repeatedly = True
    """For training loops: a step may evaluate its batch more than once."""

    _pickled = (*OptimizerWrapper._pickled, "norm_over", "interval", "model", "perturbation", "replay_rng")

    def __init__(
        self,
        params: Iterable[Any],
        base_optimizer: Callable[..., Optimizer] | Optimizer,
        rho: float = 0.05,
        adaptive: bool = False,
        *,
        adaptive_eta: float = 0.0,
        norm_over: Literal["perturbed", "all"] = "perturbed",
        interval: int = 1,
        start_step: int = 0,
        start_fraction: float | None = None,
        total_steps: int | None = None,
        model: nn.Module | None = None,
        perturbation: Literal["global", "local"] = "global",
        replay_rng: bool = False,
        **base_kwargs: Any,
    ) -> None:
        self._require(isinstance(interval, Integral) and interval >= 1, "an integer interval >= 1", repr(interval))
        self._require(norm_over in ("perturbed", "all"), 'norm_over="perturbed" or "all"', repr(norm_over))
        self._require(perturbation in ("global", "local"), 'perturbation="global" or "local"', repr(perturbation))
        self._require(
            perturbation == "global" or hasattr(model, "no_sync"),
            'for perturbation="local" a model=, the DistributedDataParallel module, whose no_sync keeps the first '
            'pass from averaging gradients (in a single process, "global" is the same)',
            type(model).__name__,
        )
        self.norm_over = norm_over
        self.interval = interval
        self.model = model
        self.perturbation = perturbation
        self.replay_rng = replay_rng
        settings = {"rho": rho, "adaptive": adaptive, "adaptive_eta": adaptive_eta}
        super().__init__(params, base_optimizer, settings, start_step, start_fraction, total_steps, base_kwargs)

    @property
    def second_pass_is_due(self) -> bool:
        """Whether the coming step takes a perturbed pass, by `interval` and the start."""
        steps = self._steps_since_start
        return steps >= 0 and steps % self.interval == 0

    def step(self, closure: Closure | None = None, *, grad_scaler: GradScaler | None = None) -> Any:
        """Take one step. If it raises, also from the closure, the weights are those before it.

        Args:
            closure: clears the gradients, computes the loss, calls `backward` on it and returns it. It is called at
                the weights and, if `second_pass_is_due`, once more at the perturbed weights, with cleared gradients.
            grad_scaler: the scaler whose `scale` multiplies the loss in the closure before `backward`. It takes the
                base optimizer's step, or skips it, uncounted, if a gradient of either pass is infinite. Call its
                `update` after each step.

        Returns:
            What the closure returned at the weights: the loss before the step.

        Raises:
            ValueError: there is no closure, or it is PyTorch Lightning's own, which evaluates the last micro-batch of
                several.
            RuntimeError: the closure leaves no gradient, or a sparse one; or the weights are still perturbed by
                `first_step`.
        """
        if self._perturbation.ending:  # called by second_step
            if closure is not None:  # of Lightning's manual optimization: it calls hooks
                closure()
            self._descend(grad_scaler)
            return None
        if closure is None:
            raise ValueError(_NO_CLOSURE.format(name=type(self).__name__))
        self._check_closure(closure)
        self._require_closed_pass("step")
        due = self.second_pass_is_due
        devices = (param.device for group in self.param_groups for param in group["params"])
        snapshot = RNGSnapshot(devices) if due and self.replay_rng else None
        local = due and self.perturbation == "local"
        try:
            with torch.enable_grad(), cast(DistributedDataParallel, self.model).no_sync() if local else nullcontext():
                loss = closure()
            self._perturb_weights(grad_scaler, "The closure must call backward on the loss it returns.")
            if due and not self._perturbation.overflow:
                self.zero_grad()
                with (
                    torch.enable_grad(),
                    nullcontext() if self.model is None else freeze_batch_norm_stats(self.model),
                    nullcontext() if snapshot is None else snapshot.replay(),
                ):
                    closure()
        finally:
            self.restore_weights()
        self._descend(grad_scaler)
        return loss

    def first_step(self, zero_grad: bool = False, *, grad_scaler: GradScaler | None = None) -> None:
        """Perturb the weights along the gradients, in a loop that calls `backward` itself. `second_step` must follow.

        Where no perturbed pass is due, the weights stay as they are. The loop may leave out this call and the second
        pass then. If the second pass raises, call `restore_weights`.

        Args:
            zero_grad: clear the gradients afterwards.
            grad_scaler: the scaler whose `scale` multiplied the loss, as in `step`.

        Raises:
            RuntimeError: there is no gradient, or a sparse one, or the last `second_step` is missing.
        """
        self._require_closed_pass("first_step")
        try:
            self._perturb_weights(grad_scaler, "Call backward on the loss before it.")
        except BaseException:
            self.restore_weights()
            raise
        self._perturbation.opened = True
        if zero_grad:
            self.zero_grad()

    def second_step(self, zero_grad: bool = False, *, grad_scaler: GradScaler | None = None) -> None:
        """Restore the weights and let the base optimizer descend along the gradients.

        It calls `step`, so hooks of the step and Lightning's count of steps notice it.

        Args:
            zero_grad: clear the gradients afterwards.
            grad_scaler: as in `step`. To clip gradients before, unscale those of `base_optimizer`.

        Raises:
            RuntimeError: there is no gradient, or `first_step` was left out although a perturbed pass is due.
        """
        if not self._perturbation.opened:
            if self.second_pass_is_due:
                raise RuntimeError(
                    f"{type(self).__name__}.second_step needs first_step before it. Call it after the first backward."
                )
            self._perturbation.overflow = False
        self.restore_weights()
        self._perturbation.ending = True
        try:
            self.step(grad_scaler=grad_scaler)
        finally:
            self._perturbation.ending = False
        if zero_grad:
            self.zero_grad()

    def restore_weights(self) -> None:
        """Undo `first_step`, for a loop that goes on after its second pass failed. Otherwise it does nothing."""
        self._perturbation.restore()

    @torch.no_grad()
    def _perturb_weights(self, grad_scaler: GradScaler | None, missing_gradient: str) -> None:
        """Move to the perturbed weights, if a perturbed pass is due."""
        self._perturbation.overflow = False
        name = type(self).__name__
        gradients = dense_gradients(name, self._checked_groups())
        if not gradients:
            raise RuntimeError(f"{name} found no gradient after the first pass. {missing_gradient}")
        if not self.second_pass_is_due:
            return
        buckets = bucket_gradients(gradients)
        if grad_scaler is not None:
            norm = global_norm([bucket.norm(bucket.grads) for bucket in buckets])
            ddp_module = self.model if self.perturbation == "local" else None
            self._perturbation.overflow = overflows(norm, grad_scaler, ddp_module)
            if self._perturbation.overflow:
                return
        self._keep_gradients(buckets)
        perturbed = [bucket for bucket in buckets if bucket.group["sam_rho"] > 0]
        if not perturbed:
            return
        counted = buckets if self.norm_over == "all" else perturbed
        norm = global_norm([bucket.norm(bucket.scaled_gradients()) for bucket in counted])
        for bucket in perturbed:
            # Where the base optimizer maximizes, the worst point nearby has the lowest value.
            rho = -bucket.group["sam_rho"] if bucket.group.get("maximize") else bucket.group["sam_rho"]
            self._perturbation.add(bucket, rho, bucket.ascent_direction(), norm)

    def _descend(self, grad_scaler: GradScaler | None) -> None:
        """Take the base optimizer's step along the gradients, unless the first pass overflowed."""
        if not any(param.grad is not None for group in self.param_groups for param in group["params"]):
            raise RuntimeError(
                f"{type(self).__name__} found no gradient after the second pass. The closure must call backward each "
                "time it is called."
            )
        if grad_scaler is not None and self._perturbation.overflow:
            skip_step(self.base_optimizer, grad_scaler)
        else:
            self._take_base_step(grad_scaler)

    def _keep_gradients(self, buckets: list[GradientBucket]) -> None:
        """Called with the gradients at the weights, before the weights are perturbed."""

    def _require_closed_pass(self, method: str) -> None:
        if self._perturbation.opened:
            raise RuntimeError(
                f"{type(self).__name__}.{method} came after a first_step whose second_step is missing: the weights are "
                "still perturbed. Call second_step, or restore_weights to undo the first step."
            )


_NO_CLOSURE = (
    "{name}.step needs a closure, because it evaluates the loss twice. Pass a function that calls zero_grad, computes "
    "the loss, calls backward and returns the loss: optimizer.step(closure). With Lightning's automatic optimization, "
    "give the Trainer fuse_optim.lightning.OptimizerClosureCallback(); with manual optimization, call "
    "self.optimizers().step(closure=closure). With a GradScaler, call optimizer.step(closure, grad_scaler=scaler) "
    "instead of scaler.step(optimizer)."
)
