"""Small pictures of what the options of dense losses do, computed by the losses themselves."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.colors import ListedColormap
from torch import Tensor

from fuse_losses import functional

CLASSES = ListedColormap(["#f0f0f0", "#56b4e9", "#e69f00", "#009e73"])


def grids(path: Path, pictures: Sequence[tuple[str, Tensor]], classes: bool) -> None:
    """Write a row of pictures with a number in each cell, for both schemes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for scheme, ink in (("light", "#222832"), ("dark", "#ced6dd")):
        figure, axes = plt.subplots(1, len(pictures), figsize=(2.1 * len(pictures), 2.4), squeeze=False)
        for axis, (title, values) in zip(axes[0], pictures, strict=True):
            cells = values.double()
            axis.imshow(
                cells, cmap=CLASSES if classes else "Blues", vmin=0, vmax=3 if classes else max(cells.max(), 1e-9) * 1.6
            )
            axis.set_title(title, fontsize=9, color=ink)
            axis.set_xticks([])
            axis.set_yticks([])
            if cells.numel() <= 36:
                for (row, column), value in zip(
                    torch.cartesian_prod(*map(torch.arange, cells.shape)).tolist(), cells.flatten(), strict=True
                ):
                    axis.text(column, row, f"{value:.2g}", ha="center", va="center", fontsize=8, color="#222832")
        figure.tight_layout()
        figure.savefig(f"{path}-{scheme}.svg", transparent=True, metadata={"Date": None})
        plt.close(figure)


def target() -> Tensor:
    """6 x 6 voxels of classes 0 to 2, with one thin class."""
    classes = torch.zeros(6, 6, dtype=torch.long)
    classes[1:4, 0:3] = 1
    classes[0:6, 4] = 2
    return classes


def draw_option_pictures(folder: Path) -> None:
    """Write all of them."""
    classes = target()
    resized: list[tuple[str, Tensor]] = [("target", classes)]
    for mode in ("nearest", "maxpool", "area"):
        small = functional.resize_target(classes[None], (3, 3), mode, num_classes=3)
        of_class_2 = small[0, 2] if small.ndim == 4 else (small[0] == 2).double()
        resized.append((f'class 2, "{mode}"', of_class_2))
    grids(folder / "resize-target", resized[:1], classes=True)
    grids(folder / "resize", resized[1:], classes=False)

    logits = torch.zeros(1, 3, 6, 6)
    ignored = classes.clone()
    ignored[4:, :3] = 255
    mask = torch.ones(1, 6, 6)
    mask[:, :, 3:] = 0
    losses = [
        ("no option", functional.segmentation_cross_entropy(logits, classes[None], reduction="none")),
        (
            "ignore_index",
            functional.segmentation_cross_entropy(logits, ignored[None], ignore_index=255, reduction="none"),
        ),
        ("mask", functional.segmentation_cross_entropy(logits, classes[None], mask=mask, reduction="none")),
        (
            "class_weights=[1, 1, 3]",
            functional.segmentation_cross_entropy(
                logits, classes[None], class_weights=[1.0, 1.0, 3.0], reduction="none"
            ),
        ),
    ]
    grids(folder / "counting", [(name, one[0]) for name, one in losses], classes=False)

    labels = torch.tensor([[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 3, 2], [0, 0, 2, 2]])
    regions = [[1, 2, 3], [2, 3], [3]]
    unions = [(f"channel {i}: {one}", torch.isin(labels, torch.tensor(one)).long()) for i, one in enumerate(regions)]
    grids(folder / "regions", [("target, classes 0 to 3", labels), *unions], classes=True)

    annotated = torch.tensor([[True, True, False]])
    merged = functional.segmentation_cross_entropy(
        logits,
        torch.where(classes == 2, 0, classes)[None],
        annotated=annotated,
        merge_unannotated=True,
        reduction="none",
    )
    plain = functional.segmentation_cross_entropy(logits, torch.where(classes == 2, 0, classes)[None], reduction="none")
    pictures = [("class 2 taken for background", plain[0]), ("merge_unannotated", merged[0])]
    grids(folder / "partial", pictures, classes=False)
