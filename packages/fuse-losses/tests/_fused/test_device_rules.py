import pytest
import torch
from torch._subclasses import FakeTensorMode

from fuse_losses._fused import device_rules
from fuse_losses._fused.device_rules import voxel_chunks


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("shape", [(1, 14, 300000), (500, 3, 1), (3, 700, 7000), (2, 4, 0), (0, 4, 9), (7, 2, 40000)])
def test_blocks_cover_every_voxel_once(shape, device):
    covered = torch.zeros(shape[0], shape[2], dtype=torch.int32)
    for chunk in voxel_chunks(torch.Size(shape), torch.device(device)):
        covered[chunk] += 1
    assert (covered == 1).all()


@pytest.mark.parametrize("classes", [2, 14, 60])
def test_blocks_are_small_for_each_thread(classes):
    shape = torch.Size((2, classes, 200**3))
    most = 2**18 * torch.get_num_threads()
    for samples, voxels in voxel_chunks(shape, torch.device("cpu")):
        assert (samples.stop - samples.start) * classes * (voxels.stop - voxels.start) <= most


def test_fake_tensors_get_no_kernels(monkeypatch):
    monkeypatch.setattr(device_rules, "_DEVICES_WITH_TRITON", {"cpu"})
    monkeypatch.setattr(device_rules, "_triton_pass", lambda _: pytest.fail("a trial on fake tensors would fail"))
    with FakeTensorMode():
        logits, target = torch.randn(2, 3, 8), torch.zeros(2, 8, dtype=torch.long)
        assert device_rules.kernels_for(logits, target, "softmax") is None
