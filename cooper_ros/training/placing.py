"""A start in which a token of one image block attends to the same place of the others.

Drawing a map is, first of all, copying from place to place: the noised token at row 2, column 5
needs the picture's token at row 2, column 5. The fixed position tables say where a token is, but
in a narrow network with a small grid only a few of their directions vary; random projections do
not find them, and for thousands of steps a small model draws the same map for every picture.

So the directions that tell places apart are kept free of content when training starts, in every
layer and both experts, and the first key head with its queries reads them alone. Where latents lie
on a coarser grid than vision patches, the head of the generation expert reads a latent's place as
that of the patch that covers it. The head uses slowly turning pairs of rotary dimensions, so that
the text between two blocks does not blur it. Nothing is frozen.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cooper_ros.model.mot import GEN, UND
from cooper_ros.model.network import Cooper

LEAST_SPREAD = 0.02  # of the strongest direction; weaker ones are rounding
SHARPNESS = 1.5  # of attention at the start
FASTEST_TURN = 0.012  # radians per position: a question of 60 tokens turns by less than 45 degrees


@torch.no_grad()
def place(network: Cooper) -> None:
    """Change initial weights in place; see the module's description."""
    patches, latents = network.vit_pos_embed.pos_embed, network.latent_pos_embed.pos_embed
    _keep_free(network, torch.linalg.qr(torch.cat(
        [place_code(patches)[0], place_code(latents)[0]]).T).Q.T)
    code = place_code(patches)[1]
    heads = {UND: _head(network, code), GEN: _head(network, latent_code(patches, latents, code))}
    group = network.config.llm.num_heads // network.config.llm.num_kv_heads
    for layer in network.language_model.model.layers:
        for suffix, head in heads.items():
            queries, keys, norm = (getattr(layer.self_attn, name + suffix)
                                   for name in ('q_proj', 'k_proj', 'q_norm'))
            keys.weight[:len(head)] = head
            queries.weight[:len(head) * group] = head.repeat(group, 1)
            norm.weight.fill_(SHARPNESS)


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


def latent_code(patches: Tensor, latents: Tensor, code: Tensor) -> Tensor:
    """Directions ``[R, D]`` that read a latent's row as ``code`` reads the patch at its place.

    Args:
        patches, latents: position tables ``[S * S, D]`` over the same picture, each its own S.
        code: directions ``[R, D]`` for patches.
    """
    sides = [round(len(table)**0.5) for table in (patches, latents)]
    read = (patches @ code.T).T.view(1, -1, sides[0], sides[0])
    wanted = F.interpolate(read, (sides[1], sides[1]), mode='bilinear', align_corners=False)
    return (torch.linalg.pinv(latents, rtol=LEAST_SPREAD) @ wanted[0].flatten(1).T).T


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
        outputs += [layer.self_attn.o_proj, layer.self_attn.o_proj_moe_gen,
                    layer.mlp.down_proj, layer.mlp_moe_gen.down_proj]
    for linear in outputs:  # weight [D, in]
        linear.weight.sub_(directions.T @ (directions @ linear.weight))
        if linear.bias is not None:
            linear.bias.sub_(directions.T @ (directions @ linear.bias))
    words = network.language_model.model.embed_tokens.weight  # [V, D]
    words.sub_(words @ directions.T @ directions)
