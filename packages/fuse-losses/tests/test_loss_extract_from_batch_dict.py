import pytest
import torch

from fuse_losses import LossExtractFromBatchDict

CROSS_ENTROPY = torch.nn.functional.cross_entropy
KEYS = {"pred": "model.logits", "target": "data.label"}


def make_batch():
    torch.manual_seed(0)
    return {"model.logits": torch.randn(4, 3, 5, requires_grad=True), "data.label": torch.randint(3, (4, 5))}


def test_extract_gives_one_number_as_a_scalar():
    assert LossExtractFromBatchDict(key="loss", weight=2.0)({"loss": torch.tensor([1.5])}) == 3
    with pytest.raises(ValueError, match=r"takes one number at 'loss', got shape \(2,\)"):
        LossExtractFromBatchDict(key="loss")({"loss": torch.zeros(2)})
    with pytest.raises(TypeError, match="takes a tensor at 'loss', got float"):
        LossExtractFromBatchDict(key="loss")({"loss": 1.0})
    with pytest.raises(KeyError, match=r"LossExtractFromBatchDict reads 'loss', .* Nearest keys: 'losses'"):
        LossExtractFromBatchDict(key="loss")({"losses": 1.0})
