"""Pictures and latents as token rows, and the place of every token (reference 2.4, 2.7, 2.10)."""

from __future__ import annotations

import torch
from torch import Tensor


def patchify(maps: Tensor, patch: int) -> Tensor:
    """Cut maps into tokens.

    Args:
        maps: ``[..., C, H, W]``, sides multiples of ``patch``.
        patch: cells per token, each way.

    Returns:
        ``[..., H/patch * W/patch, patch * patch * C]``: tokens row by row; inside a token row,
        column, channel, the channel fastest.
    """
    rows = maps.unflatten(-2, (-1, patch)).unflatten(-1, (-1, patch))  # [..., C, h, p, w, p]
    return rows.movedim(-5, -1).movedim(-4, -3).flatten(-3).flatten(-3, -2)


def unpatchify(tokens: Tensor, grid: tuple[int, int], patch: int) -> Tensor:
    """The inverse: ``[..., h * w, p * p * C]`` to ``[..., C, h * p, w * p]``."""
    cells = tokens.unflatten(-1, (patch, patch, -1)).unflatten(-4, grid)  # [..., h, w, p, p, C]
    return cells.movedim(-1, -5).movedim(-2, -3).flatten(-4, -3).flatten(-2, -1)


def position_ids(grid: tuple[int, int], side: int) -> Tensor:
    """Rows of a square position table that a grid of tokens uses: ``row * side + column``.

    Args:
        grid: rows and columns of tokens, at most ``side`` each.
        side: side of the table.

    Returns:
        int64 ``[rows * columns]``.
    """
    rows, columns = torch.arange(grid[0]), torch.arange(grid[1])
    return (rows[:, None] * side + columns).flatten()


def interpolated_position_ids(grid: tuple[int, int], side: int) -> Tensor:
    """The alternative rule, unused by the released models: a grid is spread over the table.

    Fractions of the picture are sorted into ``side`` equal bins, with float32 steps.
    """
    bins = torch.arange(1 / side, 1.0, 1 / side)
    rows, columns = (torch.bucketize(torch.arange(0, 1 - 1e-6, 1 / count), bins, right=True)
                     for count in grid)
    return (rows[:, None] * side + columns).flatten()
