"""The SigLIP vision tower on pictures of any shape (reference section 2.7).

Learned positions, pre-norm blocks, full attention inside each picture, no rotary embedding and
no pooling head.
"""

from __future__ import annotations

from typing import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cooper_ros.model.config import VitConfig


class VitAttention(nn.Module):
    """Multi-head attention that never crosses from one picture to another."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.heads = config.num_heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (
            nn.Linear(config.hidden_size, config.hidden_size) for _ in range(4))

    def forward(self, x: Tensor, lengths: Sequence[int]) -> Tensor:
        """``[B, T, D]`` to the same; ``lengths`` are the patches of each picture, T in all."""
        q, k, v = (project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
                   for project in (self.q_proj, self.k_proj, self.v_proj))  # [B, H, T, d]
        pictures = [(q, k, v)] if len(lengths) == 1 else zip(
            *(part.split(list(lengths), dim=2) for part in (q, k, v)))
        mixed = [F.scaled_dot_product_attention(*picture) for picture in pictures]
        return self.out_proj(torch.cat(mixed, dim=2).transpose(1, 2).flatten(2))


class VitMlp(nn.Module):
    """Two linears around the tanh form of GELU."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., D]`` to the same."""
        return self.fc2(F.gelu(self.fc1(x), approximate='tanh'))


class VitLayer(nn.Module):
    """One pre-norm block."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.self_attn = VitAttention(config)
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = VitMlp(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, x: Tensor, lengths: Sequence[int]) -> Tensor:
        """``[B, T, D]`` to the same."""
        x = x + self.self_attn(self.layer_norm1(x), lengths)
        return x + self.mlp(self.layer_norm2(x))


class VitEmbeddings(nn.Module):
    """Flattened patches plus learned positions."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.patch_embedding = nn.Linear(config.patch_features, config.hidden_size)
        self.position_embedding = nn.Embedding(config.positions_per_side**2, config.hidden_size)

    def forward(self, patches: Tensor, position_ids: Tensor) -> Tensor:
        """Patches ``[B, T, 3 * patch**2]`` and their places ``[T]`` to ``[B, T, D]``."""
        patches = patches.to(self.patch_embedding.weight.dtype)
        return self.patch_embedding(patches) + self.position_embedding(position_ids)


class VitEncoder(nn.Module):
    """The stack of blocks."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(VitLayer(config) for _ in range(config.num_layers))

    def forward(self, x: Tensor, lengths: Sequence[int], recompute: bool = False) -> Tensor:
        """``[B, T, D]`` to the same; ``recompute`` as in :class:`~.mot.PassMode`."""
        for layer in self.layers:
            x = (checkpoint(layer, x, lengths, use_reentrant=False) if recompute
                 else layer(x, lengths))
        return x


class VisionTransformer(nn.Module):
    """Embeddings, blocks and the last norm."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.embeddings = VitEmbeddings(config)
        self.encoder = VitEncoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, patches: Tensor, position_ids: Tensor, lengths: Sequence[int],
                recompute: bool = False) -> Tensor:
        """Features of pictures.

        Args:
            patches: ``[B, T, 3 * patch**2]``, the pictures of one sample one after the other.
            position_ids: ``[T]``, rows of the learned table.
            lengths: patches of every picture, summing to T.
            recompute: as in :class:`~.mot.PassMode`.

        Returns:
            ``[B, T, D]``.
        """
        x = self.embeddings(patches, position_ids)
        shape = x.shape
        if len(set(lengths)) == 1:  # equal pictures are a batch: one attention call per layer
            x = x.reshape(-1, lengths[0], shape[-1])
            lengths = lengths[:1]
        return self.post_layernorm(self.encoder(x, lengths, recompute)).reshape(shape)


class VisionTower(nn.Module):
    """Carries the name level ``vision_model`` of the checkpoint."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.vision_model = VisionTransformer(config)

    def forward(self, patches: Tensor, position_ids: Tensor, lengths: Sequence[int],
                recompute: bool = False) -> Tensor:
        """See :meth:`VisionTransformer.forward`."""
        return self.vision_model(patches, position_ids, lengths, recompute)
