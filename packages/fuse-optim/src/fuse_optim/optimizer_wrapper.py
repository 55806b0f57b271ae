"""What SAM and MomentumSAM share: an optimizer around another one."""

import math
from collections.abc import Callable, Iterable
from numbers import Integral, Real
from typing import Any

from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from .base_optimizer import make_base_optimizer, require_own_groups
from .foreign_checkpoint import without_perturbation_buffers
from .perturbation import Perturbation

Closure = Callable[[], Any]


class OptimizerWrapper(Optimizer):
    """An optimizer that perturbs the weights before another optimizer, the base optimizer, takes the step.

    Parameter groups and state are the base optimizer's, also if they are assigned or loaded. A setting such as `rho` is
    stored in the groups as `sam_rho`, because base optimizers have settings of their own: `rho` of `Adadelta`.
    `settings` are their default values. The other arguments are those of `SAM`.
    """

    base_optimizer: Optimizer
    _known: list[dict[str, Any]]  # the latest groups, also if the list is changed in place

    _pickled: tuple[str, ...] = ("base_optimizer", "start_step", "start_fraction", "total_steps", "_settings", "_words")

    def __init__(
        self,
        params: Iterable[Any],
        base_optimizer: Callable[..., Optimizer] | Optimizer,
        settings: dict[str, Any],
        start_step: int,
        start_fraction: float | None,
        total_steps: int | None,
        base_kwargs: dict[str, Any],
    ) -> None:
        self.start_step = start_step
        self.start_fraction = start_fraction
        self.total_steps = total_steps
        self._check_start()
        self._settings = {f"sam_{name}": value for name, value in settings.items()}
        own_name = type(self).__name__
        given: Any = params if isinstance(params, (Tensor, set)) else [self._own_group(one) for one in params]
        if given is not params:
            require_own_groups(own_name, base_optimizer, given)
        groups = Optimizer(given, {}).param_groups  # checks the parameters, as torch's optimizers do: it warns of a set
        made = make_base_optimizer(own_name, base_optimizer, groups, base_kwargs)
        self.base_optimizer = made
        # In the base optimizer's groups these words mean SAM's settings.
        self._words = frozenset(settings) - frozenset(getattr(made, "defaults", {}))
        # In place of Optimizer.__init__, which would make groups and state of its own.
        self.__setstate__({"defaults": {**getattr(made, "defaults", {}), **self._settings}})
        self._complete_groups()

    def _own_group(self, one: Any) -> Any:
        """Copy a group given by the user, with the settings under the names by which they are stored."""
        if not isinstance(one, dict):
            return one
        group = {f"sam_{name}" if f"sam_{name}" in self._settings else name: value for name, value in one.items()}
        self._check_settings(group)
        return group

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The base optimizer's groups. Settings are filled in where groups were loaded or assigned without them."""
        return self._complete_groups()

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        self.base_optimizer.param_groups = groups

    @property
    def state(self) -> Any:
        """The base optimizer's state."""
        return self.base_optimizer.state

    @state.setter
    def state(self, state: Any) -> None:
        self.base_optimizer.state = state

    def _complete_groups(self) -> list[dict[str, Any]]:
        groups, before = self.base_optimizer.param_groups, self._known
        for index, group in enumerate(groups):
            if self._settings.keys() <= group.keys() and "sam_steps" in group and self._words.isdisjoint(group):
                continue
            for name in self._words.intersection(group):
                group[f"sam_{name}"] = group.pop(name)
            known = before[index] if index < len(before) else {}
            for name, default in self._settings.items():
                group.setdefault(name, known.get(name, default))
            group.setdefault("sam_steps", max(other.get("sam_steps", 0) for other in [*before, *groups]))
            self._check_settings(group)
        if groups:
            self._known = list(groups)
        return groups

    def _checked_groups(self) -> list[dict[str, Any]]:
        for group in self.param_groups:
            self._check_settings(group)
        return self.base_optimizer.param_groups

    def _check_settings(self, group: dict[str, Any]) -> None:
        for name in ("rho", "adaptive_eta"):
            value = group.get(f"sam_{name}", 0.0)
            is_number = isinstance(value, Real | Tensor)  # YAML reads 5e-2 as a string
            self._require(is_number and 0 <= value < math.inf, f"a finite {name} >= 0", repr(value))

    def _check_start(self) -> None:
        step, fraction, total = self.start_step, self.start_fraction, self.total_steps
        self._require(isinstance(step, Integral) and step >= 0, "an integer start_step >= 0", repr(step))
        if fraction is not None:
            is_fraction = isinstance(fraction, Real) and 0 <= fraction <= 1
            self._require(is_fraction, "a start_fraction from 0 to 1", repr(fraction))
            self._require(not step, "either start_step or start_fraction", "both")
            known = isinstance(total, Integral) and total > 0
            self._require(total is None or known, "an integer total_steps > 0", repr(total))
        else:
            self._require(total is None, "total_steps only with start_fraction", total)

    def _require(self, condition: bool, needed: str, received: Any) -> None:
        if not condition:
            raise ValueError(f"{type(self).__name__} needs {needed}, got {received}.")

    @property
    def _steps_since_start(self) -> int:
        """The number of steps since the first one with a perturbation; negative before."""
        self._check_start()
        start = self.start_step
        if self.start_fraction is not None:
            if self.total_steps is None:
                raise RuntimeError(
                    f"{type(self).__name__} got start_fraction={self.start_fraction} but no total_steps. Pass "
                    "total_steps, with Lightning total_steps=self.trainer.estimated_stepping_batches. "
                    "fuse_optim.lightning.OptimizerClosureCallback sets it, too."
                )
            start = math.ceil(self.start_fraction * self.total_steps)
        steps: int = self.param_groups[0]["sam_steps"]
        return steps - start

    def _take_base_step(self, grad_scaler: GradScaler | None) -> None:
        """Let the base optimizer, or the scaler with it, take the step. Count it unless the scaler skips it."""
        if grad_scaler is None or not grad_scaler.is_enabled():
            self.base_optimizer.step()
        else:
            states = grad_scaler._per_optimizer_states  # by id
            if id(self) in states:
                raise RuntimeError(
                    f"scaler.unscale_ was called with the {type(self).__name__}, so its base optimizer's step would "
                    "unscale the gradients again. Call scaler.unscale_(optimizer.base_optimizer) instead, after the "
                    "last backward."
                )
            grad_scaler.step(self.base_optimizer)
            if any(bool(found) for found in states[id(self.base_optimizer)]["found_inf_per_device"].values()):
                return
        for group in self.param_groups:
            group["sam_steps"] += 1

    def _check_closure(self, closure: Closure) -> None:
        """Refuse the closure of PyTorch Lightning that evaluates the last micro-batch of several."""
        # Lightning's closure is a functools.partial, whose first argument is the LightningModule.
        module: Any = next(iter(getattr(closure, "args", ())), None)
        if getattr(module, "automatic_optimization", False) and module.trainer.accumulate_grad_batches > 1:
            raise ValueError(
                f"{type(self).__name__} got the closure of Lightning's automatic optimization, which evaluates the "
                f"last batch only, not all {module.trainer.accumulate_grad_batches} of accumulate_grad_batches. Give "
                "the Trainer fuse_optim.lightning.OptimizerClosureCallback()."
            )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group, to the base optimizer too."""
        self.base_optimizer.add_param_group({**self._settings, **self._own_group(param_group)})
        self._complete_groups()

    def state_dict(self) -> dict[str, Any]:
        """Return the base optimizer's state, whose groups also hold the settings and the number of steps.

        Raises:
            RuntimeError: the weights are perturbed, so a checkpoint would hold the wrong ones.
        """
        self._require_true_weights("state_dict")
        for pre_hook in self._optimizer_state_dict_pre_hooks.values():
            pre_hook(self)
        state_dict = self.base_optimizer.state_dict()
        for post_hook in self._optimizer_state_dict_post_hooks.values():
            changed = post_hook(self, state_dict)
            state_dict = state_dict if changed is None else changed
        return state_dict

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned, or the state of the base optimizer's class alone.

        If weights are perturbed, they are restored, except those that were written since, as by the model's
        `load_state_dict`.

        Checkpoints of other implementations of SAM hold copies of the weights. The copies are left out. If they are all
        that the checkpoint holds, a warning says that the base optimizer's state is missing.

        Args:
            state_dict: the state; it is not changed.
        """
        state_dict = state_dict.copy()
        for pre_hook in self._optimizer_load_state_dict_pre_hooks.values():
            changed = pre_hook(self, state_dict)
            state_dict = state_dict if changed is None else changed
        self.base_optimizer.load_state_dict(without_perturbation_buffers(state_dict))
        self._complete_groups()
        self._perturbation.restore(keep_written=True)
        for post_hook in self._optimizer_load_state_dict_post_hooks.values():
            post_hook(self)

    def _require_true_weights(self, what: str) -> None:
        if self._perturbation:
            raise RuntimeError(
                f"{type(self).__name__}.{what} was called while the model's weights are perturbed. Call it between two "
                "steps, or call optimizer.restore_weights() first. Save the model's weights after that, too."
            )

    def __getstate__(self) -> dict[str, Any]:
        self._require_true_weights("__getstate__, for a copy or a file,")
        return {"defaults": self.defaults, **{name: getattr(self, name) for name in self._pickled}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._known = []
        self._perturbation = Perturbation()
