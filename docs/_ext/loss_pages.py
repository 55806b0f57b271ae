"""A page for each loss: when to use it, its range and shapes, plots, the formula with all options, other libraries' names."""

from pathlib import Path

import loss_plots
import torch
from docstrings import public_names
from files import write_if_changed
from loss_table import DENSE_USAGE, LOSSES, USAGE, LossPage
from option_plots import draw_option_pictures

ALONE = {"linear_compound_loss", "supervised_contrastive_loss"}  # not a loss of one probability


def write_loss_pages(docs: Path) -> None:
    """Write them, and the table of all."""
    table = [
        f"| [`{one.name}`]({one.name}.md) | {one.title} | {one.use.split(': ')[0].split('. ')[0]}. |" for one in LOSSES
    ]
    names = "\n".join(one.name for one in LOSSES)
    write_if_changed(
        docs / "losses" / "index.md",
        "# Losses\n\nEach page shows the formula, every option with its default, plots, and the names of the options in other "
        "libraries. All dense losses share [these options](../dense-options.md). Each is also a function of tensors in "
        "`fuse_losses.functional`. If none of them fits, [write a loss of your own](../how-to/own-loss.md).\n\n| loss | what it is | when to use it |\n|---|---|---|\n"
        + "\n".join(table)
        + f"\n\n```{{toctree}}\n:hidden:\n\n../dense-options\n{names}\n```\n",
    )
    draw_option_pictures(docs / "losses" / "plots")
    for one in LOSSES:
        write_if_changed(docs / "losses" / f"{one.name}.md", loss_page(one, docs / "losses"))


def loss_page(loss: LossPage, folder: Path) -> str:
    """One page, whose plots are written beside it."""
    names = public_names()
    other = "" if loss.function in (None, loss.name) else f", as a function {{py:obj}}`~{names[loss.function]}`"
    parts = [
        f"# {loss.title}",
        f"{{py:obj}}`~{names[loss.name]}`{other}",
        _usage(loss.name),
        loss.use,
        f"- **Range.** {loss.range}\n- **Shapes.** {loss.shapes}"
        + ("" if loss.source == "-" else f"\n- **Source.** {loss.source}"),
    ]
    plots = list(loss.plots)
    if loss.function and loss.function not in ALONE:
        draw = loss_plots.main_plot(loss.function)
        text = "64 voxels, a quarter of them of class 1, each with the same probability of its true class."
        parts += ["## The loss by the probability of the true class", text, _plot(draw, f"{loss.name}-main", folder)]
    for name, title, text in plots:
        parts += [f"## {title}", text, _plot(getattr(loss_plots, name)(), f"{loss.name}-{name}", folder)]
    if loss.function:
        parts.append(_directive("Formula and options", "function", names[loss.function]))
    if loss.name != loss.function:
        parts.append(_directive("The class", "class", names[loss.name]))
    if loss.peers:
        rows = "\n".join(f"| {' | '.join(row)} |" for row in loss.peers)
        parts.append(
            "## In other libraries\n\n| here | MONAI | segmentation-models-pytorch | nnU-Net |\n|---|---|---|---|\n"
            + rows
        )
    return "\n\n".join(parts) + "\n"


def _usage(name: str) -> str:
    """How the loss is called, after a run of just that."""
    code = USAGE.get(name, DENSE_USAGE.format(name=name)).strip()
    logits, target, labels = torch.zeros(2, 3, 8, 8), torch.zeros(2, 8, 8, dtype=torch.long), torch.tensor([0, 0, 1])
    features, vectors = torch.randn(2, 8, 8, 8), torch.randn(3, 8)
    batch_dict = {
        "model.logits.seg": logits,
        "data.seg": target,
        "model.vectors": vectors,
        "data.label": labels,
        "model.loss": torch.ones(()),
        "global_step": 0,
    }
    inputs = {"logits": logits, "target": target, "labels": labels, "features": features, "vectors": vectors}
    exec(compile(code, name, "exec"), {"torch": torch, "batch_dict": batch_dict, **inputs})
    how_to = "[a training loop with a loss](../how-to/plain-loop.md)"
    return f"```python\n{code}\n```\n\nThe how-to shows {how_to}. `batch_dict` is [a dictionary with these keys](../ideas.md)."


def _directive(title: str, kind: str, name: str) -> str:
    members = "\n   :no-members:" if kind == "class" else ""
    return f"## {title}\n\n```{{eval-rst}}\n.. auto{kind}:: {name}\n   :no-index:{members}\n```"


def _plot(draw: object, name: str, folder: Path) -> str:
    path = folder / "plots" / name
    loss_plots.draw_in_both_schemes(draw, path)  # type: ignore[arg-type]
    return "\n".join(
        f"```{{image}} plots/{name}-{scheme}.svg\n:alt: {name.replace('-', ', ')}\n:class: only-{scheme}\n```"
        for scheme in ("light", "dark")
    )
