"""Passes over several cache rows at once: one token each, or one flow step each.

The engine answers one request at a time; sampling groups needs its primitive steps side by side.
Linear layers see all rows in one matrix. Where each row gets one token, attention too runs over
all rows at once, the ends of shorter contexts masked; flow steps are long enough to go row by row.
"""

from __future__ import annotations

from typing import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cooper_ros.engine.drawing import DrawOptions
from cooper_ros.model.flow import euler_step, schedule
from cooper_ros.model.layout import MARKERS
from cooper_ros.model.mot import HIDDEN, KEYS, LATENTS, PassMode, Rope, Streams
from cooper_ros.runtime.cache import CachedAttention, KeyValueCache
from cooper_ros.runtime.torch_runtime import TorchRuntime, TorchSession


class RowsAttention:
    """Attention of one new token per row over contexts of any length; an :class:`~..mot.Attend`.

    Rows of a cache that lie between the first and the last are read where they are, idle ones
    with the others: to attend for nothing is cheaper than to copy contexts.

    Args:
        cache: where keys are written and read.
        rows: cache row of every batch entry, each once.
    """

    def __init__(self, cache: KeyValueCache, rows: Sequence[int]) -> None:
        device, first = cache.keys.device, min(rows)
        self.cache, self.span = cache, slice(first, max(rows) + 1)
        self.places = torch.tensor(rows, device=device) - first  # [R]
        self.ends = torch.tensor([cache.cursors[row].length for row in rows], device=device)
        self.longest = int(self.ends.max()) + 1
        last = torch.zeros(max(rows) + 1 - first, dtype=torch.int64, device=device)  # [S]
        last[self.places] = self.ends
        seen = torch.arange(self.longest, device=device) <= last[:, None]
        self.allowed = seen[:, None, None]  # [S, 1, 1, L]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Write keys and values ``[R, kv_heads, 1, d]`` behind the cursors and mix values."""
        keys, values = self.cache.keys[layer, self.span], self.cache.values[layer, self.span]
        keys[self.places, :, self.ends] = k[:, :, 0]
        values[self.places, :, self.ends] = v[:, :, 0]
        heads = k.shape[1], q.shape[1] // k.shape[1]  # those of one key are its "sequence"
        asked = q.new_zeros(len(keys), *heads, q.shape[3])  # [S, kv_heads, per key, d]
        asked[self.places] = q[:, :, 0].unflatten(1, heads)
        mixed = F.scaled_dot_product_attention(asked, keys[:, :, :self.longest],
                                               values[:, :, :self.longest], self.allowed)
        return mixed[self.places].flatten(1, 2)[:, :, None]  # [R, heads, 1, d]


@torch.inference_mode()
def step_rows(runtime: TorchRuntime, session: TorchSession, rows: Sequence[int],
              ids: Sequence[int]) -> Tensor:
    """Feed one token to each of several rows in one pass; logits ``[R, V]`` in float32."""
    network, device = runtime.network, runtime.device
    for row in rows:
        session.cache.require(row, 1)
    und = network.embed_text(torch.tensor([[token] for token in ids], device=device))  # [R, 1, D]
    out = network.language_model.model(
        Streams(und, None), _rope(runtime, session, rows), RowsAttention(session.cache, rows),
        PassMode(result=HIDDEN)).und
    for row in rows:
        session.cache.advance(row, 1, 1)
    return network.logits(out[:, 0], runtime.vocabulary).float()


@torch.inference_mode()
def close_turn(session: TorchSession, row: int, end: int) -> None:
    """Feed the token that ends a turn that was just written, so that it stands in the context."""
    session.feed_text(row, [end], KEYS)


@torch.inference_mode()
def velocity_rows(runtime: TorchRuntime, session: TorchSession, rows: Sequence[int], x_t: Tensor,
                  time: float, grid: tuple[int, int]) -> Tensor:
    """Velocities ``[R, N, P]`` of noisy latents ``[R, N, P]``, each under the context of its row.

    As :meth:`~..TorchSession.velocity`, which shows all rows the same latents.
    """
    for row in rows:
        session.cache.require(row, x_t.shape[1] + MARKERS)
    streams = Streams(runtime.markers().expand(len(rows), -1, -1),
                      runtime.embed_tokens_at(x_t, time, grid))
    hidden = runtime.network.language_model.model(
        streams, _rope(runtime, session, rows), CachedAttention(session.cache, tuple(rows)),
        PassMode(precise_heads=True, result=LATENTS)).gen  # [R, N, D]
    return runtime.network.velocity(hidden)


@torch.inference_mode()
def draw_together(runtime: TorchRuntime, session: TorchSession, options: DrawOptions,
                  branches: Sequence[Sequence[int]], noise: Tensor,
                  grid: tuple[int, int]) -> Tensor:
    """Draw several maps at once; every flow step is one pass for all maps and branches.

    Args:
        runtime, session: hold the contexts.
        options: schedule and guidance.
        branches: per map its rows with everything, without the last text, without the picture.
        noise: starts ``[K, N, P]``, float32.
        grid: latent grid of every map.

    Returns:
        latent tokens ``[K, N, P]``.
    """
    tokens = noise.to(runtime.device)
    times = schedule(options.points, options.shift).tolist()
    for now, after in zip(times, times[1:]):
        guidance = options.guidance
        used = (True, guidance.uses_text(now), guidance.uses_image(now))
        rows = [row for three in branches for row, needed in zip(three, used) if needed]
        shown = tokens.repeat_interleave(sum(used), dim=0)
        found = iter(velocity_rows(runtime, session, rows, shown, now, grid))
        guided = [guidance.combine(*(next(found) if needed else None for needed in used))
                  for _ in branches]
        tokens = euler_step(tokens, torch.stack(guided), now, after)
    return tokens


def _rope(runtime: TorchRuntime, session: TorchSession, rows: Sequence[int]) -> Rope:
    """Angles of the next position of every row."""
    positions = torch.tensor([[session.cursor(row).rope] for row in rows], device=runtime.device)
    return runtime.network.rope(positions, runtime.dtype)
