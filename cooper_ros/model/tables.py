"""Sine and cosine tables: 2-D positions, rotary positions, time (reference 2.2, 2.8, 2.9)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

TIME_FEATURES = 256
TIME_PERIOD = 10000.0


def sincos_2d(side: int, width: int, parts: int = 1) -> Tensor:
    """Fixed positions of a square grid.

    Args:
        side: rows and columns of the grid.
        width: features; a multiple of 4.
        parts: cells that share a step of the position, each way: 2 lays the cells of a grid cut
            in four around the places of the uncut ones.

    Returns:
        float32 ``[side * side, width]``. Row ``r * side + c`` holds the encoding of the column
        in its first half and of the row in its second half.
    """
    omega = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    places = (torch.arange(side, dtype=torch.float64) + 0.5) / parts - 0.5
    angles = places[:, None] * omega  # [side, width/4]
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)  # [side, width/2]
    columns = axis[None].expand(side, -1, -1)
    rows = axis[:, None].expand(-1, side, -1)
    return torch.cat([columns, rows], dim=2).reshape(side * side, width).float()


def rope_angles(positions: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the rotary embedding.

    Args:
        positions: integer ``[...]``.
        head_dim: width of a head.
        theta: base of the frequencies.

    Returns:
        two float32 tensors ``[..., head_dim]``, the angles repeated in both halves.
    """
    steps = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions.device)
    angles = positions[..., None].float() * theta ** -(steps / head_dim)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply RoPE to heads ``[B, H, T, d]``; cosine and sine broadcast as ``[B, 1, T, d]``."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def time_features(times: Tensor) -> Tensor:
    """Sinusoids of flow times ``[n]`` in 0..1 (not thousandths): float32 ``[n, 256]``."""
    half = TIME_FEATURES // 2
    steps = torch.arange(half, dtype=torch.float32, device=times.device)
    angles = times.float()[..., None] * torch.exp(-math.log(TIME_PERIOD) * steps / half)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)
