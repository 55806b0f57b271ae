"""What the losses of dense predictions share."""

import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self, TypedDict, cast

import torch
from torch import Tensor

from ._dense.deep_supervision import mean_over_levels
from ._dense.loss_decorator import DenseLoss
from ._fused.device_rules import counting_dtype
from .functional.own_loss import Values, check_keys, own_loss
from .loss_base import LossBase, PreprocessFunc


class DenseArguments(TypedDict, total=False):
    """The keyword arguments of every `LossDense` beside the options of its function."""

    pred: str | None
    target: str | None
    mask_key: str | None
    mask: Tensor | None
    voxel_weights_key: str | None
    annotated_key: str | None
    weight: float | None
    preprocess_func: PreprocessFunc | None


class LossDense(LossBase):
    """A loss of a dense prediction, or of a classification, with the options of `DenseOptions`.

    It is called with a batch_dict, or as `criterion(logits, target)` with tensors, then without keys. Options are
    checked once, here, and kept in `options`. Numbers of the classes, such as `class_weights`, are buffers: they move
    with `.to()` and are part of `state_dict()`. `.half()` does not round them; the loss casts them to the type that it
    computes in.

    A loss of your own is a subclass with `values` and `values_for`. It has all options of `DenseOptions`.

    Args:
        pred: the key of the prediction, `[B, C, *spatial]` with up to three spatial axes. For deep supervision the key
            holds a list of predictions, the finest first.
        target: the key of the ground truth, class indices or probabilities; see `DenseOptions`.
        mask_key: the key of a mask of the voxels that count, `[B, *spatial]`, `[B, 1, *spatial]` or `[B, C, *spatial]`.
        mask: such a mask for all batches, `[1, *spatial]`, in place of a key: a region of interest for instance.
        voxel_weights_key: the key of a factor of each voxel, `[B, *spatial]`.
        annotated_key: the key of which classes were annotated in each sample, bool `[B, C]`.
        weight: the factor of the result; None is 1.
        preprocess_func: see `LossBase`. A batch filtered to no samples gives zero, connected to the graph.
        **options: those of the function. With `reduction="none"` the loss is no scalar; its shape is the function's.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: an option with a value that it does not take, both `mask` and `mask_key`, or one key of two.

    Example:
        >>> class LossBrier(LossDense):
        ...     values_for = "voxel and class"
        ...
        ...     def values(self, probabilities, truth):
        ...         return (probabilities - truth).square()
        >>> loss = LossBrier(ignore_index=255, include_background=False)
        >>> loss(torch.zeros(1, 2, 3), torch.tensor([[0, 1, 255]]))
        tensor(0.2500)
    """

    class_weights: Tensor | None
    mask: Tensor | None
    function: ClassVar[Callable[..., Tensor]] = staticmethod(own_loss)
    """The loss as a function of tensors, such as `functional.dice_loss`."""
    values_for: ClassVar[Values] = "voxel and class"
    """What `values` returns a number for: `"voxel and class"` `[B, C, S]`, `"voxel"` `[B, S]` or `"class"` `[B, C]`."""

    def __init__(
        self,
        *,
        pred: str | None = None,
        target: str | None = None,
        mask_key: str | None = None,
        mask: Tensor | None = None,
        voxel_weights_key: str | None = None,
        annotated_key: str | None = None,
        weight: float | None = None,
        preprocess_func: PreprocessFunc | None = None,
        **options: Any,
    ) -> None:
        name = type(self).__name__
        if mask is not None and mask_key is not None:
            raise ValueError(f"{name} takes a mask or a mask_key, got both: {mask_key!r} and a tensor. Leave one out.")
        if mask is not None and not isinstance(mask, Tensor):
            raise TypeError(f"{name}(mask=) takes a tensor, got {mask!r}. Use torch.tensor(...).")
        keys = {"mask": mask_key, "voxel_weights": voxel_weights_key, "annotated": annotated_key}
        self._keys = {tensor: key for tensor, key in keys.items() if key is not None}
        if (pred is None) != (target is None) or (pred is None and self._keys):
            raise ValueError(
                f"{name} takes keys for the prediction and the target, or no keys, got pred={pred!r} and"
                f" target={target!r}."
            )
        reads = () if pred is None else (pred, target, *self._keys.values())
        super().__init__(reads=cast("tuple[str, ...]", reads), weight=weight, preprocess_func=preprocess_func)
        self.pred = pred
        self.target = target
        self.register_buffer("mask", mask, persistent=False)
        self._check_formula(name, options)
        self.options = self._loss.checked(name, options, others=self._arguments())
        for option in self._loss.numbers:
            numbers = self.options.get(option)
            buffer = None if numbers is None or isinstance(numbers, (str, float, int)) else exact_numbers(numbers)
            self.register_buffer(option, buffer)
        self._may_be_probabilities = self.options.get("activation", "softmax") == "softmax"
        self._owner = name if pred is None else f"{name}(pred={pred!r}, target={target!r})"

    @classmethod
    def _arguments(cls) -> list[str]:
        """The names of the arguments that are no options of the function, those of a subclass included."""
        classes = [one for one in cls.__mro__ if issubclass(one, LossDense) and "__init__" in vars(one)]
        arguments = [one for each in classes for one in [*inspect.signature(each.__init__).parameters.values()][1:]]
        return [*dict.fromkeys(one.name for one in arguments if one.kind is not one.VAR_KEYWORD)]

    def _check_formula(self, name: str, options: dict[str, Any]) -> None:
        """Raise unless the class has one formula, its function or `values`; give `values_for` to the options."""
        own = type(self)
        defines_values = own.values is not LossDense.values
        if not hasattr(self.function, "dense_loss"):
            raise TypeError(
                f"{name}.function is a loss of fuse_losses.functional, got {self.function!r}. For a formula of your own"
                " subclass LossDense and define `values`."
            )
        if self.function is not own_loss:
            if defines_values or own.values_for != LossDense.values_for:
                raise TypeError(
                    f"{name} defines `values` or `values_for`, which {self.function.__name__} does not use. For a"
                    " formula of your own subclass LossDense and define only these."
                )
            return
        if not defines_values:
            raise TypeError(
                f"{name} is a LossDense and defines no `values(probabilities, truth)`. LossDense applies mask, weights"
                " and reduction to what it returns."
            )
        if given := [option for option in ("values", "values_for") if option in options]:
            raise TypeError(f"{name} takes no {given[0]!r}, which is an attribute of the class. Define it there.")
        options["values_for"] = self.values_for
        check_keys(name, self.values_for, self._keys, options.get("activation", "softmax"))

    @property
    def _loss(self) -> DenseLoss:
        """The formula and the checks of its options. A formula cannot be pickled, so the instance does not hold it."""
        return cast(DenseLoss, self.function.dense_loss)  # type: ignore[attr-defined]

    def values(self, probabilities: Tensor, truth: Tensor) -> Tensor:
        """The loss of your own, before masks, weights and reduction.

        Args:
            probabilities: `[B, C, S]` with S the number of voxels, after the activation; 0 where not valid.
            truth: the target as probabilities `[B, C, S]`; 0 where not valid.

        Returns:
            What `values_for` says.
        """
        raise NotImplementedError(f"{type(self).__name__} is a LossDense and defines no `values`.")

    def forward(
        self,
        batch_dict: Any,
        target: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        voxel_weights: Tensor | None = None,
        annotated: Tensor | None = None,
    ) -> Tensor:
        """The weighted loss of a batch_dict, or of logits and target as tensors."""
        named = {"mask": mask, "voxel_weights": voxel_weights, "annotated": annotated}
        tensors = {name: one for name, one in named.items() if one is not None}
        if target is None:
            if self.pred is None:
                raise TypeError(
                    f"{type(self).__name__} was made without keys, so it takes logits and target, got"
                    f" {type(batch_dict).__name__} only. For a batch_dict give it pred= and target=."
                )
            for name in tensors:
                raise TypeError(
                    f"{self._owner} takes {name}= with logits and target, but was called with a batch_dict. Make it"
                    f" with {name}_key= instead."
                )
            return super().forward(batch_dict)
        if mask is not None and self.mask is not None:
            raise ValueError(f"{self._owner} was made with a mask, and is called with another. Leave one out.")
        unread = [f"{tensor}_key={key!r}" for tensor, key in self._keys.items() if tensor not in tensors]
        unread += ["preprocess_func"] if self.preprocess_func is not None else []
        if unread:
            raise TypeError(
                f"{self._owner} was called with logits and target, but {' and '.join(unread)} needs a batch_dict. Call"
                " it with a batch_dict, or give tensors as mask=, voxel_weights= or annotated=."
            )
        loss = self._evaluate(batch_dict, target, tensors)
        return loss if self.weight == 1.0 else loss * self.weight

    def compute(self, batch_dict: Mapping[str, Any]) -> Tensor:
        """The loss before `weight`."""
        logits, target = batch_dict[cast(str, self.pred)], batch_dict[cast(str, self.target)]
        tensors = {tensor: batch_dict[key] for tensor, key in self._keys.items()}
        for tensor, key in self._keys.items():
            if tensors[tensor] is None:
                raise TypeError(f"{self._owner} takes a tensor as {tensor}, got None at the key {key!r}.")
        return self._evaluate(logits, target, tensors)

    def _evaluate(self, logits: Any, target: Tensor, tensors: dict[str, Tensor]) -> Tensor:
        """The loss of tensors; keeps how much it counted."""
        if self._may_be_probabilities and type(logits) is Tensor and not torch.compiler.is_compiling():
            self._may_be_probabilities = False  # look at the first batch only
            self._warn_of_probabilities(logits)
        record: dict[str, Any] = {}
        options = {"mask": self.mask, **self.options, **tensors, "owner": self._owner, "record": record}
        for option in self._loss.numbers:
            if getattr(self, option) is not None:
                options[option] = getattr(self, option)
        if self.function is own_loss:
            options["values"] = self.values
        loss = self._call(logits, target, options)
        self.counted = record.get("counted")
        if "terms" in record:
            self.terms = record["terms"]
        return loss

    def _warn_of_probabilities(self, logits: Tensor) -> None:
        """Warn if a prediction that gets a softmax had one already. Values are read on the CPU only, for free there."""
        if logits.device.type != "cpu" or logits.ndim < 2 or logits.shape[1] < 2 or not logits.numel():
            return
        values = logits.detach()
        if values.min() >= 0 and (values.float().sum(1) - 1).abs().max() < 1e-3:
            warnings.warn(
                f"{self._owner} applies a softmax, but the prediction is one already: it is not negative and sums to 1"
                " over the classes. Pass the logits, or activation='none'.",
                stacklevel=3,
            )

    def _call(self, logits: Any, target: Tensor, options: dict[str, Any]) -> Tensor:
        if isinstance(logits, (list, tuple)):
            return mean_over_levels(self._loss.function, logits, target, options)
        return self._loss.function(logits, target, **options)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # `fn` sees float64 buffers as int64, the same bits: `.half()` leaves integers alone, MPS has no float64, and
        # `share_memory()` and `to_empty()` must reach the buffer itself, so that no copy can be put in its place.
        exact = {name: one for name, one in self._buffers.items() if one is not None and one.dtype == torch.float64}
        for name, one in exact.items():
            self._buffers[name] = one.view(torch.int64)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, one in exact.items():
            moved = cast(Tensor, self._buffers[name])
            dtype = counting_dtype(moved.device)
            uncast = moved.dtype == torch.int64 and dtype == torch.float64
            self._buffers[name] = moved.view(dtype) if uncast else one.to(moved.device, dtype)
        return self


def exact_numbers(numbers: Any) -> Tensor:
    """Numbers given by the caller as a tensor of the module's own, float64 where the device has it."""
    if isinstance(numbers, Tensor):
        return numbers.detach().to(counting_dtype(numbers.device), copy=True)
    return torch.tensor(numbers, dtype=torch.float64)
