"""Supervised contrastive loss."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .._dense.option_checks import check_bool, check_number
from .._dense.sum_over_processes import gather_over_processes
from .._fused.device_rules import accumulation_dtype
from .._fused.safe_division import divide_or_zero


def supervised_contrastive_loss(
    feat_i: Tensor,
    feat_j: Tensor | None = None,
    target_i: Tensor | None = None,
    target_j: Tensor | None = None,
    *,
    temperature: float = 0.2,
    symmetrical: bool = False,
    alpha: float = 0.5,
    across_processes: bool = False,
) -> Tensor:
    r"""Supervised contrastive loss: features of the same class attract, all others repel.

    With features scaled to length 1, temperature $\tau$, anchors i and the set $P(i)$ of the j with i's target:

    $$-\frac{1}{|P(i)|} \sum_{p \in P(i)} \log \frac{\exp(z_i \cdot z_p / \tau)}{\sum_j \exp(z_i \cdot z_j / \tau)}$$

    averaged over the anchors with a positive. Khosla et al. 2020, "Supervised Contrastive Learning", eq. 2.

    Args:
        feat_i: the anchors' features, `[B_i, D]`.
        feat_j: the features that they are compared with, `[B_j, D]`: another view, or another modality. None is
            `feat_i`, where a sample is not compared with itself.
        target_i: the anchors' classes, `[B_i]`, integer. None makes every sample a class of its own, so that row i of
            `feat_i` and of `feat_j` belong together.
        target_j: the classes of `feat_j`, `[B_j]`; None is `target_i`.
        temperature: $\tau$, above 0.
        symmetrical: add the loss with the roles exchanged: `alpha` of i against j and `1 - alpha` of j against i. It
            needs `feat_j`.
        alpha: the share of i against j, from 0 to 1, if `symmetrical`.
        across_processes: compare with the features of all processes of a distributed training. Value and gradient are
            then those of one process with the whole batch. Every process must call the loss, and waits for the others'
            batch sizes.

    Returns:
        A scalar, float64 for float64 features, else float32; 0, connected to the graph, if no anchor has a positive.

    Raises:
        TypeError: features that are not floating-point, or an argument of the wrong type.
        ValueError: shapes that do not fit, a value out of range, or neither `feat_j` nor `target_i`.

    Example:
        >>> feat = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> supervised_contrastive_loss(feat, target_i=torch.tensor([0, 0, 1]), temperature=1.0)
        tensor(0.3133)
    """
    options = (temperature, symmetrical, alpha, across_processes)
    check_supervised_contrastive("supervised_contrastive_loss", *options, within=feat_j is None)
    tensors = (feat_i, feat_j, target_i, target_j)
    loss, _ = contrast("supervised_contrastive_loss", *tensors, *options)
    return loss


def contrast(
    owner: str,
    feat_i: Tensor,
    feat_j: Tensor | None,
    target_i: Tensor | None,
    target_j: Tensor | None,
    temperature: float,
    symmetrical: bool,
    alpha: float,
    across_processes: bool,
) -> tuple[Tensor, Tensor | int]:
    """The loss of checked options, and the number of anchors that it is a mean over."""
    within = feat_j is None
    _check_features(owner, "feat_i", feat_i)
    if feat_j is None:
        if target_i is None:
            raise ValueError(f"{owner} needs feat_j, target_i or both, got neither.")
        if target_j is not None:
            raise ValueError(f"{owner} got target_j without feat_j. Leave both out, or give both.")
        feat_j = feat_i
    _check_features(owner, "feat_j", feat_j)
    if feat_i.shape[1] != feat_j.shape[1]:
        raise ValueError(f"{owner} takes features of one length, got {feat_i.shape[1]} and {feat_j.shape[1]}.")
    for name, target in (("target_i", target_i), ("target_j", target_j)):
        if target is not None:
            _check_tensor(owner, name, target)
    if across_processes:
        feat_i = gather_over_processes(feat_i)
        feat_j = feat_i if within else gather_over_processes(feat_j)
        target_i, target_j = (None if one is None else gather_over_processes(one) for one in (target_i, target_j))
    target_j = target_i if target_j is None else target_j
    positive = _positives(owner, feat_i, feat_j, target_i, target_j)
    dtype = accumulation_dtype(torch.promote_types(feat_i.dtype, feat_j.dtype))
    if positive.numel() == 0:  # no sample
        return (feat_i[:0].sum() + feat_j[:0].sum()).to(dtype), 0  # 0, and a part of the graph
    with torch.autocast(feat_i.device.type, enabled=False):  # whose products would be in half precision
        similarity = _unit(feat_i.to(dtype)) @ _unit(feat_j.to(dtype)).T / temperature
    if within:
        itself = torch.eye(len(feat_i), dtype=torch.bool, device=feat_i.device)
        # Lower than any similarity, but finite, so that a lone sample's loss is too.
        similarity = similarity.masked_fill(itself, torch.finfo(dtype).min / 4)
        return _contrast(similarity, positive & ~itself)
    loss, count = _contrast(similarity, positive)
    if symmetrical:
        loss = alpha * loss + (1 - alpha) * _contrast(similarity.T, positive.T)[0]
    return loss, count


def check_supervised_contrastive(
    loss: str, temperature: float, symmetrical: bool, alpha: float, across_processes: bool, within: bool
) -> None:
    """Raise unless the options have values that they take, and an effect; `within` is without `feat_j`."""
    check_bool(loss, "across_processes", across_processes)
    check_number(loss, "temperature", temperature)
    if temperature == 0:
        raise ValueError(f"{loss}(temperature=) is above 0, got {temperature!r}.")
    check_number(loss, "alpha", alpha, at_most=1.0)
    check_bool(loss, "symmetrical", symmetrical)
    if symmetrical and within:
        raise ValueError(f"{loss}(symmetrical=True) exchanges feat_i and feat_j, got no feat_j.")
    if alpha != 0.5 and not symmetrical:
        raise ValueError(f"{loss}(alpha=) is a share of a symmetrical loss, got {alpha!r} without symmetrical=True.")


def _contrast(similarity: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
    """The mean over the anchors, along axis 0, that have a positive, and their number."""
    log_probabilities = torch.log_softmax(similarity, dim=1)
    count = positive.sum(1)
    losses = -divide_or_zero(torch.where(positive, log_probabilities, 0.0).sum(1), count)
    anchors = (count > 0).sum()
    return divide_or_zero(losses.sum(), anchors), anchors


def _unit(features: Tensor) -> Tensor:
    # Scaled by the largest entry first: the squares of huge or tiny ones would not be finite, or be 0.
    largest = features.detach().abs().amax(1, keepdim=True)
    unit = normalize(features / torch.where(largest > 0, largest, 1.0), dim=1)
    return torch.where(largest > 0, unit, 0.0)  # a row of zeros has no direction, and no gradient


def _positives(owner: str, feat_i: Tensor, feat_j: Tensor, target_i: Tensor | None, target_j: Tensor | None) -> Tensor:
    """Which pairs belong together, bool `[B_i, B_j]`."""
    if target_i is None or target_j is None:
        if target_j is not None:
            raise ValueError(f"{owner} got target_j without target_i. Leave both out, or give both.")
        if len(feat_i) != len(feat_j):
            raise ValueError(
                f"{owner} without targets pairs the rows of feat_i and feat_j, got"
                f" {len(feat_i)} and {len(feat_j)}. Give the targets, or as many rows."
            )
        return torch.eye(len(feat_i), dtype=torch.bool, device=feat_i.device)
    for name, target, features in (("i", target_i, feat_i), ("j", target_j, feat_j)):
        if target.shape != features.shape[:1]:
            raise ValueError(
                f"{owner} takes target_{name} [{len(features)}], one class for each row of"
                f" feat_{name}, got shape {tuple(target.shape)}."
            )
    return target_i[:, None] == target_j


def _check_tensor(owner: str, name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{owner} takes a tensor as {name}, got {type(value).__name__}. Convert it with torch.as_tensor, a list of"
            " tensors with torch.stack."
        )


def _check_features(owner: str, name: str, features: Tensor) -> None:
    _check_tensor(owner, name, features)
    if not features.is_floating_point():
        raise TypeError(f"{owner} takes floating-point {name}, got {features.dtype}.")
    if features.ndim != 2:
        raise ValueError(f"{owner} takes {name} [B, D], got shape {tuple(features.shape)}.")
