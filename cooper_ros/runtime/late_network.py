"""The network in PyTorch: read when it is first needed, given back when it is in the way."""

from __future__ import annotations

import gc
from typing import Callable

import torch

from cooper_ros.runtime.torch_runtime import TorchRuntime


class LateNetwork:
    """A network that graphs and engines are compared with, or that answers in their place.

    Args:
        read: reads it, as often as it is needed again.
    """

    def __init__(self, read: Callable[[], TorchRuntime]) -> None:
        self._read = read
        self._runtime: TorchRuntime | None = None

    def get(self) -> TorchRuntime:
        """The network, read now if it is not there."""
        if self._runtime is None:
            _give_back()
            self._runtime = self._read()
        return self._runtime

    def drop(self) -> None:
        """Forget the network; its memory is free then, unless somebody answers with it."""
        self._runtime = None
        _give_back()


def _give_back() -> None:
    """Free what nobody refers to any more, on the device too: TensorRT does not ask torch."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
