"""A weighted sum of losses of the same prediction and target, in one pass over the logits."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Unpack, cast

import torch
from torch import Tensor

from .._dense.inputs import DenseInputs, class_weights_of, holds_indices, read_dense_inputs
from .._dense.loss_decorator import DenseLoss, dense_loss, unknown_option
from .._dense.option_checks import check_number
from .._dense.options import DenseOptions, DenseSettings, TensorOptions
from .._dense.sum_over_processes import sum_over_processes
from .._fused.block_passes import Results, Wanted
from .._fused.memory_saving_gradient import one_pass
from .._fused.probabilities import by_class
from .cross_entropy import segmentation_cross_entropy
from .dice import dice_loss
from .focal import focal_loss
from .generalized_dice import generalized_dice_loss
from .top_k_cross_entropy import top_k_cross_entropy
from .tversky import tversky_loss
from .voxel_losses import class_factor, is_binary

Terms = Mapping[str, float | Mapping[str, Any]]
MakePass = Callable[[Wanted, Tensor | None], Results]

_TERMS: dict[str, DenseLoss] = {
    name: loss.dense_loss  # type: ignore[attr-defined]
    for name, loss in {
        "cross_entropy": segmentation_cross_entropy,
        "focal": focal_loss,
        "top_k_cross_entropy": top_k_cross_entropy,
        "dice": dice_loss,
        "tversky": tversky_loss,
        "generalized_dice": generalized_dice_loss,
    }.items()
}
_OF_SUMS = {"dice", "tversky", "generalized_dice"}
_OF_EACH_TERM = ("class_weights", "include_background", "ignore_classes")


class CompoundOptions(DenseOptions, total=False):
    """The options of `compound_loss`, which explains them."""

    terms: Terms


class Term(NamedTuple):
    """One loss of a compound loss."""

    name: str
    weight: float
    options: dict[str, Any]
    """Checked: the loss's own, and the weights of the classes where they are not those of all terms."""


def check_compound(owner: str, options: dict[str, Any]) -> None:
    """Replace the terms by `Term`s with checked options."""
    terms = options.get("terms")
    if not isinstance(terms, Mapping) or not terms:
        raise TypeError(f"{owner}(terms=) takes a dictionary of losses ({', '.join(_TERMS)}), got {terms!r}.")
    if options.get("reduction") == "none":
        raise ValueError(f"{owner} adds losses of different shapes, so its reduction is 'mean' or 'sum', got 'none'.")
    options["terms"] = tuple(_checked_term(owner, name, value, options) for name, value in terms.items())


def _checked_term(owner: str, name: str, value: Any, shared: dict[str, Any]) -> Term:
    if name not in _TERMS:
        raise ValueError(f"{owner}(terms=) takes {', '.join(map(repr, _TERMS))}, got {name!r}.")
    given = dict(value) if isinstance(value, Mapping) else {"weight": value}
    of_term = f"{owner} term {name!r}"
    weight = check_number(of_term, "weight", given.pop("weight", 1.0))
    of_all = {*TensorOptions.__annotations__, "mask"} - {*_OF_EACH_TERM}
    known = [*(option for option in _TERMS[name].checks if option not in of_all), "weight"]
    for option in given:
        if option in of_all:
            raise TypeError(f"{of_term} takes no {option!r}, which holds for all terms. Give it to {owner}.")
        if option not in known:
            raise unknown_option(of_term, option, known)
    if "include_background" in given or "ignore_classes" in given:
        background, ignored = shared.get("include_background", True), shared.get("ignore_classes", ())
        # Without the background, it is the first of the ignored classes.
        given = {"include_background": background, "ignore_classes": ignored if background else ignored[1:], **given}
    context: dict[str, Any] = {one: shared[one] for one in ("activation", "validate") if one in shared}
    options = _TERMS[name].checked(of_term, {**given, **context})
    return Term(name, weight, {one: plain_numbers(value) for one, value in options.items() if one not in context})


def _terms_with(option: str) -> str:
    """A hint at the terms that have this option of their own."""
    names = [name for name, loss in _TERMS.items() if option in loss.checks]
    example = f"terms={{{names[0]!r}: {{{option!r}: ...}}}}" if names else ""
    return f" It is an option of single terms: {example}." if names else ""


def plain_numbers(value: Any) -> Any:
    """A tensor of the CPU as Python floats, which need no copy to a device in every batch."""
    return tuple(value.tolist()) if isinstance(value, Tensor) and value.device.type == "cpu" else value


def compound_loss(
    logits: Tensor,
    target: Tensor,
    terms: Terms,
    *,
    mask: Tensor | None = None,
    **options: Unpack[TensorOptions],
) -> Tensor:
    r"""A weighted sum of losses, such as Dice and cross-entropy, for the price of about one.

    The softmax is computed once, and the memory that holds it becomes the gradient. The value and the gradient are
    those of the sum of the single losses.

    Args:
        logits: `[B, C, *spatial]` with up to three spatial axes, or `[B, C]`.
        target: class indices or probabilities; see `DenseOptions`.
        terms: the weight of each loss, or a dictionary of its `weight` (1 if left out) and its options. The losses are
            `"cross_entropy"`, `"focal"`, `"top_k_cross_entropy"`, `"dice"`, `"tversky"` and `"generalized_dice"`. Each
            may have its own `class_weights`, `include_background` and `ignore_classes`.
        mask: which voxels count; see `dice_loss`.
        **options: those of all terms; see `DenseOptions`. The `reduction` is `"mean"` or `"sum"`, of each term.

    Returns:
        A scalar.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: shapes that do not fit, or a value out of range.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[[2.0, 2.0, -2.0, -2.0], [-2.0, -2.0, 2.0, 2.0]]])
        >>> target = torch.tensor([[0, 1, 1, 1]])
        >>> terms = {"cross_entropy": 1.0, "dice": {"weight": 0.5, "include_background": False}}
        >>> compound_loss(logits, target, terms)
        tensor(1.1217)
    """
    return compound(logits, target, terms=terms, mask=mask, **options)


@dense_loss(check_compound, _terms_with, public_name="compound_loss")
def compound(
    logits: Tensor,
    target: Tensor,
    *,
    terms: Terms,
    mask: Tensor | None = None,
    **options: Unpack[TensorOptions],
) -> Tensor:
    """`compound_loss` with the terms as an option."""
    inputs = read_dense_inputs(logits, target, mask, options)
    # A lambda, because the compiler of torch 2.6 cannot trace annotations.
    make_pass: MakePass = lambda wanted, factor: one_pass(  # noqa: E731
        inputs.logits, inputs.target, inputs.valid, wanted, factor, inputs.voxel_weights
    )
    return sum_of_terms(inputs, cast("tuple[Term, ...]", terms), make_pass)


def sum_of_terms(
    inputs: DenseInputs, terms: tuple[Term, ...], make_pass: MakePass, needs_logits: bool = True
) -> Tensor:
    """The weighted sum of the terms.

    Args:
        inputs: what the terms are computed from.
        terms: checked.
        make_pass: computes sums over voxels and losses of voxels, given what is wanted and the factors of the classes.
        needs_logits: False where the logits do not exist; a term that cannot share the pass is an error then.
    """
    of_terms = [_inputs_of_term(inputs, term) for term in terms]
    shared = _share_results(inputs, terms, of_terms, make_pass)
    losses, values = [], {}
    for term, own in zip(terms, shared, strict=True):
        if own.results is None and not needs_logits:
            raise ValueError(
                f"{own.settings.owner} does not fit into one pass with the other terms. Losses of voxels need a"
                " softmax, no label_smoothing, and the same gamma, alpha and class weights; Dice and its relatives need"
                " the same `squared`. Use compound_loss in place of this loss."
            )
        options = {name: value for name, value in term.options.items() if name not in _OF_EACH_TERM}
        loss = _TERMS[term.name].function(inputs.logits, inputs.target, **options, owner=own.settings.owner, shared=own)
        values[term.name] = loss.detach()
        losses.append(term.weight * loss)
    inputs.record("terms", values)
    if inputs.settings.reduction == "mean" and inputs.settings.record is not None:
        counts = [cast("dict[str, Tensor]", own.settings.record)["counted"] for own in shared]
        counted = _valid_voxels(inputs) * (torch.stack(counts) > 0).any()
        inputs.record("counted", sum_over_processes(counted, inputs.settings.across_processes))
    total = losses[0]
    for loss in losses[1:]:
        total = total + loss
    return total


def _valid_voxels(inputs: DenseInputs) -> Tensor | int:
    """The number of voxels that count for any class."""
    if inputs.valid is None:
        return inputs.logits.shape[0] * inputs.logits.shape[2]
    return by_class(inputs.valid).any(1).sum()


def _inputs_of_term(inputs: DenseInputs, term: Term) -> DenseInputs:
    """The inputs with the term's own weights of the classes."""
    own = {name: value for name, value in term.options.items() if name in _OF_EACH_TERM}
    shared = inputs.settings
    has_own_weights = bool(own)
    own = {"record": {}, "owner": f"{shared.owner} term {term.name!r}", **own}
    settings = DenseSettings(**{name: own.get(name, getattr(shared, name)) for name in DenseSettings._fields})
    weights = inputs.class_weights
    if has_own_weights:
        weights = class_weights_of(inputs.logits, inputs.target, inputs.valid, settings)
    return inputs.changed(settings=settings, class_weights=weights)


def _share_results(
    inputs: DenseInputs, terms: tuple[Term, ...], of_terms: list[DenseInputs], make_pass: MakePass
) -> list[DenseInputs]:
    """The inputs of the terms, with the results of one pass for those that can share it.

    A term that needs other sums or other losses of the voxels than the first of its kind computes its own.
    """
    activation = inputs.settings.activation
    fused = activation == "softmax" and not is_binary(inputs)
    squared = [bool(term.options.get("squared", False)) for term in terms]
    of_sums = [place for place, term in enumerate(terms) if term.name in _OF_SUMS]
    sums = of_sums[0] if of_sums else None
    voxels = None
    if fused:
        for place, term in enumerate(terms):
            gamma = _gamma(term)
            if gamma is not None and (gamma == 0 or holds_indices(inputs.target)):
                voxels = place
                break
    gamma = None if voxels is None else _gamma(terms[voxels])
    factor = None if voxels is None else class_factor(of_terms[voxels], terms[voxels].options.get("alpha"))
    wanted = Wanted(activation, sums is not None, sums is not None and squared[sums], gamma)
    results = None if sums is None and voxels is None else make_pass(wanted, factor)
    shared = []
    for place, (term, own) in enumerate(zip(terms, of_terms, strict=True)):
        if term.name in _OF_SUMS:
            same = sums is not None and squared[place] == squared[sums]
        else:
            same = voxels is not None and _same_losses(term, own, terms[voxels], of_terms[voxels])
        shared.append(own.changed(results=results) if same else own)
    return shared


def _gamma(term: Term) -> float | None:
    """The exponent of the losses of the voxels that a term needs; None if it needs none that one pass gives."""
    if term.name in _OF_SUMS or term.options.get("label_smoothing", 0.0) != 0:
        return None
    return cast(float, term.options.get("gamma", 2.0)) if term.name == "focal" else 0.0


def _same_losses(term: Term, inputs: DenseInputs, other: Term, other_inputs: DenseInputs) -> bool:
    """Whether two terms need the same losses of the voxels."""
    same_weights = inputs.class_weights is other_inputs.class_weights or term is other
    same_alpha = term is other or (term.options.get("alpha") is None and other.options.get("alpha") is None)
    return _gamma(term) == _gamma(other) and same_weights and same_alpha
