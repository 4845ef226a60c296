"""The optimiser: AdamW, or Muon for the matrices inside blocks and AdamW for the rest."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from cooper_ros.training.settings import Optim

BLOCKS = ('.layers.',)  # Muon is for matrices between hidden states, not for what reads or writes


class Optimisers:
    """Several optimisers that act as one; the part of torch's interface the trainer uses."""

    def __init__(self, parts: list[torch.optim.Optimizer]) -> None:
        self.parts = parts

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Groups of all parts."""
        return [group for part in self.parts for group in part.param_groups]

    def step(self) -> None:
        """One update."""
        for part in self.parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none=set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """State of all parts, in order."""
        return {'parts': [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse."""
        for part, values in zip(self.parts, state['parts'], strict=True):
            part.load_state_dict(values)


def make_optimiser(module: nn.Module, optim: Optim) -> torch.optim.Optimizer | Optimisers:
    """Optimiser of everything in a module that trains.

    Args:
        module: the network.
        optim: settings; with ``muon`` the matrices inside blocks get orthogonalised momentum
            (Jordan 2024), scaled so that the learning rate of AdamW fits both (Liu et al. 2025).
    """
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    inner = [p for name, p in named if optim.muon and p.dim() == 2
             and any(part in name for part in BLOCKS)]
    chosen = {id(p) for p in inner}
    rest = torch.optim.AdamW([p for _, p in named if id(p) not in chosen],
                             lr=optim.learning_rate, betas=tuple(optim.betas), eps=optim.eps,
                             weight_decay=optim.weight_decay, fused=True)
    if not inner:
        return rest
    return Optimisers([rest, torch.optim.Muon(inner, lr=optim.learning_rate,
                                              weight_decay=optim.weight_decay,
                                              adjust_lr_fn='match_rms_adamw')])
