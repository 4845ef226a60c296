"""Networks without numbers, for tracing: sizes in memory, numbers on disk.

A checkpoint is larger than many a machine that exports it. What the exporter looks at are shapes
and types; numbers are read when they are written again, one tensor at a time.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode  # shown by no public module

from cooper_ros.errors import BadOption
from cooper_ros.runtime.weights import Weights, assign, check_fit


class NumbersOnDisk:
    """Reads the numbers of weights that :meth:`hollow` has put into modules.

    Args:
        dtype: number type of all weights.

    Raises:
        BadOption: there is none; a graph is traced in one number type.
    """

    def __init__(self, dtype: torch.dtype | None) -> None:
        if dtype is None:
            raise BadOption('a network without numbers needs a number type',
                            remedy='say which dtype')
        self.dtype = dtype
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)  # one for all that is traced
        self._places: dict[Tensor, tuple[Weights, str]] = {}

    def hollow(self, module: nn.Module, weights: Weights) -> None:
        """Put weights without numbers into a module built on the meta device.

        Raises:
            BadCheckpoint: names or shapes do not fit.
        """
        check_fit(module, weights)
        for key, shape in weights.shapes.items():
            with self._mode:
                empty = torch.empty(shape, dtype=self.dtype, device='cpu')
            assign(module, key, empty)
        for key, weight in module.state_dict(keep_vars=True).items():
            self._places[weight] = weights, key

    def __call__(self, weight: Tensor) -> Tensor:
        """The numbers of a weight, read anew each time."""
        weights, key = self._places[weight]
        return weights.read(key, self.dtype)
