"""Draw the same random numbers again."""

import random
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


class RNGSnapshot:
    """The current state of the default random number generators of PyTorch, NumPy and Python.

    If a batch is evaluated twice and the snapshot is replayed for the second pass, both passes have the same dropout
    masks and the same augmentations.

    Args:
        devices: the accelerators whose generators are included. The CPU's generator is always included.
        generators: generators of your own that are included.

    Example:
        >>> snapshot = RNGSnapshot()
        >>> first = torch.rand(3)
        >>> with snapshot.replay():
        ...     print(torch.equal(torch.rand(3), first))
        True
    """

    def __init__(self, devices: Iterable[torch.device] = (), generators: Iterable[torch.Generator] = ()) -> None:
        self._cpu = torch.get_rng_state()
        self._accelerators = {
            device: torch.get_device_module(device).get_rng_state(device)
            for device in set(devices)
            if device.type not in ("cpu", "meta")
        }
        self._generators = [(generator, generator.get_state()) for generator in generators]
        self._python = random.getstate()
        # Looked up, because this package does not need NumPy: if nobody imported it, nobody draws from it.
        self._numpy: Any = sys.modules["numpy"].random.get_state() if "numpy" in sys.modules else None

    @contextmanager
    def replay(self) -> Iterator[None]:
        """Within this context, generators start from the snapshot. Afterwards they have the state from before it."""
        before = RNGSnapshot(self._accelerators, [generator for generator, _ in self._generators])
        try:
            self._set()
            yield
        finally:
            before._set()

    def _set(self) -> None:
        torch.set_rng_state(self._cpu)
        for device, state in self._accelerators.items():
            torch.get_device_module(device).set_rng_state(state, device)
        for generator, state in self._generators:
            generator.set_state(state)
        random.setstate(self._python)
        if self._numpy is not None:
            sys.modules["numpy"].random.set_state(self._numpy)
