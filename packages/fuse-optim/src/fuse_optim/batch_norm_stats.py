"""Keep running statistics unchanged while a batch is evaluated once more."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn


@contextmanager
def freeze_batch_norm_stats(model: nn.Module) -> Iterator[None]:
    """Within this context, forward passes do not change the running statistics of normalization layers.

    Use it when a batch is evaluated a second time, as in the perturbed pass of sharpness-aware minimization. Then each
    batch updates the statistics once, at the weights themselves. In training mode the layers still normalize by the
    batch's own statistics, so outputs and gradients do not change.

    It covers every module with a buffer called `running_mean` or `running_var`, such as `nn.BatchNorm2d` with any
    `momentum`, `nn.InstanceNorm2d` and `nn.SyncBatchNorm`, and all buffers of such a module. The layers write to copies
    of their buffers. So a graph built in this context may be used for a backward pass outside.

    Args:
        model: the module whose layers are frozen, itself included.

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
