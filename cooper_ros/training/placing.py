"""A start in which a token of one image block attends to the same place of the others.

Drawing a map is, first of all, copying from place to place: the noised token at row 2, column 5
needs the picture's token at row 2, column 5. The fixed position tables say where a token is, but
in a narrow network with a small grid only a few of their directions vary; random projections do
not find them, and for thousands of steps a small model draws the same map for every picture.

So the directions that tell places apart are kept free of content when training starts, in every
layer, and the first key head with its queries reads them alone. The head uses slowly turning
pairs of rotary dimensions, so that the text between two blocks does not blur it. Nothing is
frozen.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cooper_ros.model.network import Cooper

LEAST_SPREAD = 0.02  # of the strongest direction; weaker ones are rounding
SHARPNESS = 1.5  # of attention at the start
FASTEST_TURN = 0.012  # radians per position: a question of 60 tokens turns by less than 45 degrees


@torch.no_grad()
def place(network: Cooper) -> None:
    """Change initial weights in place; see the module's description."""
    directions, code = place_code(network.vit_pos_embed.pos_embed)
    _keep_free(network, directions)
    head = _head(network, code)  # [d, D]
    group = network.config.llm.num_heads // network.config.llm.num_kv_heads
    for layer in network.language_model.model.layers:
        attention, size = layer.self_attn, len(head)
        attention.k_proj.weight[:size] = head
        attention.q_proj.weight[:size * group] = head.repeat(group, 1)
        attention.q_norm.weight.fill_(SHARPNESS)


def place_code(table: Tensor) -> tuple[Tensor, Tensor]:
    """What tells the rows of a position table ``[S * S, D]`` apart.

    Returns:
        orthonormal directions ``[R, D]``, and the same scaled to unit spread over all places.
    """
    common = table.mean(0) / table.mean(0).norm()
    varying = table - table.mean(0)
    varying = varying - (varying @ common)[:, None] * common
    _, spreads, directions = torch.linalg.svd(varying, full_matrices=False)
    kept = spreads > LEAST_SPREAD * spreads[0]
    scale = len(table)**0.5 / spreads[kept]
    return directions[kept], directions[kept] * scale[:, None]


def _head(network: Cooper, code: Tensor) -> Tensor:
    """Weights ``[d, D]`` of a head that reads the place code in its slowly turning dimensions."""
    size, half = network.config.llm.head_dim, network.config.llm.head_dim // 2
    turns = network.config.llm.rope_theta ** (-torch.arange(half) / half)
    slow = (turns <= FASTEST_TURN).nonzero()[:, 0]
    dimensions = torch.cat([slow, slow + half])[:len(code)]
    head = torch.zeros(size, code.shape[1])
    head[dimensions] = code[:len(dimensions)]
    return head


def _keep_free(network: Cooper, directions: Tensor) -> None:
    """Take the place directions out of everything that is written into the residual stream."""
    outputs = [network.connector.fc2, network.vae2llm, network.time_embedder.mlp[2]]
    for layer in network.language_model.model.layers:
        outputs += [layer.self_attn.o_proj, layer.mlp.down_proj]
    for linear in outputs:  # weight [D, in]
        linear.weight.sub_(directions.T @ (directions @ linear.weight))
        if linear.bias is not None:
            linear.bias.sub_(directions.T @ (directions @ linear.bias))
    words = network.language_model.model.embed_tokens.weight  # [V, D]
    words.sub_(words @ directions.T @ directions)
