"""What ``gpu_check.py`` has a runtime do, in sizes that it serves and its network can have."""

from __future__ import annotations

import math
from typing import Any, Callable, Iterable, Iterator

import torch
from torch import Tensor

from cooper_ros.runtime.base import Runtime, Session
from cooper_ros.runtime.graphs.runtime import GraphRuntime
from cooper_ros.runtime.graphs.spec import BUCKET, Limits

SEED = 0
Grid = tuple[int, int]  # rows and columns of a picture


def draw(seed: int, *shape: int) -> Tensor:
    """Seeded noise, drawn on the CPU."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(SEED + seed))


def latent_grid(limits: Limits) -> Grid:
    """Of a picture that is drawn, or read as one."""
    return min(4, limits.rows.max), min(6, limits.columns.max)


def patch_grid(limits: Limits) -> Grid:
    """Of a picture that is looked at."""
    side = math.isqrt(limits.patches.max)
    return min(4, side), min(5, side)


def ids(runtime: Runtime, numbers: Iterable[int]) -> list[int]:
    """Words that the network knows."""
    return [number % runtime.config.llm.vocab_size for number in numbers]


def filled(runtime: Runtime, limits: Limits | None = None, capacity: int = 1024) -> Session:
    """Three contexts over a random picture, as drawing with guidance has them.

    Args:
        runtime: gets them.
        limits: sizes that it serves; None for all that its network can have.
        capacity: tokens of each context.
    """
    config, limits = runtime.config, limits or Limits.of(runtime.config)
    session = runtime.session(rows=3, capacity=capacity)
    latent = runtime.encode_image(_picture(1, latent_grid(limits),
                                           config.pixels_per_latent_token), None)
    session.append_latents(0, runtime.embed_latents(latent))
    session.append_vision(0, runtime.encode_vision(
        _picture(2, patch_grid(limits), config.vit.patch_size)))
    session.share(0, 1)
    for row in (0, 2):
        session.append_text(row, ids(runtime, range(3, 40)))
    return session


def _picture(seed: int, grid: Grid, unit: int) -> Tensor:
    return draw(seed, 3, grid[0] * unit, grid[1] * unit).clamp(-1, 1)


def mixed_steps(graphs: GraphRuntime, limits: Limits | None = None) -> list[Tensor]:
    """Steps that come again after others of other sizes, from the same graphs, came between."""
    limits = limits or Limits.of(graphs.config)
    session, grid = filled(graphs, limits), latent_grid(limits)
    x = draw(9, grid[0] * grid[1], graphs.config.latent_features)

    def steps() -> list[Tensor]:
        return [*(session.step(0, token) for token in ids(graphs, (5, 6, 7, 8))),
                *(session.velocity((0, 1, 2), x, time, grid) for time in (0.9, 0.5, 0.1))]

    start, said = session.cursor(0), steps()
    session.append_text(2, ids(graphs, range(3, 131)))  # prefill, and a longer context beside
    said += steps()
    if limits.context.max > BUCKET:
        session.append_text(0, ids(graphs, (number % 251 + 3 for number in range(BUCKET))))
        assert session.cursor(0).length > BUCKET  # another bucket: other sizes, other recordings
        said += steps()
    session.rewind(0, start)
    return said + steps()


def waited_for(runtime: Runtime, limits: Limits | None = None
               ) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What is measured, in words and as something to call."""
    limits = limits or Limits.of(runtime.config)
    # 512 pixels in the published size
    cells = max(min(runtime.config.max_latent_size // 2, 32, limits.rows.max), 1)
    session, grid = filled(runtime, limits, 1024 + cells * cells), (cells, cells)
    x = draw(9, cells * cells, runtime.config.latent_features).to(runtime.device)
    text, start = ids(runtime, range(3, 131)), session.cursor(2)

    def prefill() -> None:
        session.append_text(2, text)
        session.rewind(2, start)

    def decode() -> None:
        session.step(2, *ids(runtime, (5,)))
        session.rewind(2, start)

    yield 'prefill of 130 tokens', prefill
    yield 'one token', decode
    yield (f'flow step, 3 branches, {cells * cells} tokens',
           lambda: session.velocity((0, 1, 2), x, 0.5, grid))
    yield 'decode a map', lambda: runtime.decode_tokens(x, grid)
