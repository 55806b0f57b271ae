"""Draw the same random numbers again."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch


class RNGSnapshot:
    """The current state of PyTorch's default random number generators.

    If a batch is evaluated twice and the snapshot is replayed for the second pass, both passes have the same dropout
    masks.

    Args:
        devices: the accelerators whose generators are included. The CPU's generator is always included.

    Example:
        >>> snapshot = RNGSnapshot()
        >>> first = torch.rand(3)
        >>> with snapshot.replay():
        ...     print(torch.equal(torch.rand(3), first))
        True
    """

    def __init__(self, devices: Iterable[torch.device] = ()) -> None:
        self._cpu = torch.get_rng_state()
        self._accelerators = {
            device: torch.get_device_module(device).get_rng_state(device)
            for device in set(devices)
            if device.type not in ("cpu", "meta")
        }

    @contextmanager
    def replay(self) -> Iterator[None]:
        """Within this context, generators start from the snapshot. Afterwards they have the state from before it."""
        before = RNGSnapshot(self._accelerators)
        try:
            self._set()
            yield
        finally:
            before._set()

    def _set(self) -> None:
        torch.set_rng_state(self._cpu)
        for device, state in self._accelerators.items():
            torch.get_device_module(device).set_rng_state(state, device)
