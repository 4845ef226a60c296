"""The key-value cache and the attention that reads it.

Memory is taken once. New keys are written behind the cursor of their row and read through views,
so a pass copies its own tokens only, never the context (reference 15.1, P1 and P2).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cooper_ros.errors import BadOption, ContextFull
from cooper_ros.model.config import LlmConfig
from cooper_ros.runtime.base import Cursor


class KeyValueCache:
    """Keys (after norm and rotation) and values of all layers and rows.

    Attributes:
        keys, values: ``[layers, rows, kv_heads, capacity, head_dim]``.
        cursors: end of every row.
    """

    def __init__(self, config: LlmConfig, rows: int, capacity: int, device: torch.device,
                 dtype: torch.dtype) -> None:
        shape = (config.num_layers, rows, config.num_kv_heads, capacity, config.head_dim)
        self.keys, self.values = (torch.zeros(shape, device=device, dtype=dtype)
                                  for _ in range(2))
        self.capacity = capacity
        self.cursors = [Cursor(0, 0)] * rows

    def advance(self, row: int, tokens: int, positions: int) -> None:
        """Count written tokens in."""
        before = self.cursors[row]
        self.cursors[row] = Cursor(before.length + tokens, before.rope + positions)

    def rewind(self, row: int, cursor: Cursor) -> None:
        """Move the end of a row back.

        Raises:
            BadOption: the cursor lies ahead of the row, where nothing valid is stored.
        """
        if cursor.length > self.cursors[row].length:
            raise BadOption('a context can only be rewound', value=cursor,
                            limit=f'at most {self.cursors[row].length} tokens')
        self.cursors[row] = cursor

    def share(self, source: int, target: int, keep: int) -> None:
        """Copy row ``source`` behind its first ``keep`` tokens to row ``target``.

        Raises:
            BadOption: the rows cannot have ``keep`` tokens in common.
        """
        end = self.cursors[source].length
        common = min(end, self.cursors[target].length)
        if not 0 <= keep <= common:
            raise BadOption('rows have fewer tokens in common', value=keep,
                            limit=f'0 .. {common}')
        for store in (self.keys, self.values):
            store[:, target, :, keep:end] = store[:, source, :, keep:end]
        self.cursors[target] = self.cursors[source]

    def require(self, row: int, tokens: int) -> None:
        """Check that a row has room.

        Raises:
            ContextFull: naming what is needed and what there is.
        """
        used = self.cursors[row].length
        if used + tokens > self.capacity:
            raise ContextFull(f'context row {row} holds {used} tokens and needs {tokens} more',
                              value=used + tokens, limit=f'{self.capacity} tokens',
                              remedy='ask a shorter question, allow fewer turns, or raise '
                                     'context_tokens')


def block_mask(start: int, tokens: int, device: torch.device) -> Tensor | None:
    """What new causal tokens may see: the past and each other's past.

    Returns:
        bool ``[tokens, start + tokens]``, or None when a single token sees everything.
    """
    if tokens == 1:
        return None
    everything = torch.ones(tokens, start + tokens, dtype=torch.bool, device=device)
    return everything.tril(start)


@dataclass(frozen=True)
class CachedAttention:
    """Attention of new tokens over the context of their rows; an :class:`~..mot.Attend`.

    Attributes:
        cache: where keys are written and read.
        rows: cache row of every batch entry.
        allowed: bool ``[T, start + T]`` for a single causal row; None where new tokens see each
            other and the whole context.
        markers_first: the first two tokens are the markers that stand around the others.
    """

    cache: KeyValueCache
    rows: tuple[int, ...]
    allowed: Tensor | None = None
    markers_first: bool = False

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Mix values; rows of different lengths take one call each, without padding."""
        self.keep(layer, k, v)
        mixed = [self._one(layer, row, q[i:i + 1], k.shape[2])
                 for i, row in enumerate(self.rows)]
        return mixed[0] if len(mixed) == 1 else torch.cat(mixed)

    def keep(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Write new keys and values behind the cursors, which stay where they are."""
        for i, row in enumerate(self.rows):
            start = self.cache.cursors[row].length
            self._write(self.cache.keys[layer, row, :, start:start + k.shape[2]], k[i])
            self._write(self.cache.values[layer, row, :, start:start + v.shape[2]], v[i])

    def _write(self, slots: Tensor, new: Tensor) -> None:
        if not self.markers_first:
            slots.copy_(new)
            return
        slots[:, 0] = new[:, 0]
        slots[:, 1:-1] = new[:, 2:]
        slots[:, -1] = new[:, 1]

    def _one(self, layer: int, row: int, q: Tensor, tokens: int) -> Tensor:
        end = self.cache.cursors[row].length + tokens
        return F.scaled_dot_product_attention(
            q, self.cache.keys[layer, row:row + 1, :, :end],
            self.cache.values[layer, row:row + 1, :, :end], attn_mask=self.allowed,
            enable_gqa=True)
