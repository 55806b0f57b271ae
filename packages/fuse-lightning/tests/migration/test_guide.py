"""What docs/migrating-from-fusemedml.md tells is run."""

import importlib
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fuse_core
import fuse_lightning
import fuse_losses
import fuse_models

GUIDE = Path(__file__).parents[4] / "docs" / "migrating-from-fusemedml.md"
TEXT = GUIDE.read_text(encoding="utf-8") if GUIDE.exists() else ""
pytestmark = pytest.mark.skipif(not TEXT, reason="the documentation is not part of the package's sdist")


def section(title: str) -> str:
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", TEXT, flags=re.DOTALL | re.MULTILINE)[1]


def rows(title: str) -> list[list[str]]:
    lines = [line for line in section(title).splitlines() if line.startswith(("| `", "| 2022", "| the "))]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def calls(cell: str) -> list[str]:
    """The code of a cell that calls something."""
    return [
        code.replace("\\|", "|")
        for code in re.findall(r"`([^`]+)`", cell)
        if re.match(r"[A-Za-z]\w*\(", code) and "..." not in code
    ]


IMPORTS = [name for row in rows("Imports") for name in re.findall(r"`(fuse_[\w.]+)`", row[1])] if TEXT else []
CALLS = [code for title in ("Arguments", "Missing") for row in rows(title) for code in calls(row[1])] if TEXT else []


@pytest.mark.parametrize("name", IMPORTS)
def test_imported_names_exist(name):
    module, _, attribute = name.rpartition(".")
    assert attribute in importlib.import_module(module).__all__


class Collecting:
    """A metric in fuse.eval's manner."""

    def collect(self, batch): ...
    def eval(self, results=None): ...
    def reset(self): ...


@pytest.mark.parametrize("code", CALLS)
def test_calls_of_the_arguments_table_run(code, tmp_path):
    names = {}
    for package in (fuse_core, fuse_losses, fuse_models, fuse_lightning):
        names |= {name: getattr(package, name) for name in package.__all__}
    loss = fuse_losses.LossDefault(pred="y", target="t", callable=F.cross_entropy)
    model = fuse_models.ModelWrapSeqToDict(model=nn.Linear(4, 2), model_inputs=["x"], model_outputs=["y"])
    batch = fuse_core.NDict({"data.sample_id": [0, 1], "y": torch.rand(2, 2), "t": torch.tensor([0, 1])})
    names |= {"nn": nn, "F": F, "torch": torch, "loss": loss, "losses": {"l": loss}, "model": model, "batch": batch}
    names |= {"folder": tmp_path, "pairs": [(1, 2)], "collecting": Collecting(), "first_half": lambda batch: batch}
    if "state_dict" in code:
        names["state_dict"] = fuse_models.BackboneResnet().state_dict()
    result = eval(code, names)
    samples = [{"data.sample_id": i, "data.x": torch.ones(i + 1), "data.path": "a"} for i in range(2)]
    if isinstance(result, fuse_core.Collate) and "per_key" in code:
        assert result(samples)["data.x"].shape == (2, 2)


def test_programs_of_the_guide_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.+?)^```", TEXT, flags=re.DOTALL | re.MULTILINE)
    ours = [block for block in blocks if not block.startswith("# fuse-med-ml")]
    assert len(ours) == len(blocks) - 1
    namespace = {"__name__": "guide"}
    for block in ours:  # each goes on from those before it
        exec(compile(block, str(GUIDE), "exec"), namespace)


def test_focal_loss_of_2022_is_sigmoid_with_alpha_on_the_negatives():
    torch.manual_seed(0)
    logits, target = torch.randn(4, 2, 8, 8), torch.randint(2, (4, 8, 8))
    one_hot = F.one_hot(target, 2).movedim(-1, 1).float()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, one_hot, reduction="none")
    alpha = torch.where(one_hot == 0, 0.25, 0.75)
    there = (alpha * (1 - torch.exp(-cross_entropy)) ** 2 * cross_entropy).mean()

    loss = fuse_losses.LossFocal(pred="p", target="t", activation="sigmoid", alpha=0.75, gamma=2.0)

    assert loss({"p": logits, "t": target}).item() == pytest.approx(there.item(), abs=1e-6)


def test_binary_dice_loss_is_dice_of_probabilities_with_smoothing():
    torch.manual_seed(0)
    probabilities, target = torch.randn(2, 3, 4, 4).softmax(1), torch.randint(3, (2, 4, 4))
    one_hot = F.one_hot(target, 3).movedim(-1, 1).float()
    overlap, sizes = (one_hot * probabilities).sum((2, 3)), (one_hot + probabilities).sum((2, 3))
    there = (1 - (2 * overlap + 1e-5) / (sizes + 1e-5)).mean()

    smooth = {"smooth_numerator": 1e-5, "smooth_denominator": 1e-5}
    loss = fuse_losses.LossDice(pred="p", target="t", activation="none", **smooth)

    for labels in (target, one_hot):
        assert loss({"p": probabilities, "t": labels}).item() == pytest.approx(there.item(), abs=1e-6)
