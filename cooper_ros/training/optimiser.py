"""The optimiser: AdamW, or Muon for the matrices inside blocks and AdamW for the rest."""

from __future__ import annotations

from typing import Any, Mapping

import torch
from torch import Tensor, nn

from cooper_ros.errors import BadOption
from cooper_ros.runtime.place import has_bfloat16
from cooper_ros.training.settings import Optim

RMS_OF_ADAMW = 0.2  # of an update's entries, typically (Liu et al. 2025, arXiv 2502.16982)
BLOCKS = ('.layers.',)  # Muon is for matrices between hidden states, not for what reads or writes


class Muon(torch.optim.Muon):
    """torch's Muon, which orthogonalises in bfloat16, in float32 where bfloat16 is slow.

    On a CPU that has to imitate bfloat16 torch's own takes most of a training step: 5.3 s for the
    50 matrices of cooper-nano (AMD EPYC, AVX2, 1 thread, torch 2.13). States are interchangeable.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One update of every matrix that has a gradient."""
        for group in self.param_groups:
            for matrix in group['params']:
                if matrix.grad is not None:
                    self._update(matrix, group)

    def _update(self, matrix: nn.Parameter, group: Mapping[str, Any]) -> None:
        state, momentum = self.state[matrix], group['momentum']
        if not state:
            state['momentum_buffer'] = torch.zeros_like(matrix)
        average = state['momentum_buffer'].lerp_(matrix.grad, 1 - momentum)
        update = matrix.grad.lerp(average, momentum) if group['nesterov'] else average
        kind = torch.bfloat16 if has_bfloat16(matrix.device) else torch.float32
        turned = orthogonal(update.to(kind), group['ns_coefficients'], group['ns_steps'],
                            group['eps'])
        matrix.mul_(1 - group['lr'] * group['weight_decay'])
        matrix.add_(turned, alpha=-group['lr'] * RMS_OF_ADAMW * max(matrix.shape)**0.5)


def orthogonal(matrix: Tensor, coefficients: tuple[float, float, float], steps: int,
               eps: float) -> Tensor:
    """Nearly the orthogonal matrix closest to ``[M, N]``: singular values become about 1.

    Newton-Schulz iteration of fifth order (Jordan 2024), in the matrix's own number type.
    """
    a, b, c = coefficients
    x = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if matrix.shape[0] <= matrix.shape[1] else x.T


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

    Raises:
        BadOption: nothing trains.
    """
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    if not named:
        raise BadOption('no weight is left to train', limit='at least one',
                        remedy='take names out of task.freeze')
    inner = [p for name, p in named if optim.muon and p.dim() == 2
             and any(part in name for part in BLOCKS)]
    chosen = {id(p) for p in inner}
    rest = torch.optim.AdamW(_groups([p for _, p in named if id(p) not in chosen], optim),
                             lr=optim.learning_rate, betas=tuple(optim.betas), eps=optim.eps,
                             fused=True)
    if not inner:
        return rest
    return Optimisers([rest, Muon(inner, lr=optim.learning_rate,
                                  weight_decay=optim.weight_decay,
                                  adjust_lr_fn='match_rms_adamw')])


def _groups(weights: list[nn.Parameter], optim: Optim) -> list[dict[str, Any]]:
    """Matrices and tables, which decay; norms and biases, which would only lose their scale."""
    parts = (([p for p in weights if p.dim() >= 2], optim.weight_decay),
             ([p for p in weights if p.dim() < 2], 0.0))
    return [{'params': part, 'weight_decay': decay} for part, decay in parts if part]
