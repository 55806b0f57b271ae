"""Running statistics that stand still while a batch is evaluated once more."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn


@contextmanager
def freeze_batch_norm_stats(model: nn.Module) -> Iterator[None]:
    """Within this context, forward passes leave the running statistics of all normalization layers as they are.

    For evaluating a batch that was evaluated before, as in the perturbed pass of sharpness-aware minimization: each
    batch moves the statistics once, and only at the weights themselves. The layers still normalize by the batch's own
    statistics in training mode, so outputs and gradients do not change. Layers with any `momentum` are covered, also
    `None`, the cumulative average, and so is every module with a buffer called `running_mean` or `running_var`, such
    as `nn.InstanceNorm2d` and `nn.SyncBatchNorm`. All the buffers of such a module stand still.

    The layers are given copies of their buffers to write to. The buffers themselves are not touched, so there is
    nothing to compute back, and a graph built in here may be used for a backward pass outside.

    Args:
        model: the module whose layers are to be frozen, itself included.

    Example:
        >>> import torch
        >>> norm = nn.BatchNorm1d(2)
        >>> batch = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
        >>> with freeze_batch_norm_stats(norm):
        ...     norm(batch).detach().round(decimals=3)
        tensor([[-1., -1.],
                [ 1.,  1.]])
        >>> norm.running_mean, norm.num_batches_tracked
        (tensor([0., 0.]), tensor(0))
    """
    originals: list[tuple[nn.Module, str, Tensor]] = []
    try:
        for module in model.modules():
            buffers = dict(module.named_buffers(recurse=False))
            if "running_mean" in buffers or "running_var" in buffers:
                for name, buffer in buffers.items():
                    originals.append((module, name, buffer))
                    setattr(module, name, buffer.clone())
        yield
    finally:
        for module, name, buffer in originals:
            setattr(module, name, buffer)
