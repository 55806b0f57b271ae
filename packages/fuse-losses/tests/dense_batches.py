"""Random inputs of dense losses, for property tests."""

from dataclasses import dataclass

import torch
from hypothesis import strategies as st


@dataclass
class DenseBatch:
    logits: torch.Tensor  # float64, requires a gradient
    target: torch.Tensor
    mask: torch.Tensor | None
    options: dict

    @property
    def classes(self):
        return self.logits.shape[1]

    @property
    def spatial(self):
        return self.logits.shape[2:]


@st.composite
def dense_batches(draw, *, binary=None):
    """A batch with options drawn from all that the dense losses share, but for resizing."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    samples, classes = draw(st.integers(1, 3)), draw(st.integers(2, 4))
    spatial = tuple(draw(st.lists(st.integers(1, 4), max_size=3)))
    activation = draw(st.sampled_from(["softmax", "sigmoid", "none"])) if binary is None else binary
    logits = 3 * torch.randn(samples, classes, *spatial, generator=generator, dtype=torch.float64)
    if activation == "none":
        logits = logits.softmax(1)
    options = {"activation": activation, "reduction": draw(st.sampled_from(["mean", "sum", "none"]))}
    if draw(st.booleans()):
        target = torch.randint(classes, (samples, *spatial), generator=generator)
        options["ignore_index"] = draw(st.sampled_from([None, 0, classes - 1, 255, -100]))
        if options["ignore_index"] is not None:
            ignored = torch.rand(samples, *spatial, generator=generator) < 0.3
            target = torch.where(ignored, options["ignore_index"], target)
        if draw(st.booleans()):
            target = target[:, None]
    else:
        target = torch.rand(samples, classes, *spatial, generator=generator, dtype=torch.float64)
        if draw(st.booleans()):
            target = (target > 0.6).double()
        if draw(st.booleans()):
            target[:, 0] = 0.0
    mask = None
    if draw(st.booleans()):
        mask = torch.rand(samples, *spatial, generator=generator) < 0.7
    options["class_weights"] = draw(st.sampled_from([None, [1.0, 2.0, 0.5, 3.0][:classes], "ipw"]))
    ignore_classes = draw(st.sampled_from([(), (1,), "background"]))
    if ignore_classes == "background":
        options["include_background"] = False
    else:
        options["ignore_classes"] = ignore_classes
    return DenseBatch(logits.requires_grad_(), target, mask, options)
