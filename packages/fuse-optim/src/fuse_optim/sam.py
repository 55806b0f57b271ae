"""Sharpness-aware minimization."""

import contextlib
import math
from collections.abc import Callable, Iterable
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from .base_optimizer import make_base_optimizer, require_own_groups
from .batch_norm_stats import freeze_batch_norm_stats
from .foreign_checkpoint import without_perturbation_buffers
from .gradient_bucket import GradientBucket, bucket_gradients, dense_gradients, global_norm
from .loss_scaling import overflows, overflows_anywhere, skip_step
from .required_closure import require_closure
from .rng_snapshot import RNGSnapshot
from .saved_weights import SavedWeights

Closure = Callable[[], Any]

_SETTINGS = ("rho", "adaptive", "adaptive_eta")


class SAM(Optimizer):
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

    The weights are restored in place from a copy, bit by bit, also when the closure raises. The copy is allocated in
    the first perturbed step and kept. It needs as much memory as the weights. Nothing else is kept, unless gradients
    are in half precision or `adaptive` is on. The copy is not part of the `state_dict`, which is the base optimizer's.

    Args:
        params: parameters or parameter groups. A group may set its own `rho`, `adaptive` and `adaptive_eta`, which may
            be changed between steps, as `lr` may. Gradients of groups with `rho` 0 count in the norm.
        base_optimizer: the optimizer that takes the step: its class, a function of `(params, **base_kwargs)`, or an
            optimizer over the same parameters, whose groups may hold `rho`, `adaptive` and `adaptive_eta`.
        rho: the radius of the neighbourhood, in units of the weights. With `adaptive` it is relative to each weight,
            and usually about ten times as large.
        adaptive: measure the neighbourhood relative to each weight (ASAM).
        adaptive_eta: :math:`\eta`, which lets ASAM move weights that are zero. Its authors use 0.01.
        interval: take the perturbed pass every `interval` steps. The steps in between call the closure once.
        start_step: the number of steps before the first one with a perturbed pass.
        model: the model. Its batch normalization statistics do not change in the perturbed pass of `step`, and
            `perturbation="local"` uses its `no_sync`.
        perturbation: how to perturb with `DistributedDataParallel`. `"global"`: all processes perturb along the mean
            of their gradients. `"local"`: each process perturbs along the gradient of its own batch, which saves a
            synchronization and is the m-sharpness of the paper. Both descend along the mean.
        replay_rng: draw the same random numbers in both passes of `step`, so that dropout masks match.
        base_kwargs: arguments of the base optimizer.

    Raises:
        TypeError: `base_optimizer` neither is nor makes an optimizer.
        ValueError: an argument is out of its range; the base optimizer has other parameters, or needs a closure itself;
            or `perturbation="local"` is given without a `model` that has `no_sync`.

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

    base_optimizer: Optimizer

    calls_closure_repeatedly = True
    """For training loops: a step may evaluate its batch more than once."""

    _pickled: tuple[str, ...] = ("base_optimizer", "interval", "start_step", "model", "perturbation", "replay_rng")

    def __init__(
        self,
        params: Iterable[Any],
        base_optimizer: Callable[..., Optimizer] | Optimizer,
        rho: float = 0.05,
        adaptive: bool = False,
        *,
        adaptive_eta: float = 0.0,
        interval: int = 1,
        start_step: int = 0,
        model: nn.Module | None = None,
        perturbation: Literal["global", "local"] = "global",
        replay_rng: bool = False,
        **base_kwargs: Any,
    ) -> None:
        self._require(isinstance(interval, int) and interval >= 1, "an integer interval >= 1", interval)
        self._require(isinstance(start_step, int) and start_step >= 0, "an integer start_step >= 0", start_step)
        self._require(perturbation in ("global", "local"), 'perturbation="global" or "local"', repr(perturbation))
        self._require(
            perturbation == "global" or hasattr(model, "no_sync"),
            'for perturbation="local" a model=, the DistributedDataParallel module, whose no_sync keeps the first '
            'pass from averaging gradients (in a single process, "global" is the same)',
            type(model).__name__,
        )
        self.interval = interval
        self.start_step = start_step
        self.model = model
        self.perturbation = perturbation
        self.replay_rng = replay_rng
        self._saved = SavedWeights()
        self._opened = False  # whether second_step must follow
        self._overflow = False  # whether loss scaling made a gradient of the first pass infinite
        settings = {"rho": rho, "adaptive": adaptive, "adaptive_eta": adaptive_eta}
        params = list(params)
        require_own_groups(base_optimizer, params)
        super().__init__([{**one} if isinstance(one, dict) else one for one in params], settings)
        self.base_optimizer = make_base_optimizer(base_optimizer, self.param_groups, base_kwargs)
        self.defaults = {**self.base_optimizer.defaults, **settings}
        self.param_groups, self.state = self.base_optimizer.param_groups, self.base_optimizer.state
        for group in self.param_groups:
            self._complete_group(group, {**settings, "sam_steps": 0})
        self.base_optimizer.register_load_state_dict_post_hook(self._share_with_base)

    def _share_with_base(self, _: Optimizer | None = None) -> None:
        """Take over the groups and the state that the base optimizer made when it loaded a checkpoint."""
        for group, before in zip(self.base_optimizer.param_groups, self.param_groups, strict=True):
            self._complete_group(group, before)
        self.param_groups, self.state = self.base_optimizer.param_groups, self.base_optimizer.state

    def _complete_group(self, group: dict[str, Any], missing: dict[str, Any]) -> None:
        for name in (*_SETTINGS, "sam_steps"):
            group.setdefault(name, missing[name])
        for name in ("rho", "adaptive_eta"):
            self._require(0 <= group[name] < math.inf, f"a finite {name} >= 0", group[name])

    def _require(self, condition: bool, needed: str, received: Any) -> None:
        if not condition:
            raise ValueError(f"{type(self).__name__} needs {needed}, got {received}.")

    @property
    def second_pass_is_due(self) -> bool:
        """Whether the coming step takes a perturbed pass, by `interval` and `start_step`."""
        steps: int = self.param_groups[0]["sam_steps"]
        return steps >= self.start_step and (steps - self.start_step) % self.interval == 0

    def step(self, closure: Closure | None = None, *, grad_scaler: GradScaler | None = None) -> Any:
        """Take one step. If it raises, also from the closure, the weights are those before it.

        Args:
            closure: clears the gradients, computes the loss, calls `backward` on it and returns it. It is called at
                the weights and, if `second_pass_is_due`, once more at the perturbed weights, with cleared gradients.
            grad_scaler: the scaler whose `scale` multiplies the loss in the closure before `backward`. It takes the
                base optimizer's step: it unscales the gradients once, and skips the step if a gradient of either pass
                is infinite. Call its `update` after each step.

        Returns:
            What the closure returned at the weights: the loss before the step.

        Raises:
            ValueError: there is no closure, or it is PyTorch Lightning's own, which evaluates the last micro-batch of
                several.
            RuntimeError: the closure leaves no gradient, or a sparse one; or the weights are still perturbed by
                `first_step`.
        """
        closure = require_closure(type(self).__name__, closure)
        self._require_closed_pass("step")
        due = self.second_pass_is_due
        snapshot = None
        if due and self.replay_rng:
            snapshot = RNGSnapshot({param.device for group in self.param_groups for param in group["params"]})
        try:
            with torch.enable_grad(), self._unsynchronized() if due else contextlib.nullcontext():
                loss = closure()
            self._perturb_weights(grad_scaler, "The closure must call backward on the loss it returns.")
            if due and not self._overflow:
                self.zero_grad()
                with contextlib.ExitStack() as contexts:
                    contexts.enter_context(torch.enable_grad())
                    if self.model is not None:
                        contexts.enter_context(freeze_batch_norm_stats(self.model))
                    if snapshot is not None:
                        contexts.enter_context(snapshot.replay())
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
        self._opened = True
        if zero_grad:
            self.zero_grad()

    def second_step(self, zero_grad: bool = False, *, grad_scaler: GradScaler | None = None) -> None:
        """Restore the weights and let the base optimizer descend along the gradients.

        Args:
            zero_grad: clear the gradients afterwards.
            grad_scaler: as in `step`. To clip gradients before, unscale those of `base_optimizer`.

        Raises:
            RuntimeError: there is no gradient, or `first_step` was left out although a perturbed pass is due.
        """
        if not self._opened and self.second_pass_is_due:
            raise RuntimeError(
                f"{type(self).__name__}.second_step needs first_step before it. Call it after the first backward pass."
            )
        self.restore_weights()
        self._descend(grad_scaler)
        self._opt_called = True  # learning rate schedulers look at it, and warn if no step was taken
        if zero_grad:
            self.zero_grad()

    def restore_weights(self) -> None:
        """Undo `first_step`, for a loop that goes on after its second pass failed. Otherwise it does nothing."""
        with torch.no_grad():
            self._saved.restore()
        self._opened = False

    @torch.no_grad()
    def _perturb_weights(self, grad_scaler: GradScaler | None, missing_gradient: str) -> None:
        """Move to the perturbed weights, if a perturbed pass is due."""
        self._overflow = False
        gradients = dense_gradients(self.param_groups)
        if not gradients:
            raise RuntimeError(f"{type(self).__name__} found no gradient after the first pass. {missing_gradient}")
        if not self.second_pass_is_due:
            return
        buckets = bucket_gradients(self.param_groups, gradients)
        norm = global_norm([bucket.norm(bucket.scaled_gradients()) for bucket in buckets])
        if grad_scaler is not None:
            self._overflow = self._overflows(norm, grad_scaler)
            if self._overflow:
                return
        self._keep_gradients(buckets)
        for bucket in buckets:
            if bucket.rho == 0:
                continue
            self._saved.save(bucket)
            # A norm of (almost) zero gives no direction: the weights stay, instead of being divided by it.
            scale = torch.where(norm > torch.finfo(norm.dtype).tiny, bucket.rho / norm, 0.0)
            bucket.add_(bucket.params, bucket.ascent_direction(), scale)

    def _overflows(self, norm: Tensor, grad_scaler: GradScaler) -> bool:
        """Whether loss scaling made a gradient of the first pass infinite."""
        if self.perturbation == "local":
            return overflows_anywhere(norm, grad_scaler, getattr(self.model, "process_group", None))
        return overflows(norm, grad_scaler)

    def _descend(self, grad_scaler: GradScaler | None) -> None:
        """Take the base optimizer's step along the gradients, unless the first pass overflowed."""
        if not any(param.grad is not None for group in self.param_groups for param in group["params"]):
            raise RuntimeError(
                f"{type(self).__name__} found no gradient after the second pass. The closure must call backward each "
                "time it is called."
            )
        if grad_scaler is not None and self._overflow:
            skip_step(self.base_optimizer, grad_scaler)
        else:
            self._take_base_step(grad_scaler)
        for group in self.param_groups:
            group["sam_steps"] += 1

    def _keep_gradients(self, buckets: list[GradientBucket]) -> None:
        """For subclasses: the gradients at the weights, before the weights are perturbed."""

    def _take_base_step(self, grad_scaler: GradScaler | None) -> None:
        if grad_scaler is None:
            self.base_optimizer.step()
        else:
            grad_scaler.step(self.base_optimizer)

    def _unsynchronized(self) -> contextlib.AbstractContextManager[Any]:
        """The context of the first pass: with a local perturbation, processes do not average their gradients."""
        if self.perturbation == "global":
            return contextlib.nullcontext()
        return cast(DistributedDataParallel, self.model).no_sync()

    def _require_closed_pass(self, method: str) -> None:
        if self._opened:
            name = type(self).__name__
            raise RuntimeError(
                f"{name}.{method} came after a first_step whose second_step is missing: the weights are still "
                "perturbed. Call second_step, or restore_weights to undo the first step."
            )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group, to the base optimizer too."""
        if not hasattr(self, "base_optimizer"):  # called by Optimizer.__init__
            super().add_param_group(param_group)
            return
        group = dict(param_group)
        self._complete_group(group, {**self.defaults, "sam_steps": self.param_groups[0]["sam_steps"]})
        self.base_optimizer.add_param_group(group)

    def state_dict(self) -> dict[str, Any]:
        """Return the base optimizer's state, whose groups also hold SAM's settings and its number of steps."""
        return self.base_optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned, or the state of the base optimizer's class without SAM.

        Checkpoints of other implementations of SAM hold copies of the weights. The copies are left out. If they are all
        that the checkpoint holds, a warning says that the base optimizer's state is missing.

        Args:
            state_dict: the state; it is not changed.
        """
        self.base_optimizer.load_state_dict(without_perturbation_buffers(state_dict))
        self._share_with_base()  # not every optimizer calls hooks when it loads

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), **{name: getattr(self, name) for name in self._pickled}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._saved = SavedWeights()
        self._opened = False
        self._overflow = False
        self.base_optimizer.register_load_state_dict_post_hook(self._share_with_base)
