import copy

import pytest
import torch
from torch import nn

from fuse_optim import freeze_batch_norm_stats

LAYERS = {
    "BatchNorm1d": (lambda: nn.BatchNorm1d(3), (4, 3)),
    "BatchNorm2d, cumulative average": (lambda: nn.BatchNorm2d(3, momentum=None), (4, 3, 5, 5)),
    "BatchNorm3d": (lambda: nn.BatchNorm3d(3), (4, 3, 2, 2, 2)),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(3, affine=True, track_running_stats=True), (4, 3, 5, 5)),
    "SyncBatchNorm": (lambda: nn.SyncBatchNorm(3), (4, 3, 5)),
}


def make(layer):
    make_layer, shape = LAYERS[layer]
    torch.manual_seed(0)
    norm, batch = make_layer(), torch.randn(shape) * 2 + 1
    if layer != "SyncBatchNorm":  # which runs on accelerators only
        norm(batch / 3)  # statistics that are neither the initial ones nor the batch's
    return nn.Sequential(nn.Identity(), norm), batch


def buffers(model):
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


@pytest.mark.parametrize("layer", [layer for layer in LAYERS if layer != "SyncBatchNorm"])
def test_statistics_stand_still_and_outputs_and_gradients_do_not_change(layer):
    model, batch = make(layer)
    plain = copy.deepcopy(model)
    before = buffers(model)
    with freeze_batch_norm_stats(model):
        output = model(batch)
    output.square().mean().backward()  # outside: the graph does not depend on the buffers
    expected = plain(batch)
    expected.square().mean().backward()
    assert torch.equal(output, expected)
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)
    after = buffers(model)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert not torch.equal(buffers(plain)["1.running_mean"], before["1.running_mean"])


@pytest.mark.parametrize("layer", sorted(LAYERS))
def test_the_buffers_themselves_come_back(layer):
    model, _ = make(layer)
    before = dict(model.named_buffers())
    with freeze_batch_norm_stats(model):
        assert all(buffer is not before[name] for name, buffer in model.named_buffers())
    assert len(before) >= 2
    assert all(buffer is before[name] for name, buffer in model.named_buffers())


def test_statistics_move_again_afterwards():
    model, batch = make("BatchNorm1d")
    with freeze_batch_norm_stats(model):
        model(batch)
    model(batch)
    assert model[1].num_batches_tracked == 2  # one pass in make, one here


def test_evaluation_mode_uses_the_statistics():
    model, batch = make("BatchNorm1d")
    model.eval()
    expected = model(batch)
    with freeze_batch_norm_stats(model):
        assert torch.equal(model(batch), expected)


def test_infinite_batches_leave_no_trace():
    model, batch = make("BatchNorm1d")
    with freeze_batch_norm_stats(model):
        model(batch * float("inf"))
    assert torch.isfinite(model[1].running_mean).all()


def test_statistics_come_back_after_an_exception():
    model, batch = make("BatchNorm1d")
    before = buffers(model)
    with pytest.raises(ValueError, match=r"expected 2D or 3D input"), freeze_batch_norm_stats(model):
        model(model(batch)[None, None])
    after = buffers(model)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_contexts_nest():
    model, batch = make("BatchNorm1d")
    before = buffers(model)
    with freeze_batch_norm_stats(model):
        with freeze_batch_norm_stats(model):
            model(batch)
        model(batch)
    assert torch.equal(model[1].running_mean, before["1.running_mean"])


def test_layers_without_running_statistics_and_other_buffers_are_left_alone():
    model = nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False), nn.LayerNorm(3))
    model.register_buffer("steps", torch.zeros(()))
    with freeze_batch_norm_stats(model):
        model.steps += 1
        model(torch.randn(4, 3))
    assert model.steps == 1


def test_a_compiled_model_is_not_compiled_again():
    model, batch = make("BatchNorm2d, cumulative average")
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, backend=count)
    expected = compiled(batch)
    before = buffers(model)
    graphs_before = len(graphs)
    with freeze_batch_norm_stats(compiled):
        assert torch.equal(compiled(batch), expected)
    assert len(graphs) == graphs_before
    assert torch.equal(model[1].running_mean, before["1.running_mean"])
