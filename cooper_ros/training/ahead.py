"""The batches of the next steps, made while the device works on this one."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Callable, Generic, TypeVar

import torch

Batch = TypeVar('Batch')
STEPS = 3  # ahead; each is made in a thread of its own


class Ahead(Generic[Batch]):
    """Makes batches before they are asked for, where that does not take time from the device.

    A batch is a function of its step, so that a run is the same with and without this.
    """

    def __init__(self, make: Callable[[int], Batch], device: torch.device) -> None:
        self.make = make
        self.pool = ThreadPoolExecutor(STEPS) if device.type != 'cpu' else None
        self._coming: dict[int, Future[Batch]] = {}

    def __call__(self, step: int) -> Batch:
        """The batch of a step; what a thread raised is raised here."""
        if self.pool is None:
            return self.make(step)
        for later in range(step, step + STEPS + 1):
            if later not in self._coming:
                self._coming[later] = self.pool.submit(self.make, later)
        return self._coming.pop(step).result()
