"""What a batch of questions and maps costs, over all processes."""

from __future__ import annotations

from torch import Tensor

from cooper_ros.model.packing import IGNORED
from cooper_ros.model.training_forward import TrainOutput
from cooper_ros.training.processes import mean_over_processes


def answer_weights(labels: Tensor, box: int, weight: float) -> Tensor:
    """How much every label ``[B, Tc]`` counts: ``weight`` behind the token ``box``, 0 where it is
    ignored, else 1."""
    weights = (labels != IGNORED).float()
    weights[:, 1:][(labels[:, :-1] == box) & (labels[:, 1:] != IGNORED)] = weight
    return weights


def shared_losses(output: TrainOutput, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted :func:`mean_losses` over the batches of all processes, as parts that average to
    them.

    Args:
        output: losses of this process.
        weights: of its labels ``[B, Tc]``.
    """
    tokens, numbers = mean_over_processes([float(weights.sum()), output.mse.numel()])
    ce = (output.ce * weights.to(output.ce.device)).sum()
    return ce / tokens, output.mse.sum() / numbers
