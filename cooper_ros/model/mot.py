"""The mixture-of-transformers decoder (reference sections 2.2, 2.3 and 2.11).

Every layer holds two complete sets of weights, the understanding expert (``und``) and the
generation expert (``gen``). The tokens of each live in their own compact tensor, ``[B, Tu, D]``
and ``[B, Tg, D]``, from the embedding to the last norm. They meet only in attention, as the
concatenation und first, gen second. Attention does not care about the order of keys, so nothing
is ever scattered back into sequence order; masks and rotary angles are given in this compact
order instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cooper_ros.model.config import LlmConfig
from cooper_ros.model.tables import rotate

UND, GEN = '', '_moe_gen'
HIDDEN, KEYS, LATENTS = 'hidden', 'keys', 'latents'


class Streams(NamedTuple):
    """Tokens of both experts; None where a pass has none."""

    und: Tensor | None  # [B, Tu, D]
    gen: Tensor | None  # [B, Tg, D]

    def parts(self) -> list[tuple[Tensor, str]]:
        """Tensors that exist, each with the suffix of its weights."""
        return [(x, suffix) for x, suffix in zip(self, (UND, GEN)) if x is not None]


class Rope(NamedTuple):
    """Angles in compact order, ``[B or 1, 1, T or 1, d]``; T = 1 serves a whole image block."""

    cos: Tensor
    sin: Tensor


# A kernel that takes a mask and grouped heads keeps all scores for the backward pass: 28 heads of
# 10,240 tokens are 6 GB in bfloat16, several times over. Query rows are independent of each other,
# so they can be computed in chunks.
LONG, ROWS = 4096, 1024


class Attend(Protocol):
    """What a layer asks of attention: a mask and nothing else, or a cache."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Mix values for queries ``[B, Hq, Tq, d]``; keys and values are ``[B, Hkv, T, d]``."""

    def keep(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Store the keys and values of a layer whose attention output is not needed."""


@dataclass(frozen=True)
class MaskedAttention:
    """Attention over one complete sequence, without a cache.

    Attributes:
        allowed: bool ``[B or 1, 1, T, T]`` in compact order, True where a query (row) may attend
            to a key (column).
    """

    allowed: Tensor

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See :class:`Attend`."""
        if q.shape[2] <= LONG:
            return _mixed(q, k, v, self.allowed)
        parts = [checkpoint(_mixed, rows, k, v, allowed, use_reentrant=False)
                 for rows, allowed in zip(q.split(ROWS, 2), self.allowed.split(ROWS, 2))]
        return torch.cat(parts, dim=2)

    def keep(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Store nothing: there is no cache behind the pass."""


def _mixed(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, enable_gqa=True)


@dataclass(frozen=True)
class PassMode:
    """How one pass through the decoder differs from the plain one.

    Attributes:
        precise_heads: apply norm and RoPE to query and key heads in float32, as the published
            inference does in every pass with latents (and training does not). Makes a difference
            only if the weights are of a smaller type.
        freeze_und: block gradients into the understanding expert.
        result: ``hidden`` for normed hidden states of all tokens; ``keys`` when only the cache
            is wanted; ``latents`` for normed hidden states of the gen tokens alone. With
            the last two, the last layer skips what would not be used.
        recompute: activation checkpointing: keep no activations for the backward pass, but
            compute them again.
    """

    precise_heads: bool = False
    freeze_und: bool = False
    result: str = HIDDEN
    recompute: bool = False


class RmsNorm(nn.Module):
    """Root-mean-square norm; rounded to the input type before the weight is applied."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """``[..., width]``, normed over the last axis."""
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * (wide * scale).to(x.dtype)


class MotAttention(nn.Module):
    """Projections of both experts; the mixing itself is the caller's :class:`Attend`."""

    def __init__(self, config: LlmConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        queries = config.num_heads * config.head_dim
        keys = config.num_kv_heads * config.head_dim
        for suffix in (UND, GEN):
            for name, width in (('q_proj', queries), ('k_proj', keys), ('v_proj', keys)):
                self.add_module(name + suffix, nn.Linear(config.hidden_size, width))
            self.add_module('o_proj' + suffix,
                            nn.Linear(queries, config.hidden_size, bias=False))
            for name in ('q_norm', 'k_norm'):
                self.add_module(name + suffix, RmsNorm(config.head_dim, config.rms_norm_eps))

    def values(self, parts: list[tuple[Tensor, str]], mode: PassMode) -> Tensor:
        """Value heads of all tokens, ``[B, Hkv, T, d]`` in compact order."""
        return self._merged('v_proj', parts, mode)

    def turned(self, name: str, parts: list[tuple[Tensor, str]], rope: Rope,
               mode: PassMode) -> Tensor:
        """Query (``q``) or key (``k``) heads of all tokens, after head norm and RoPE.

        Returns ``[B, H, T, d]``, rounded to the type of the projection.
        """
        heads = self._merged(f'{name}_proj', parts, mode, f'{name}_norm')
        if rope.cos.shape[2] > 1:  # the gen tokens come last, also when they are alone
            rope = Rope(*(table[:, :, -heads.shape[2]:] for table in rope))
        return rotate(heads, rope.cos, rope.sin).to(parts[0][0].dtype)

    def output(self, mixed: Tensor, parts: list[tuple[Tensor, str]]) -> list[Tensor]:
        """Mixed heads ``[B, H, T, d]`` back to one ``[B, T', D]`` per part."""
        rows, first = mixed.transpose(1, 2).flatten(2), parts[0][0].shape[1]
        pieces = (rows,) if len(parts) == 1 else (rows[:, :first], rows[:, first:])
        return [getattr(self, 'o_proj' + suffix)(row)
                for row, (_, suffix) in zip(pieces, parts)]

    def _merged(self, projection: str, parts: list[tuple[Tensor, str]], mode: PassMode,
                norm: str | None = None) -> Tensor:
        merged = []
        for x, suffix in parts:
            heads = getattr(self, projection + suffix)(x).unflatten(-1, (-1, self.head_dim))
            if norm:
                heads = heads.float() if mode.precise_heads else heads
                heads = getattr(self, norm + suffix)(heads)
            frozen = mode.freeze_und and suffix == UND
            merged.append((heads.detach() if frozen else heads).transpose(1, 2))
        return merged[0] if len(merged) == 1 else torch.cat(merged, dim=2)


class MotMlp(nn.Module):
    """Gated feed-forward block of one expert."""

    def __init__(self, config: LlmConfig) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = (
            nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
            for _ in range(2))
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., D]`` to the same."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class MotLayer(nn.Module):
    """One pre-norm block with two experts."""

    def __init__(self, config: LlmConfig, index: int) -> None:
        super().__init__()
        self.index = index
        self.self_attn = MotAttention(config)
        for suffix in (UND, GEN):
            self.add_module('mlp' + suffix, MotMlp(config))
            for name in ('input_layernorm', 'post_attention_layernorm'):
                self.add_module(name + suffix, RmsNorm(config.hidden_size, config.rms_norm_eps))

    def forward(self, streams: Streams, rope: Rope, attend: Attend, mode: PassMode,
                result: str = HIDDEN) -> Streams:
        """Mix and transform the tokens of both experts.

        Args:
            streams: hidden states.
            rope: angles in compact order.
            attend: mask or cache.
            mode: see :class:`PassMode`.
            result: as in :class:`PassMode`, but of this layer.

        Returns:
            hidden states; the input itself for ``keys``, without und for ``latents``.
        """
        parts = streams.parts()
        normed = self._normed('input_layernorm', parts)
        k = self.self_attn.turned('k', normed, rope, mode)
        v = self.self_attn.values(normed, mode)
        if result == KEYS:
            attend.keep(self.index, k, v)
            return streams
        if result == LATENTS:
            parts, normed = parts[-1:], normed[-1:]
        q = self.self_attn.turned('q', normed, rope, mode)
        mixed = self.self_attn.output(attend(self.index, q, k, v), parts)
        parts = [(x + m, suffix) for (x, suffix), m in zip(parts, mixed)]
        return self._transformed(parts, mode)

    def _transformed(self, parts: list[tuple[Tensor, str]], mode: PassMode) -> Streams:
        normed = self._normed('post_attention_layernorm', parts)
        done = {suffix: x + getattr(self, 'mlp' + suffix)(n)
                for (x, suffix), (n, _) in zip(parts, normed)}
        und = done.get(UND)
        if mode.freeze_und and und is not None:
            und = und.detach()
        return Streams(und, done.get(GEN))

    def _normed(self, name: str, parts: list[tuple[Tensor, str]]) -> list[tuple[Tensor, str]]:
        return [(getattr(self, name + suffix)(x), suffix) for x, suffix in parts]


class MotDecoder(nn.Module):
    """Word embeddings, all layers and the two last norms."""

    def __init__(self, config: LlmConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(MotLayer(config, i) for i in range(config.num_layers))
        for suffix in (UND, GEN):
            self.add_module('norm' + suffix, RmsNorm(config.hidden_size, config.rms_norm_eps))

    def forward(self, streams: Streams, rope: Rope, attend: Attend,
                mode: PassMode = PassMode()) -> Streams:
        """Run embedded tokens through the stack.

        Args:
            streams: embeddings, und ``[B, Tu, D]`` and gen ``[B, Tg, D]``; one may be None.
            rope: angles in compact order, already rounded to the type of the embeddings.
            attend: mask or cache.
            mode: what is wanted of the pass.

        Returns:
            normed hidden states; both None when only keys were wanted.
        """
        if mode.freeze_und and streams.und is not None:
            streams = Streams(streams.und.detach(), streams.gen)
        return self.normed(self.run(streams, rope, attend, mode, range(len(self.layers))), mode)

    def run(self, streams: Streams, rope: Rope, attend: Attend, mode: PassMode,
            layers: range) -> Streams:
        """Run some of the layers in order, without the last norm; see :meth:`forward`."""
        for index in layers:
            layer = self.layers[index]
            result = mode.result if layer is self.layers[-1] else HIDDEN
            if mode.recompute:
                streams = checkpoint(layer, streams, rope, attend, mode, result,
                                     use_reentrant=False)
            else:
                streams = layer(streams, rope, attend, mode, result)
        return streams

    def normed(self, streams: Streams, mode: PassMode) -> Streams:
        """Apply each expert's last norm to what the last layer returned; None where only keys
        were wanted."""
        if mode.result == KEYS:
            return Streams(None, None)
        normed = {suffix: getattr(self, 'norm' + suffix)(x) for x, suffix in streams.parts()}
        und = normed.get(UND)
        if mode.freeze_und and und is not None:
            und = und.detach()
        return Streams(und, normed.get(GEN))


class CausalLm(nn.Module):
    """The decoder and its vocabulary."""

    def __init__(self, config: LlmConfig) -> None:
        super().__init__()
        self.model = MotDecoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
