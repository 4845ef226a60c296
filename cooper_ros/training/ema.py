"""Exponential moving average of the trainable weights, in float32."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cooper_ros.training.sharding import local, whole


class Ema:
    """Averages start from the given weights.

    Args:
        module: what is averaged: its weights that train.
        decay: per step.
        ramp: start with a lower decay, so that averages of fresh weights catch up; published: the
            whole decay from the first step on, for what is loaded is good already.
    """

    def __init__(self, module: nn.Module, decay: float, ramp: bool = True) -> None:
        self.decay, self.ramp = decay, ramp
        self.weights = {name: value.detach().clone().float()
                        for name, value in module.named_parameters() if value.requires_grad}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Move the averages towards the module's weights; ``step`` counts from 1."""
        decay = min(self.decay, (1 + step) / (10 + step)) if self.ramp else self.decay
        live = dict(module.named_parameters())
        torch._foreach_lerp_([local(value) for value in self.weights.values()],
                             [local(live[name].detach()).float() for name in self.weights],
                             1 - decay)

    def full_state(self, module: nn.Module) -> dict[str, Tensor]:
        """The module's state dict with averaged weights in place of the live ones, whole."""
        return {name: whole(self.weights.get(name, value.detach()))
                for name, value in module.state_dict().items()}

    def swapped(self, module: nn.Module) -> _Swap:
        """Context in which the module computes with the averaged weights."""
        return _Swap(self, module)


class _Swap:
    def __init__(self, ema: Ema, module: nn.Module) -> None:
        self.ema, self.module = ema, module

    def __enter__(self) -> None:
        self.live = {name: value.detach().clone() for name, value in
                     self.module.named_parameters() if name in self.ema.weights}
        self._put(self.ema.weights)

    def __exit__(self, *error: object) -> None:
        self._put(self.live)

    @torch.no_grad()
    def _put(self, weights: dict[str, Tensor]) -> None:
        for name, value in self.module.named_parameters():
            if name in weights:
                value.copy_(weights[name])
