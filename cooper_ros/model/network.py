"""The whole network of an ``ema.safetensors`` file (reference section 2.1)."""

from __future__ import annotations

from typing import Callable, Sequence, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cooper_ros.model.config import ModelConfig
from cooper_ros.model.mot import CausalLm, Rope
from cooper_ros.model.tables import TIME_FEATURES, rope_angles, sincos_2d, time_features
from cooper_ros.model.vit import VisionTower

Result = TypeVar('Result')
# transformers has these too, but its list takes seconds to import, in every process.
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    'gelu_pytorch_tanh': lambda: nn.GELU('tanh'), 'gelu': nn.GELU, 'silu': nn.SiLU}


class TimestepEmbedder(nn.Module):
    """Flow time to the vector that is added to every latent token (reference section 2.9)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        first = nn.Linear(TIME_FEATURES, width)
        self.mlp = nn.Sequential(first, nn.SiLU(), nn.Linear(width, width))

    def forward(self, times: Tensor) -> Tensor:
        """Times ``[...]`` in 0..1 to ``[..., D]``."""
        return self.mlp(time_features(times).to(next(self.parameters()).dtype))


class Connector(nn.Module):
    """Vision features to the width of the language model."""

    def __init__(self, inputs: int, outputs: int, activation: str) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(inputs, outputs), nn.Linear(outputs, outputs)
        self.activation = ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        """``[..., inputs]`` to ``[..., outputs]``."""
        return self.fc2(self.activation(self.fc1(x)))


class FixedPositions(nn.Module):
    """A 2-D sine-cosine table that is stored, but never trained (reference section 2.8)."""

    def __init__(self, side: int, width: int) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(sincos_2d(side, width), requires_grad=False)

    def forward(self, position_ids: Tensor) -> Tensor:
        """Ids ``[T]`` to ``[T, D]``."""
        return self.pos_embed[position_ids]


class Cooper(nn.Module):
    """Language model with two experts, vision tower, and the adapters between them.

    The methods embed what enters the decoder and read what leaves it; which tokens attend
    to which is decided by the caller (a cache, or a packed training batch).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width = config.llm.hidden_size
        self.language_model = CausalLm(config.llm)
        self.vit_model = VisionTower(config.vit)
        self.connector = Connector(config.vit.hidden_size, width, config.connector_act)
        self.vit_pos_embed = FixedPositions(config.vit_max_num_patch_per_side, width)
        self.vae2llm = nn.Linear(config.latent_features, width)
        self.llm2vae = nn.Linear(width, config.latent_features)
        self.time_embedder = TimestepEmbedder(width)
        self.latent_pos_embed = FixedPositions(config.max_latent_size, width)

    def initialise(self, std: float = 0.02) -> Cooper:
        """Draw fresh weights with torch's generator; the flow starts at velocity zero."""
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=std)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        nn.init.zeros_(self.llm2vae.weight)
        return self

    def forward(self, run: Callable[[], Result]) -> Result:
        """Call ``run``, which uses this network's methods, as one forward pass.

        FSDP hooks this method: inside it, the weights of a sharded network are whole. Put
        everything that is back-propagated through into one call, and return its tensors in plain
        containers (tuple, list, dict).

        Args:
            run: called without arguments.

        Returns:
            what ``run`` returned.
        """
        return run()

    def embed_text(self, ids: Tensor) -> Tensor:
        """Token ids ``[...]`` to ``[..., D]``."""
        return self.language_model.model.embed_tokens(ids)

    def embed_vision(self, patches: Tensor, position_ids: Tensor, lengths: Sequence[int],
                     recompute: bool = False) -> Tensor:
        """Pictures to decoder tokens.

        Args:
            patches: ``[B, T, 3 * patch**2]`` in -1..1, pictures of a sample one after the other.
            position_ids: ``[T]``, places in both position tables.
            lengths: patches of every picture, summing to T.
            recompute: as in :class:`~.mot.PassMode`.

        Returns:
            ``[B, T, D]``.
        """
        features = self.vit_model(patches, position_ids, lengths, recompute)
        joined = (checkpoint(self.connector, features, use_reentrant=False) if recompute
                  else self.connector(features))
        return joined + self.vit_pos_embed(position_ids)

    def embed_latents(self, tokens: Tensor, time_vectors: Tensor, positions: Tensor) -> Tensor:
        """Latent tokens to decoder tokens.

        Args:
            tokens: ``[..., T, P]``, clean or noisy.
            time_vectors: ``[..., T or 1, D]`` of :attr:`time_embedder`; time 0 when clean.
            positions: ``[T, D]`` of :attr:`latent_pos_embed`.

        Returns:
            ``[..., T, D]``.
        """
        return self.vae2llm(tokens.to(self.vae2llm.weight.dtype)) + time_vectors + positions

    def rope(self, positions: Tensor, dtype: torch.dtype) -> Rope:
        """Angles of position ids ``[B or 1, T]``, computed in float32, then rounded."""
        cos, sin = rope_angles(positions, self.config.llm.head_dim, self.config.llm.rope_theta)
        return Rope(cos[:, None].to(dtype), sin[:, None].to(dtype))

    def logits(self, hidden: Tensor, vocabulary: int | None = None) -> Tensor:
        """Scores ``[..., V]`` of hidden states ``[..., D]``; of the first ids only, if given."""
        return F.linear(hidden, self.language_model.lm_head.weight[:vocabulary])

    def velocity(self, hidden: Tensor) -> Tensor:
        """Velocity ``[..., P]`` (data to noise) of gen hidden states ``[..., D]``."""
        return self.llm2vae(hidden)
