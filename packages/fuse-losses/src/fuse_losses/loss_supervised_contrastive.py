"""Supervised contrastive loss over a batch_dict."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .functional.supervised_contrastive import check_supervised_contrastive, contrast
from .loss_base import LossBase, PreprocessFunc


class LossSupervisedContrastive(LossBase):
    """`functional.supervised_contrastive_loss` of features and classes of the batch_dict.

    Args:
        feat_i: the key of the anchors' features, `[B, D]`.
        feat_j: the key of the features that they are compared with; None is `feat_i` without each sample itself.
        target_i: the key of the anchors' classes, `[B]`; None makes each row a class of its own.
        target_j: the key of the classes of `feat_j`; None is `target_i`.
        temperature: what the similarities are divided by; above 0.
        symmetrical: add the loss with the roles exchanged.
        alpha: the share of i against j if symmetrical; the rest is j against i.
        across_processes: compare with the features of all processes; see the function.
        weight: the factor of the result; None is 1.
        preprocess_func: see `LossBase`. A batch filtered to no samples gives zero, connected to the graph.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: a value out of range, or keys that do not go together.

    Example:
        >>> import torch
        >>> loss = LossSupervisedContrastive(feat_i="model.image", feat_j="model.text", temperature=1.0)
        >>> loss({"model.image": torch.eye(2), "model.text": torch.eye(2)})
        tensor(0.3133)
    """

    def __init__(
        self,
        *,
        feat_i: str,
        feat_j: str | None = None,
        target_i: str | None = None,
        target_j: str | None = None,
        temperature: float = 0.2,
        symmetrical: bool = False,
        alpha: float = 0.5,
        across_processes: bool = False,
        weight: float | None = None,
        preprocess_func: PreprocessFunc | None = None,
    ) -> None:
        options = (temperature, symmetrical, alpha, across_processes)
        check_supervised_contrastive("LossSupervisedContrastive", *options, within=feat_j is None)
        if feat_j is None and target_i is None:
            raise ValueError("LossSupervisedContrastive needs feat_j, target_i or both, got neither.")
        if target_j is not None and (feat_j is None or target_i is None):
            raise ValueError(
                f"LossSupervisedContrastive got target_j={target_j!r}, which goes with feat_j and target_i."
                " Give them too."
            )
        keys = (feat_i, feat_j, target_i, target_j)
        super().__init__(
            reads=tuple(key for key in keys if key is not None), weight=weight, preprocess_func=preprocess_func
        )
        named = zip(("feat_i", "feat_j", "target_i", "target_j"), keys, strict=True)
        self._owner = f"LossSupervisedContrastive({', '.join(f'{name}={key!r}' for name, key in named if key)})"
        self.feat_i = feat_i
        self.feat_j = feat_j
        self.target_i = target_i
        self.target_j = target_j
        self.temperature = temperature
        self.symmetrical = symmetrical
        self.alpha = alpha
        self.across_processes = across_processes

    def compute(self, batch_dict: Mapping[str, Any]) -> Tensor:
        """The loss before `weight`."""

        def read(key: str | None) -> Any:
            return None if key is None else batch_dict[key]

        tensors = (read(self.feat_i), read(self.feat_j), read(self.target_i), read(self.target_j))
        options = (self.temperature, self.symmetrical, self.alpha, self.across_processes)
        loss, self.counted = contrast(self._owner, *tensors, *options)
        return loss
