"""The samples that were predicted worst, with their images."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..predictions.compared_keys import Task
from ..predictions.pixel_counts import VOID, class_masks, pixel_counts
from .html_parts import escape, note, pictures
from .pixel_predictions import dice, mean_dice
from .png import png_bytes, scaled

MOST = {"classes": 24, "pixels": 12}
ABOUT = {
    "classes": "The samples whose true class has the lowest predicted probability.",
    "pixels": "The samples with the lowest mean Dice of their classes without class 0. Left to right: image, target, "
    "prediction. Of a volume, the slice with the most wrong pixels is shown.",
}
COLORS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#8c564b", "#bcbd22", "#17becf")
"""Colors of the classes after class 0, first those of Okabe and Ito, which the color-blind can tell apart."""
RGB = np.array([[int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)] for color in COLORS])
OPACITY = 0.65


def cases_of_batch(
    task: Task, outputs: Mapping[str, Any], images: Tensor, ids: Sequence[Any], below: float
) -> list[dict[str, Any]]:
    """The worst cases of a batch, unordered; none if the task has no cases to draw.

    Args:
        task: the keys of prediction and target.
        outputs: the predictions.
        images: shape [B, C, H, W] or [B, C, D, H, W].
        ids: the samples' identifiers.
        below: leave out the cases whose value is not below this; encoding a picture takes time.
    """
    prediction, target = outputs[task.pred], outputs[task.target]
    if isinstance(target, list):  # some samples lack it
        target = torch.tensor([float("nan") if one is None else float(one) for one in target])
    if not (isinstance(prediction, Tensor) and isinstance(target, Tensor)):
        return []
    masks = class_masks(task.pred, prediction, target) if prediction.ndim > 2 and target.ndim > 2 else None
    if masks is not None and masks[0].shape[1:] == images.shape[2:]:
        return _segmentations(*masks, images, ids, below)
    if prediction.ndim == 2 and prediction.shape[1] > 1 and target.numel() == len(prediction) and images.ndim == 4:
        return _classifications(task, prediction, target.flatten(), images, ids, below)
    return []


def _classifications(
    task: Task, scores: Tensor, target: Tensor, images: Tensor, ids: Sequence[Any], below: float
) -> list[dict[str, Any]]:
    probabilities = scores.float().softmax(dim=1) if task.pred.startswith("model.logits.") else scores.float()
    classes = probabilities.shape[1]
    target = torch.where((target >= 0) & (target < classes), target, -1).long().to(scores.device)
    of_target = probabilities.gather(1, target.clamp(min=0)[:, None])[:, 0].masked_fill(target < 0, 2)
    values, positions = of_target.topk(min(MOST["classes"], len(of_target)), largest=False)
    predicted = probabilities.argmax(dim=1)
    return [
        {
            "kind": "classes",
            "id": str(ids[position]),
            "value": value,
            "target": int(target[position]),
            "predicted": int(predicted[position]),
            "pngs": [_encoded(scaled(_shown(images[position].float().cpu().numpy())))],
        }
        for value, position in zip(values.tolist(), positions.tolist(), strict=True)
        if value <= 1 and value < below
    ]


def _segmentations(
    predicted: Tensor, target: Tensor, classes: int, images: Tensor, ids: Sequence[Any], below: float
) -> list[dict[str, Any]]:
    values = mean_dice(dice(pixel_counts(predicted, target, classes)))
    worst = [int(position) for position in np.argsort(values) if values[position] < below][: MOST["pixels"]]  # not NaN
    cases = []
    for position in worst:
        own, true = predicted[position].cpu().numpy(), target[position].cpu().numpy()
        image = scaled(_shown(images[position].float().cpu().numpy()))
        if own.ndim == 3:
            wrong = ((own != true) & (true >= 0) & (true != VOID)).sum(axis=(1, 2))
            own, true, image = own[wrong.argmax()], true[wrong.argmax()], image[:, wrong.argmax()]
        image = np.repeat(image, 3, axis=0) if len(image) == 1 else image
        pngs = [_encoded(one) for one in (image, _overlay(image, true), _overlay(image, own))]
        found = np.unique(np.concatenate([own, true], axis=None))
        drawn = [int(index) for index in found if index > 0 and index != VOID]
        value = float(values[position])
        cases.append({"kind": "pixels", "id": str(ids[position]), "value": value, "classes": drawn, "pngs": pngs})
    return cases


def _shown(image: np.ndarray) -> np.ndarray:
    """The colors of an image, or the first of its channels."""
    return image if len(image) == 3 else image[:1]


def _overlay(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The image with the color of each class over it, shape [3, H, W]."""
    colors = RGB[(mask - 1) % len(RGB)].transpose(2, 0, 1)
    shown: np.ndarray = np.where((mask > 0) & (mask != VOID), OPACITY * colors + (1 - OPACITY) * image, image)
    return shown


def _encoded(image: np.ndarray) -> str:
    return base64.b64encode(png_bytes(image)).decode("ascii")


def worst_cases(cases: Sequence[Mapping[str, Any]], class_names: Sequence[str]) -> list[str]:
    """The parts of the section, HTML.

    Args:
        cases: of one task, the worst first.
        class_names: the names of the classes; empty numbers them.
    """

    def name(index: int) -> str:
        return class_names[index] if index < len(class_names) else str(index)

    kind = cases[0]["kind"]
    shown = []
    for case in cases:
        if kind == "pixels":
            caption = f"{case['id']}: Dice {case['value']:.3f}"
            about = ["Image", "Target", "Prediction"]
        else:
            true, predicted = name(case["target"]), name(case["predicted"])
            caption = f"{case['id']}: {true} predicted as {predicted}, p({true}) = {case['value']:.3f}"
            about = ["Image"]
        images = [
            (base64.b64decode(png), f"{one} of {case['id']}") for png, one in zip(case["pngs"], about, strict=True)
        ]
        shown.append(pictures(images, caption))
    drawn = sorted({index for case in cases for index in case.get("classes", ())})
    legend = "".join(
        f'<span class="legend"><span aria-hidden="true" class="swatch" style="background:'
        f'{COLORS[(index - 1) % len(COLORS)]}"></span> {escape(name(index))}</span>'
        for index in drawn
    )
    legends = [f'<p class="note">{legend}</p>'] if legend else []
    return [note(ABOUT[kind]), *legends, f'<div class="images {kind}">{"".join(shown)}</div>']
