"""One forward pass of training: packed batch in, losses per token out (reference 9.4)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cooper_ros.model.flow import noised
from cooper_ros.model.mot import Attend, MaskedAttention, PassMode, Streams
from cooper_ros.model.network import Cooper
from cooper_ros.model.packing import IGNORED, PackedBatch


@dataclass(frozen=True)
class TrainOutput:
    """Unreduced losses.

    Attributes:
        ce: cross-entropy ``[B, Tc]`` at ``layout.ce_index``; 0 where the label is ignored.
        mse: squared velocity error ``[B, Tm, P]`` at ``layout.mse_index``.
        ends: clean latents ``[B, Tm, P]`` that those velocities lead to in one step.
        last_hidden: normed hidden states ``[B, L, D]`` in sequence order.
    """

    ce: Tensor
    mse: Tensor
    ends: Tensor
    last_hidden: Tensor


def forward_train(network: Cooper, batch: PackedBatch, *, freeze_und: bool = False,
                  recompute: bool = False, attend: Attend | None = None) -> TrainOutput:
    """Losses of a batch, with gradients.

    Args:
        network: the network, on the device of the batch.
        batch: what :func:`~..packing.pack` or :func:`~..packing.pack_batch` made.
        freeze_und: let no gradient into the understanding expert.
        recompute: trade time for memory, see :class:`~..mot.PassMode`.
        attend: attention that equals the batch's dense mask, but costs less; None applies the
            mask itself.
    """
    layout = batch.layout
    streams = embed(network, batch, recompute)
    rope = network.rope(batch.positions[:, layout.order], network.vae2llm.weight.dtype)
    if attend is None:
        attend = MaskedAttention(batch.allowed[:, layout.order][:, :, layout.order][:, None])
    mode = PassMode(freeze_und=freeze_und, recompute=recompute)
    out = network.language_model.model(streams, rope, attend, mode)
    hidden = torch.cat([x for x, _ in out.parts()], dim=1)  # [B, L, D], compact order
    return TrainOutput(_cross_entropy(network, batch, hidden), *_flow(network, batch, hidden),
                       hidden[:, layout.inverse])


def mean_losses(output: TrainOutput, batch: PackedBatch) -> tuple[Tensor, Tensor]:
    """Cross-entropy per predicted token and squared error per number; 0 where there is none."""
    tokens = (batch.labels != IGNORED).sum().clamp(min=1)
    return output.ce.sum() / tokens, output.mse.sum() / max(output.mse.numel(), 1)


def embed(network: Cooper, batch: PackedBatch, recompute: bool = False) -> Streams:
    """Everything that enters the decoder: und (text, then vision) and gen (latents)."""
    layout = batch.layout
    und = network.embed_text(batch.text_ids)
    if layout.vit_lengths:
        vision = network.embed_vision(batch.patches, layout.vit_position_ids, layout.vit_lengths,
                                      recompute)
        und = torch.cat([und, vision.to(und.dtype)], dim=1)
    if not layout.latent_lengths:
        return Streams(und, None)
    times = _per_token(batch.times, batch)[..., None]
    vectors = _per_token(network.time_embedder(batch.times), batch)  # one row per image first
    return Streams(und, network.embed_latents(
        noised(batch.latents, batch.noise, times), vectors,
        network.latent_pos_embed(layout.latent_position_ids)))


def _per_token(values: Tensor, batch: PackedBatch) -> Tensor:
    """Repeat ``[B, images, ...]`` for the tokens of every image: ``[B, Tz, ...]``."""
    rows = [values[:, i:i + 1].expand(-1, n, *values.shape[2:])
            for i, n in enumerate(batch.layout.latent_lengths)]
    return torch.cat(rows or [values], dim=1)  # without images there are no values either


def _cross_entropy(network: Cooper, batch: PackedBatch, hidden: Tensor) -> Tensor:
    rows = hidden[:, batch.layout.inverse[batch.layout.ce_index]]
    logits = network.logits(rows).float()
    return F.cross_entropy(logits.transpose(1, 2), batch.labels, reduction='none',
                           ignore_index=IGNORED)


def _flow(network: Cooper, batch: PackedBatch, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Squared velocity error and the latents that the velocities lead to, ``[B, Tm, P]`` each."""
    layout = batch.layout
    places = layout.inverse[layout.mse_index]
    drawn = places - (len(layout.order) - len(layout.latent_index))  # rows of the latents
    clean, times = batch.latents[:, drawn], _per_token(batch.times, batch)[:, drawn, None]
    error = network.velocity(hidden[:, places]).float() - (batch.noise[:, drawn] - clean)
    return error.square(), clean - times * error
