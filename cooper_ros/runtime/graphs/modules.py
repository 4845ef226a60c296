"""Thin modules around the one network, with the cache as inputs and outputs.

They add no arithmetic of their own except the mask: which slots of the cache are in use is data
(``used``), not shape, so that a compiled decode step can be replayed at any context length.
"""

from __future__ import annotations

from typing import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cooper_ros.model.mot import HIDDEN, LATENTS, PassMode, Rope, Streams
from cooper_ros.model.network import Cooper
from cooper_ros.model.vae import AutoEncoder
from cooper_ros.runtime.graphs.spec import FLOW, UNDERSTAND, layer_parts, named


class GraphAttention:
    """Attention over a cache given as tensors; collects the new keys and values.

    Args:
        past: keys of its layers, then values of its layers, ``[B, P, Hkv, d]`` each.
        bias: added to the scores, ``[B or 1, 1, T or 1, P + T]``.
        first: number of the first of these layers.
    """

    def __init__(self, past: Sequence[Tensor], bias: Tensor, first: int = 0) -> None:
        count = len(past) // 2
        self.past = dict(enumerate(zip(past[:count], past[count:]), first))
        self.bias = bias
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See :class:`~cooper_ros.model.mot.Attend`."""
        self.keep(layer, k, v)
        keys, values = (torch.cat([past.transpose(1, 2), new], dim=2)
                        for past, new in zip(self.past[layer], (k, v)))
        groups = q.shape[1] // k.shape[1]
        return F.scaled_dot_product_attention(q, _repeated(keys, groups),
                                              _repeated(values, groups), attn_mask=self.bias)

    def keep(self, layer: int, k: Tensor, v: Tensor) -> None:
        """See :class:`~cooper_ros.model.mot.Attend`."""
        self.keys.append(k.transpose(1, 2))
        self.values.append(v.transpose(1, 2))


def _repeated(heads: Tensor, groups: int) -> Tensor:
    """Every key head once per query head that reads it: ``[B, Hkv * groups, T, d]``."""
    if groups == 1:
        return heads
    return heads[:, :, None].expand(-1, -1, groups, -1, -1).flatten(1, 2)


def bias_of(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where looking is allowed, half the least number elsewhere.

    Minus infinity would make NaN where all that a kernel reads at once is masked, and so would the
    least number itself: kernels multiply by log2(e) for a power of two, beyond what float32 holds.
    """
    least = torch.full((), torch.finfo(dtype).min / 2, dtype=dtype, device=allowed.device)
    return torch.where(allowed, torch.zeros_like(least), least)


class VisionGraph(nn.Module):
    """See :func:`~..spec.graph_specs`."""

    def __init__(self, network: Cooper) -> None:
        super().__init__()
        self.network = network

    def forward(self, patches: Tensor, position_ids: Tensor) -> Tensor:
        """Patches ``[1, T, F]`` and places ``[T]`` to decoder tokens ``[1, T, D]``."""
        network, tower = self.network, self.network.vit_model.vision_model
        x = tower.embeddings(patches, position_ids)  # one picture: no batch of pictures to find
        features = tower.post_layernorm(tower.encoder(x, [patches.shape[1]]))
        return network.connector(features) + network.vit_pos_embed(position_ids)


class UnderstandGraph(nn.Module):
    """Prefill and decode of the understanding expert, all of its layers or one part of them."""

    def __init__(self, network: Cooper, layers: range) -> None:
        super().__init__()
        self.network, self.layers = network, layers

    def forward(self, embeds: Tensor, cos: Tensor, sin: Tensor, used: Tensor, causal: Tensor,
                *past: Tensor) -> tuple[Tensor, ...]:
        """Logits of the last token, then new keys and new values of its layers; hidden states
        ``[1, S, D]`` instead of logits where more layers follow.

        Args:
            embeds: ``[1, S, D]``; hidden states of the part before, where there is one.
            cos, sin: angles ``[1, S, d]``.
            used: slots of the cache that hold tokens ``[1]``; the others are not looked at.
            causal: whether new tokens see only earlier new ones ``[1]``.
            *past: keys, then values of its layers, ``[1, P, Hkv, d]``.
        """
        tokens, slots = embeds.shape[1], past[0].shape[1]
        rows = torch.arange(tokens, device=embeds.device)[:, None]
        columns = torch.arange(slots + tokens, device=embeds.device)
        new = (columns >= slots) & (~causal | (columns - slots <= rows))  # [S, P + S]
        bias = bias_of(((columns < used) | new)[None, None], embeds.dtype)
        attend, mode = GraphAttention(past, bias, self.layers.start), PassMode(result=HIDDEN)
        decoder = self.network.language_model.model
        out = decoder.run(Streams(embeds, None), Rope(cos[:, None], sin[:, None]), attend, mode,
                          self.layers)
        last = self.layers.stop == len(decoder.layers)
        result = self.network.logits(decoder.normed(out, mode).und[:, -1]).float() if last else (
            out.und)
        return (result, *attend.keys, *attend.values)


class LatentsGraph(nn.Module):
    """Latent tokens to decoder tokens."""

    def __init__(self, network: Cooper) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, time: Tensor, position_ids: Tensor) -> Tensor:
        """Tokens ``[N, P]`` at flow time ``[1]``, table rows ``[N]``, to ``[N, D]``."""
        return self.network.embed_latents(x, self.network.time_embedder(time),
                                          self.network.latent_pos_embed(position_ids))


class FlowGraph(nn.Module):
    """One velocity evaluation of several contexts, markers first, then latents; all layers or one
    part of them."""

    def __init__(self, network: Cooper, layers: range) -> None:
        super().__init__()
        self.network, self.layers = network, layers

    def forward(self, markers: Tensor, tokens: Tensor, cos: Tensor, sin: Tensor, used: Tensor,
                *past: Tensor) -> tuple[Tensor, ...]:
        """Velocities ``[B, N, P]``, then new keys and new values of its layers; hidden states of
        markers and latents instead of velocities where more layers follow.

        Args:
            markers: embedded start and end of image ``[1, 2, D]``.
            tokens: embedded latents ``[1, N, D]``, the same for all contexts. Behind another part
                both are its hidden states, ``[B, ...]``.
            cos, sin: angles of every context ``[B, 1, d]``.
            used: slots of every context that hold tokens ``[B]``.
            *past: keys, then values of its layers, ``[B, P, Hkv, d]``.
        """
        branches, slots = past[0].shape[:2]
        columns = torch.arange(slots + tokens.shape[1] + markers.shape[1],
                               device=tokens.device)
        allowed = (columns < used[:, None]) | (columns >= slots)  # [B, P + T]
        attend = GraphAttention(past, bias_of(allowed[:, None, None], tokens.dtype),
                                self.layers.start)
        streams = Streams(markers.expand(branches, -1, -1), tokens.expand(branches, -1, -1))
        mode = PassMode(precise_heads=True, result=LATENTS)
        decoder = self.network.language_model.model
        out = decoder.run(streams, Rope(cos[:, None], sin[:, None]), attend, mode, self.layers)
        last = self.layers.stop == len(decoder.layers)
        result = (self.network.velocity(decoder.normed(out, mode).gen),) if last else out
        return (*result, *attend.keys, *attend.values)


class VaeEncodeGraph(nn.Module):
    """Moments of the latent distribution; sampling, shift and scale stay outside."""

    def __init__(self, vae: AutoEncoder) -> None:
        super().__init__()
        self.encoder = vae.encoder

    def forward(self, pixels: Tensor) -> Tensor:
        """Pictures ``[1, 3, H, W]`` to mean and log-variance ``[1, 2C, h, w]``."""
        return self.encoder(pixels)


class VaeDecodeGraph(nn.Module):
    """Latents to pictures."""

    def __init__(self, vae: AutoEncoder) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latents: Tensor) -> Tensor:
        """Latents ``[1, C, h, w]``, shifted and scaled, to ``[1, 3, H, W]``."""
        return self.vae.decode(latents)


def graph_modules(network: Cooper, vae: AutoEncoder, parts: int = 1) -> dict[str, nn.Module]:
    """All graphs as modules, by the names of :func:`~..spec.graph_specs`."""
    stacks = layer_parts(network.config.llm.num_layers, parts)
    return {'vision': VisionGraph(network),
            **{name: UnderstandGraph(network, layers)
               for name, layers in named(UNDERSTAND, stacks)},
            'latents': LatentsGraph(network),
            **{name: FlowGraph(network, layers) for name, layers in named(FLOW, stacks)},
            'vae_encode': VaeEncodeGraph(vae), 'vae_decode': VaeDecodeGraph(vae)}
