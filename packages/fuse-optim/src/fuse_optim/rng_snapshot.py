"""The state of the random number generators, to be replayed."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch


class RNGSnapshot:
    """The state of PyTorch's default random number generators, now.

    Replaying it gives a batch that is evaluated twice the same dropout masks in both passes.

    Args:
        devices: the accelerators whose generators are included; the CPU's always is, and may be among them.

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
        """A context that begins with the state of the snapshot and leaves the generators as it found them."""
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
