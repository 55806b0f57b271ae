"""Sharpness-aware minimization."""

import contextlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from .batch_norm_stats import freeze_batch_norm_stats
from .foreign_checkpoint import without_perturbation_buffers
from .gradient_bucket import bucket_gradients, dense_gradients, global_norm
from .loss_scaling import overflows, overflows_anywhere, skip_step
from .look_sam import add_orthogonal_gradient, keep_orthogonal_gradient, orthogonal_gradient
from .required_closure import require_closure
from .rng_snapshot import RNGSnapshot
from .saved_weights import SavedWeights
from .base_optimizer import make_base_optimizer, require_own_groups

Closure = Callable[[], Any]

_SETTINGS = ("rho", "adaptive", "adaptive_eta")
_PICKLED = (
    "base_optimizer",
    "interval",
    "reuse",
    "reuse_alpha",
    "start_step",
    "model",
    "perturbation",
    "replay_rng",
)


class SAM(Optimizer):
    r"""Sharpness-aware minimization: descend along the gradient taken at the worst point nearby.

    A step takes the gradient :math:`g = \nabla L(w)` at the weights, climbs to

    .. math::
        \hat w = w + \rho \, \frac{g}{\lVert g \rVert_2}
        \qquad \text{or, if adaptive,} \qquad
        \hat w = w + \rho \, \frac{T_w^2 \, g}{\lVert T_w \, g \rVert_2}, \quad T_w = \mathrm{diag}(|w| + \eta),

    takes the gradient there, restores :math:`w` and lets the base optimizer descend along it. Norms are over all
    parameters together. Sources: Foret et al. 2021, "Sharpness-Aware Minimization for Efficiently Improving
    Generalization", arXiv 2010.01412, equations 2 and 3; Kwon et al. 2021, "ASAM: Adaptive Sharpness-Aware Minimization
    for Scale-Invariant Learning of Deep Neural Networks", arXiv 2102.11600, equation 9 and algorithm 1; for
    `interval` and `reuse`, Liu et al. 2022, "Towards Efficient and Scalable Sharpness-Aware Minimization", arXiv
    2203.02714.

    The weights are restored in place from a copy, so bit by bit, also when the closure raises. The copy is allocated in
    the first perturbed step and kept: memory for one more set of weights, and for nothing else where gradients are not
    in half precision and `adaptive` is off. It is no part of the `state_dict`, which is the base optimizer's.

    Args:
        params: parameters or parameter groups. A group may set its own `rho`, `adaptive` and `adaptive_eta`, which may
            be changed between steps, as `lr` may. Gradients of groups with `rho` 0 count in the norm.
        base_optimizer: the optimizer that takes the step: its class, a function of `(params, **base_kwargs)`, or an
            optimizer over the same parameters, whose groups may hold `rho` and the like.
        rho: the radius of the neighbourhood, in units of the weights; for `adaptive`, relative to them, and
            usually about ten times as large.
        adaptive: measure the neighbourhood relative to each weight (ASAM).
        adaptive_eta: :math:`\eta`, which lets ASAM move weights that are zero. Its authors use 0.01.
        interval: take the perturbed pass every so many steps. The steps in between call the closure once.
        reuse: in the steps in between, add to the gradient its component of the last perturbed pass that was orthogonal
            to it (LookSAM), which is kept in the optimizer's state. Needs memory for two more gradients.
        reuse_alpha: the length of that component as a share of the gradient's.
        start_step: the number of steps before the first one with a perturbed pass.
        model: the model, for what the parameters do not tell: its batch normalization statistics stand still in the
            perturbed pass of `step`, and `perturbation="local"` uses its `no_sync`.
        perturbation: with `DistributedDataParallel`, whether all processes climb along the mean of their gradients,
            `"global"`, or each along the gradient of its own batch, `"local"`, which saves a synchronization and is the
            m-sharpness of the paper. Both descend along the mean.
        replay_rng: give the perturbed pass of `step` the random numbers of the clean one: the same dropout masks.
        base_kwargs: arguments of the base optimizer.

    Raises:
        TypeError: `base_optimizer` is or makes no optimizer.
        ValueError: an argument is out of its range; the base optimizer has other parameters or needs a closure itself;
            `perturbation="local"` without a `model` that has `no_sync`, or together with `reuse`.

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

        In a loop of one's own, with the gradients of each pass at hand:

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

    def __init__(
        self,
        params: Iterable[Any],
        base_optimizer: Callable[..., Optimizer] | Optimizer,
        rho: float = 0.05,
        adaptive: bool = False,
        *,
        adaptive_eta: float = 0.0,
        interval: int = 1,
        reuse: bool = False,
        reuse_alpha: float = 0.7,
        start_step: int = 0,
        model: nn.Module | None = None,
        perturbation: Literal["global", "local"] = "global",
        replay_rng: bool = False,
        **base_kwargs: Any,
    ) -> None:
        _require(isinstance(interval, int) and interval >= 1, "an integer interval >= 1", interval)
        _require(isinstance(start_step, int) and start_step >= 0, "an integer start_step >= 0", start_step)
        _require(0 <= reuse_alpha < math.inf, "a finite reuse_alpha >= 0", reuse_alpha)
        _require(perturbation in ("global", "local"), 'perturbation="global" or "local"', repr(perturbation))
        if perturbation == "local":
            _require(
                hasattr(model, "no_sync"),
                'for perturbation="local" a model=, the DistributedDataParallel module, whose no_sync keeps the first '
                'pass from averaging gradients (in a single process, "global" is the same)',
                type(model).__name__,
            )
            _require(not reuse, 'perturbation="global" for reuse, else processes drift apart', '"local"')
        self.interval = interval
        self.reuse = reuse
        self.reuse_alpha = reuse_alpha
        self.start_step = start_step
        self.model = model
        self.perturbation = perturbation
        self.replay_rng = replay_rng
        self._saved = SavedWeights()
        self._opened: _OpenedPass | None = None
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
        """Take over the base optimizer's groups and state, which loading has made anew."""
        for group, before in zip(self.base_optimizer.param_groups, self.param_groups, strict=True):
            self._complete_group(group, before)
        self.param_groups, self.state = self.base_optimizer.param_groups, self.base_optimizer.state

    def _complete_group(self, group: dict[str, Any], missing: dict[str, Any]) -> None:
        for name in (*_SETTINGS, "sam_steps"):
            group.setdefault(name, missing[name])
        for name in ("rho", "adaptive_eta"):
            _require(0 <= group[name] < math.inf, f"a finite {name} >= 0", group[name])

    @property
    def second_pass_is_due(self) -> bool:
        """Whether the coming step takes a perturbed pass, by `interval` and `start_step`."""
        steps: int = self.param_groups[0]["sam_steps"]
        return steps >= self.start_step and (steps - self.start_step) % self.interval == 0

    def step(self, closure: Closure | None = None, *, grad_scaler: GradScaler | None = None) -> Any:
        """One step. When it raises, also from the closure, the weights are those before it.

        Args:
            closure: clears the gradients, computes the loss, calls `backward` on it and returns it. It is called at
                the weights and, if `second_pass_is_due`, with the gradients cleared, at the perturbed weights.
            grad_scaler: the scaler by whose `scale` the closure multiplies the loss before `backward`. It takes the
                base optimizer's step: unscales once, and skips the step if a gradient of either pass is infinite. Call
                its `update` after each step.

        Returns:
            What the closure returned at the weights: the loss before the step.

        Raises:
            ValueError: no closure, or one of PyTorch Lightning that lacks all micro-batches but the last.
            RuntimeError: the closure leaves no gradient, or a sparse one; the weights are perturbed from `first_step`.
        """
        closure = require_closure(closure)
        self._require_closed_pass("step")
        due = self.second_pass_is_due
        snapshot = None
        if due and self.replay_rng:
            snapshot = RNGSnapshot({param.device for group in self.param_groups for param in group["params"]})
        try:
            with torch.enable_grad(), self._unsynchronized() if due else contextlib.nullcontext():
                loss = closure()
            opened = self._climb(grad_scaler, "The closure must call backward on the loss it returns.")
            if due and not opened.overflow:
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
        self._descend(opened, grad_scaler)
        return loss

    def first_step(self, zero_grad: bool = False, *, grad_scaler: GradScaler | None = None) -> None:
        """Climb along the gradients, for loops that call `backward` themselves. `second_step` must follow.

        Where no perturbed pass is due, the weights stay, so a loop may as well leave out this and the second pass.
        If the second pass raises, `restore_weights` brings the weights back.

        Args:
            zero_grad: clear the gradients afterwards.
            grad_scaler: as in `step`, the scaler by whose scale the loss was multiplied.

        Raises:
            RuntimeError: there is no gradient, or a sparse one, or `second_step` was left out.
        """
        self._require_closed_pass("first_step")
        try:
            self._opened = self._climb(grad_scaler, "Call backward on the loss before it.")
        except BaseException:
            self.restore_weights()
            raise
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
        opened = self._opened
        if opened is None and self.second_pass_is_due:
            raise RuntimeError("SAM.second_step needs first_step before it. Call it after the first backward pass.")
        self.restore_weights()
        self._descend(opened or _OpenedPass(), grad_scaler)
        self._opt_called = True  # what learning rate schedulers look at, to warn of a step that was left out
        if zero_grad:
            self.zero_grad()

    def restore_weights(self) -> None:
        """Undo `first_step`: for a loop that goes on after its second pass has failed. Else it does nothing."""
        with torch.no_grad():
            self._saved.restore()
        self._opened = None

    @torch.no_grad()
    def _climb(self, grad_scaler: GradScaler | None, missing_gradient: str) -> "_OpenedPass":
        """Move to the perturbed weights, if a perturbed pass is due."""
        gradients = dense_gradients(self.param_groups)
        if not gradients:
            raise RuntimeError(f"SAM found no gradient after the first pass. {missing_gradient}")
        if not self.second_pass_is_due:
            return _OpenedPass()
        buckets = bucket_gradients(self.param_groups, gradients)
        norm = global_norm([bucket.norm(bucket.scaled_gradients()) for bucket in buckets])
        if self.perturbation == "local":
            overflow = overflows_anywhere(norm, grad_scaler, getattr(self.model, "process_group", None))
        else:
            overflow = overflows(norm, grad_scaler)
        if overflow:
            return _OpenedPass(overflow=True)
        clean: dict[Tensor, Tensor] = {}
        for bucket in buckets:
            if self.reuse:
                clean.update(zip(bucket.params, (grad.clone() for grad in bucket.grads), strict=True))
            if bucket.rho == 0:
                continue
            self._saved.save(bucket)
            # A gradient of zero, or of next to nothing, gives no direction: stay, rather than divide by it.
            scale = torch.where(norm > torch.finfo(norm.dtype).tiny, bucket.rho / norm, 0.0)
            bucket.add_(bucket.params, bucket.ascent_direction(), scale)
        return _OpenedPass(clean)

    def _descend(self, opened: "_OpenedPass", grad_scaler: GradScaler | None) -> None:
        """The base optimizer's step along the gradients, with what LookSAM adds to them or learns from them."""
        if not any(param.grad is not None for group in self.param_groups for param in group["params"]):
            raise RuntimeError(
                "SAM found no gradient after the second pass. The closure must call backward each time it is called."
            )
        learned: dict[Tensor, Tensor] = {}
        if grad_scaler is not None and opened.overflow:
            skip_step(self.base_optimizer, grad_scaler)
        else:
            if self.reuse:
                learned = self._reuse(opened, grad_scaler)
            if grad_scaler is None:
                self.base_optimizer.step()
            else:
                grad_scaler.step(self.base_optimizer)
        if learned:  # only now: many optimizers initialize a state that is empty
            keep_orthogonal_gradient(learned, self.state)
        for group in self.param_groups:
            group["sam_steps"] += 1

    @torch.no_grad()
    def _reuse(self, opened: "_OpenedPass", grad_scaler: GradScaler | None) -> dict[Tensor, Tensor]:
        """LookSAM: the component learned in a perturbed pass, or the gradients changed by that of an earlier one."""
        buckets = bucket_gradients(self.param_groups, dense_gradients(self.param_groups))
        if not opened.clean:
            add_orthogonal_gradient(self.state, buckets, self.reuse_alpha)
            return {}
        if overflows(global_norm([bucket.norm(bucket.grads) for bucket in buckets]), grad_scaler):
            return {}
        return orthogonal_gradient(opened.clean, buckets)

    def _unsynchronized(self) -> contextlib.AbstractContextManager[Any]:
        """What the first pass runs in: gradients stay those of this process, if the perturbation is to be local."""
        if self.perturbation == "global":
            return contextlib.nullcontext()
        return cast(DistributedDataParallel, self.model).no_sync()

    def _require_closed_pass(self, method: str) -> None:
        if self._opened is not None:
            raise RuntimeError(
                f"SAM.{method} came after a first_step whose second_step is missing: the weights are still perturbed. "
                "Call second_step, or restore_weights to undo the first step."
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
        """The base optimizer's state, with the settings and the number of steps of SAM in its groups.

        With `reuse`, the state of a parameter also holds its component of the last perturbed pass.
        """
        return self.base_optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned, or the state of the base optimizer's class without SAM.

        From checkpoints of other implementations of SAM, which carry copies of the weights, all but the copies is
        loaded. Where that leaves no state of the base optimizer, because they did not save it, a warning says so.

        Args:
            state_dict: the state; it is not changed.
        """
        self.base_optimizer.load_state_dict(without_perturbation_buffers(state_dict))
        self._share_with_base()  # not every optimizer calls hooks when it loads

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), **{name: getattr(self, name) for name in _PICKLED}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._saved = SavedWeights()
        self._opened = None
        self.base_optimizer.register_load_state_dict_post_hook(self._share_with_base)


@dataclass
class _OpenedPass:
    """What the end of a step must know of its first pass.

    Attributes:
        clean: the gradients at the weights, if they are needed again.
        overflow: whether loss scaling made one of them infinite, so that the step is to be skipped.
    """

    clean: dict[Tensor, Tensor] = field(default_factory=dict)
    overflow: bool = False


def _require(condition: bool, needed: str, received: Any) -> None:
    if not condition:
        raise ValueError(f"SAM needs {needed}, got {received}.")
