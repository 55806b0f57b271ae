import pytest
import torch
from torch.utils.data import DataLoader, default_convert

from fuse_core import Collate, DatasetWrapSeqToDict, NDict, collate, pad_to_largest

TUPLES = [(torch.full((2,), float(i)), torch.ones(i + 1), f"text {i}") for i in range(6)]
DATASET = DatasetWrapSeqToDict(TUPLES, ["data.x", "data.long", "data.text"], name="set")
PADDED = Collate(per_key={"data.long": pad_to_largest()})


@pytest.mark.parametrize(("method", "workers"), [("fork", 2), ("spawn", 1)])
def test_batches_come_from_worker_processes(method, workers):
    loader = DataLoader(
        DATASET,
        batch_size=3,
        collate_fn=PADDED,
        num_workers=workers,
        multiprocessing_context=method,
        persistent_workers=True,
    )
    for _epoch in range(2):
        first, second = loader
        assert type(first) is NDict
        assert first["data.sample_id"] == [("set", 0), ("set", 1), ("set", 2)]
        assert second["data"]["x"].tolist() == [[3, 3], [4, 4], [5, 5]]
        assert second["data.long"].shape == (3, 6)
        assert second["data.text"] == ["text 3", "text 4", "text 5"]


def test_an_error_in_a_worker_says_what_the_main_process_would():
    loader = DataLoader(DATASET, batch_size=3, collate_fn=collate, num_workers=1, multiprocessing_context="fork")
    with pytest.raises(ValueError, match=r"agree in 'data\.long'.*shape \(1,\).*shape \(2,\)"):
        next(iter(loader))


def test_pytorchs_own_conversions_keep_the_type():
    assert type(default_convert(NDict({"a.b": 1}))) is NDict


def test_pinning_in_a_loader_keeps_the_type(monkeypatch):
    from torch.utils.data._utils.pin_memory import pin_memory

    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self, *device: self + 1)  # pinning itself needs a GPU
    pinned = pin_memory(NDict({"a.b": torch.zeros(1), "ids": ["p"]}))
    assert type(pinned) is NDict
    assert pinned["a"]["b"].item() == 1
    assert pinned["ids"] == ["p"]
