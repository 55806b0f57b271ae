"""Plots of the losses, drawn by the losses themselves."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from torch import Tensor

from fuse_losses import LossDefault, LossWarmUp, functional

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito 2008, for the color-blind
STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))
PROBABILITY = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)


def draw_in_both_schemes(draw: Callable[[Axes], None], path: Path, size: tuple[float, float] = (5.6, 3.3)) -> None:
    """Write `<path>-light.svg` and `<path>-dark.svg`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for scheme, ink, grid in (("light", "#222832", "#d5dce4"), ("dark", "#ced6dd", "#48566b")):
        style = dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), ink)
        extra = {
            "svg.hashsalt": path.name,
            "axes.grid": True,
            "grid.color": grid,
            "grid.linewidth": 0.6,
            "font.size": 10,
        }
        with plt.rc_context(
            {**style, **extra, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}
        ):
            figure, axes = plt.subplots(figsize=size)
            draw(axes)
            figure.savefig(f"{path}-{scheme}.svg", transparent=True, bbox_inches="tight", metadata={"Date": None})
            plt.close(figure)


def lines(
    axes: Axes, xs: Sequence[float] | Tensor, ys: Mapping[str, Iterable[float]], x_label: str, y_label: str
) -> None:
    """Several lines, told apart by color and dashes."""
    for (name, values), color, style in zip(ys.items(), COLORS, STYLES, strict=False):
        axes.plot(xs, list(values), color=color, linestyle=style, label=name, linewidth=1.8)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.legend()


def image(probability: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and target of 64 voxels, 16 of them of class 1, each with this probability of its true class."""
    target = (torch.arange(64) < 16).long()[None]
    of_class_1 = torch.where(target == 1, probability, 1 - probability)
    return torch.stack([1 - of_class_1, of_class_1], dim=1).log(), target


def main_plot(function: str) -> Callable[[Axes], None]:
    """The loss by the probability of the true class, the same in all 64 voxels, a quarter of which are of class 1."""
    loss = getattr(functional, function)
    arguments = {"compound_loss": {"terms": {"cross_entropy": 1.0, "dice": 1.0}}}.get(function, {})

    def draw(axes: Axes) -> None:
        values = [loss(*image(one), **arguments).item() for one in PROBABILITY]
        lines(axes, PROBABILITY, {function: values}, "probability of the true class", "loss")
        axes.get_legend().remove()

    return draw


def _by_probability(variants: Mapping[str, Callable[[Tensor, Tensor], Tensor]]) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        ys = {name: [loss(*image(one)).item() for one in PROBABILITY] for name, loss in variants.items()}
        lines(axes, PROBABILITY, ys, "probability of the true class", "loss")

    return draw


def label_smoothing() -> Callable[[Axes], None]:
    """Cross-entropy with smoothed labels."""
    cross_entropy = functional.segmentation_cross_entropy
    return _by_probability(
        {f"{one:g}": lambda p, y, one=one: cross_entropy(p, y, label_smoothing=one) for one in (0.0, 0.1, 0.3)}
    )


def gamma() -> Callable[[Axes], None]:
    """Focal loss."""
    return _by_probability(
        {
            f"gamma {one:g}": lambda p, y, one=one: functional.focal_loss(p, y, gamma=one)
            for one in (0.0, 0.5, 1.0, 2.0, 5.0)
        }
    )


def alpha() -> Callable[[Axes], None]:
    """The sigmoid form of the focal loss, of a positive and of a negative."""

    def draw(axes: Axes) -> None:
        ys = {}
        for name, positive in (("positive", True), ("negative", False)):
            for one in (0.25, 0.75):
                target = torch.tensor([[float(positive)]], dtype=torch.float64)
                logits = PROBABILITY.logit() * (1 if positive else -1)
                options = {"activation": "sigmoid", "alpha": one}
                ys[f"{name}, alpha {one}"] = [
                    functional.focal_loss(x[None, None], target, **options).item() for x in logits
                ]
        lines(axes, PROBABILITY, ys, "probability of the true label", "loss")

    return draw


def top_k() -> Callable[[Axes], None]:
    """The mean over the worst voxels."""

    def draw(axes: Axes) -> None:
        logits = torch.randn(1, 2, 4096, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        logits[:, 0] += 2
        target = torch.zeros(1, 4096, dtype=torch.long)
        shares = torch.linspace(0.02, 1, 50).tolist()
        ys = {"k": [functional.top_k_cross_entropy(logits, target, k=one).item() for one in shares]}
        lines(axes, shares, ys, "k", "loss")
        axes.get_legend().remove()

    return draw


def dice_forms() -> Callable[[Axes], None]:
    """The forms of the Dice loss."""
    forms = {"Dice": {}, "squared": {"squared": True}, "jaccard": {"jaccard": True}, "log": {"log": True}}

    def draw(axes: Axes) -> None:
        _by_probability({n: lambda p, y, o=o: functional.dice_loss(p, y, **o) for n, o in forms.items()})(axes)
        axes.set_ylim(0, 2)

    return draw


def empty() -> Callable[[Axes], None]:
    """The mean over a class with a Dice loss of 0.5 and a class that the target does not hold."""

    def draw(axes: Axes) -> None:
        given = torch.linspace(0.0, 1.0, 60, dtype=torch.float64)
        target = (torch.arange(64) < 32).long()[None]  # class 1 in half of the voxels, class 2 in none
        found = torch.where(torch.arange(64) < 16, 1.0, 0.0) + torch.where(torch.arange(64) >= 48, 1.0, 0.0)
        options = {"include_background": False, "activation": "none"}
        ys: dict[str, list[float]] = {f'"{one}"': [] for one in ("skip", "penalize", "zero")}
        ys["smoothed by 1e-5"] = []
        for one in given:
            of_class_2 = torch.full((64,), float(one), dtype=torch.float64)
            probabilities = torch.stack([1 - found, found.double(), of_class_2])[None]
            for name in ("skip", "penalize", "zero"):
                ys[f'"{name}"'].append(functional.dice_loss(probabilities, target, empty=name, **options).item())
            ys["smoothed by 1e-5"].append((0.5 + 1 - 1e-5 / (64 * float(one) + 1e-5)) / 2)
        lines(axes, given, ys, "mean probability predicted for the absent class", "loss, mean of two classes")
        axes.set_ylim(0, 1.35)  # room for the legend

    return draw


def _masks(found: int, right: int, total: int = 64, true: int = 16) -> tuple[Tensor, Tensor]:
    """Probabilities of a mask of `found` voxels, `right` of which are right, and the target."""
    target = (torch.arange(total) < true).long()[None]
    predicted = torch.zeros(1, total, dtype=torch.float64)
    predicted[0, :right] = 1
    predicted[0, true : true + found - right] = 1
    return torch.stack([1 - predicted, predicted], dim=1), target


def tversky() -> Callable[[Axes], None]:
    """False positives and false negatives."""

    def draw(axes: Axes) -> None:
        sizes = range(-14, 15)
        ys = {}
        for a, b in ((0.5, 0.5), (0.3, 0.7), (0.7, 0.3)):
            masks = [_masks(16 + one, min(16, 16 + one)) for one in sizes]
            options = {"alpha": a, "beta": b, "include_background": False, "activation": "none"}
            ys[f"alpha {a}, beta {b}"] = [functional.tversky_loss(*mask, **options).item() for mask in masks]
        lines(axes, list(sizes), ys, "voxels too few (left) or too many (right), of 16", "loss")

    return draw


def tversky_gamma() -> Callable[[Axes], None]:
    """The exponent."""

    def draw(axes: Axes) -> None:
        options = {"include_background": False, "activation": "none"}
        masks = [_masks(one, one) for one in range(1, 17)]
        ys = {
            f"gamma {g:.2g}": [functional.tversky_loss(*mask, gamma=g, **options).item() for mask in masks]
            for g in (0.75, 1.0, 4 / 3, 2.0)
        }
        lines(axes, [one / 16 for one in range(1, 17)], ys, "share of the class that was found", "loss")

    return draw


def volume_weights() -> Callable[[Axes], None]:
    """The price of missing a class, by its size."""

    def draw(axes: Axes) -> None:
        sizes = list(range(1, 129, 2))
        ys: dict[str, list[float]] = {f'"{one}"': [] for one in ("square", "simple", "uniform")}
        for size in sizes:
            target = torch.zeros(1, 256, dtype=torch.long)
            target[0, :size] = 1
            predicted = torch.zeros(1, 2, 256, dtype=torch.float64)
            predicted[0, 0] = 1
            for name, values in ys.items():
                kind = name.strip('"')
                values.append(
                    functional.generalized_dice_loss(predicted, target, volume_weights=kind, activation="none").item()
                )
        lines(axes, sizes, ys, "voxels of the missed class, of 256", "loss")

    return draw


def compound() -> Callable[[Axes], None]:
    """Two terms and their sum."""
    terms = {"cross_entropy": {"cross_entropy": 1.0}, "dice": {"dice": 1.0}, "sum": {"cross_entropy": 1.0, "dice": 1.0}}
    return _by_probability({n: lambda p, y, t=t: functional.compound_loss(p, y, t) for n, t in terms.items()})


def temperature() -> Callable[[Axes], None]:
    """Two features of a class at an angle, and one of another class."""

    def draw(axes: Axes) -> None:
        angles = torch.linspace(0, torch.pi, 60, dtype=torch.float64)
        ys = {}
        for one in (0.05, 0.2, 1.0):
            values = []
            for angle in angles:
                other = torch.tensor(torch.pi / 2, dtype=torch.float64)
                feat = torch.stack([torch.stack([a.cos(), a.sin()]) for a in (angle * 0, angle, -other)])
                loss = functional.supervised_contrastive_loss(feat, target_i=torch.tensor([0, 0, 1]), temperature=one)
                values.append(loss.item())
            ys[f"temperature {one}"] = values
        lines(axes, angles.rad2deg(), ys, "angle between two features of one class, in degrees", "loss")
        axes.set_ylim(0, 8)

    return draw


def warm_up() -> Callable[[Axes], None]:
    """The factor over the steps."""

    def draw(axes: Axes) -> None:
        one = LossDefault(pred="a", target="b", callable=lambda pred, target: (pred * target).sum())
        batch = {"a": torch.ones(1), "b": torch.ones(1)}
        steps = list(range(0, 260, 2))
        ys = {}
        for ramp in (None, "linear", "cosine"):
            options = {} if ramp is None else {"ramp": ramp, "ramp_iterations": 100}
            loss = LossWarmUp(loss=one, nof_iterations=100, **options)
            ys[f"ramp={ramp!r}"] = [loss({**batch, "global_step": step}).item() for step in steps]
        lines(axes, steps, ys, "optimizer step", "factor")

    return draw
