from enum import Enum

import pytest
import torch
import torch._dynamo.testing
from torch import nn

from fuse_core import NDict, collate, read_key

TORCH_2_6 = torch.__version__.startswith("2.6.")


class Block(nn.Module):
    """Reads by dotted key and through a view, writes both ways, asks for keys that are there and that are not."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, batch_dict):
        logits = self.linear(read_key(batch_dict, "data.image", "Block"))
        batch_dict["model.logits.cls"] = logits
        if not TORCH_2_6:
            batch_dict["model"]["double"] = batch_dict["model"]["logits"]["cls"] * 2
            batch_dict["model.nested"] = {"a": {"b": logits + 1}}
            if "data.mask" not in batch_dict and "data" in batch_dict:
                batch_dict.update({"model": {"sum": logits.sum()}})
            batch_dict["model.got"] = batch_dict.get("data.absent", logits)
        return batch_dict


def new_batch(i):
    return collate([{"data.sample_id": f"{i}-{j}", "data.image": torch.full((4,), float(i))} for j in range(2)])


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()


def compiled_block(backend):
    block = Block()
    return block, torch.compile(block, fullgraph=True, backend=backend)


@pytest.mark.skipif(TORCH_2_6, reason="torch 2.6 cannot trace writes to any subclass of dict; see the test below")
def test_nested_reads_and_writes_compile_in_one_graph_and_once():
    counter = torch._dynamo.testing.CompileCounter()
    block, compiled = compiled_block(counter)
    for i in range(3):
        expected, batch = block(new_batch(i)), new_batch(i)
        result = compiled(batch)
        assert result is batch
        assert list(result) == list(expected)
        for key in expected.select("model"):
            torch.testing.assert_close(result[key], expected[key])
    assert counter.frame_count == 1


@pytest.mark.skipif(TORCH_2_6, reason="torch 2.6 cannot trace the error at all")
def test_a_missing_key_is_named_under_compile():
    compiled = torch.compile(lambda batch: batch["data.imgae"] * 2, backend="eager", fullgraph=True)
    with pytest.raises(Exception, match=r"NestedKeyError\('data\.imgae'"):
        compiled(NDict({"data.image": torch.ones(1)}))


class Key(str, Enum):  # noqa: UP042, StrEnum prints itself as its string
    DATA = "data"
    IMAGE = "data.image"


@pytest.mark.parametrize(
    "use",
    [
        lambda batch: batch[Key.IMAGE] + batch[Key.DATA]["image"],
        lambda batch: batch.get(Key.DATA)["image"],
        lambda batch: batch.pop(Key.DATA)["image"],
        lambda batch: batch.select(Key.DATA)["data.image"],
        lambda batch: batch.exclude(Key.DATA)["x"],
        lambda batch: batch.get_sub_dict(Key.DATA)["image"],
    ],
)
@pytest.mark.skipif(TORCH_2_6, reason="torch 2.6 cannot trace methods of a subclass of dict")
def test_a_str_enum_means_its_string_under_compile(use):
    def batch():
        return NDict({"data.image": torch.ones(1), "x": torch.zeros(1)})

    assert torch.compile(use, backend="eager", fullgraph=True)(batch()).equal(use(batch()))


@pytest.mark.skipif(not TORCH_2_6, reason="documents torch 2.6 alone")
def test_torch_2_6_compiles_with_a_plain_dict_only():
    counter = torch._dynamo.testing.CompileCounter()
    block, compiled = compiled_block(counter)
    for i in range(3):
        batch = new_batch(i)
        result = NDict(compiled(dict(batch)))
        torch.testing.assert_close(result["model.logits.cls"], block(batch)["model.logits.cls"])
    assert counter.frame_count == 1
    with pytest.raises(torch._dynamo.exc.Unsupported):
        compiled(new_batch(0))
