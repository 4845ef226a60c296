"""Exponential moving average of the trainable weights, in float32."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cooper_ros.training.processes import is_first
from cooper_ros.training.sharding import is_sharded, local, reshard, whole


class Ema:
    """Averages start from the given weights.

    Args:
        module: what is averaged: its weights that train.
        decay: per step. With 0 the average is the live weight: none is kept, in memory or in
            checkpoints.
        ramp: start with a lower decay, so that averages of fresh weights catch up; published: the
            whole decay from the first step on, for what is loaded is good already.
    """

    def __init__(self, module: nn.Module, decay: float, ramp: bool = True) -> None:
        self.decay, self.ramp = decay, ramp
        self.weights = {name: value.detach().clone().float()
                        for name, value in module.named_parameters()
                        if value.requires_grad and decay}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Move the averages towards the module's weights; ``step`` counts from 1."""
        if not self.weights:
            return
        decay = min(self.decay, (1 + step) / (10 + step)) if self.ramp else self.decay
        live = dict(module.named_parameters())
        torch._foreach_lerp_([local(value) for value in self.weights.values()],
                             [local(live[name].detach()).float() for name in self.weights],
                             1 - decay)

    def full_state(self, module: nn.Module, dtype: torch.dtype | None = None
                   ) -> dict[str, Tensor]:
        """The module's state dict with averaged weights in place of the live ones, whole.

        Shards are put together tensor by tensor, by all processes; the first alone keeps them,
        on the CPU, and the others get nothing.

        Args:
            module: what trains.
            dtype: to round shards to; None leaves them as they are.
        """
        averages = {name: self.weights.get(name, value.detach())
                    for name, value in module.state_dict().items()}
        if not is_sharded(module):
            return averages
        found = {}
        for name, value in averages.items():
            tensor = whole(value.to(dtype))
            if is_first():
                found[name] = tensor.cpu()
        return found

    def swapped(self, module: nn.Module) -> _Swap:
        """Context in which the module computes with the averaged weights; the averages hold the
        live ones meanwhile, so that nothing is copied."""
        return _Swap(self, module)


class _Swap:
    def __init__(self, ema: Ema, module: nn.Module) -> None:
        self.ema, self.module = ema, module

    def __enter__(self) -> None:
        self._exchange()

    def __exit__(self, *error: object) -> None:
        self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        reshard(self.module)  # what is whole would stay as it is
        for name, value in self.module.named_parameters():
            if name in self.ema.weights:
                average = self.ema.weights[name]
                held = value.clone()
                value.copy_(average)
                average.copy_(held)
