"""The weights a run goes on from."""

from __future__ import annotations

from pathlib import Path
from typing import Mapping

import torch
from torch import Tensor

from cooper_ros.model.network import Cooper
from cooper_ros.runtime.checkpoint import read_model_folder
from cooper_ros.training.checkpoints import run_weights


def start_weights(folder: str) -> dict[str, Tensor]:
    """Network weights of a run folder or a model folder, float32.

    Raises:
        BadCheckpoint: it is neither.
    """
    weights = run_weights(Path(folder))
    if weights is None:
        weights = read_model_folder(folder, dtype=torch.float32).network.state_dict()
    return weights


def part_way(start: Mapping[str, Tensor], end: Mapping[str, Tensor], part: float
             ) -> dict[str, Tensor]:
    """Weights on the straight line between two networks (Wortsman et al. 2022, arXiv 2109.01903).

    Args:
        start, end: weights of both, on any device; all of ``end``'s are in ``start``.
        part: 0 at the start, 1 at the end.

    Returns:
        weights like those of ``end``.
    """
    return {name: torch.lerp(start[name].to(value), value, part) for name, value in end.items()}


def copy_experts(network: Cooper) -> None:
    """Give every generation weight the value of its understanding twin."""
    state = network.state_dict()
    network.load_state_dict({name: state[name.replace('_moe_gen', '')] for name in state})
