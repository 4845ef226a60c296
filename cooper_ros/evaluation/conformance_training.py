"""Part g of a recording: one packed training step, from the packer to the gradients."""

from __future__ import annotations

import math
from typing import Any, Iterator, Mapping

import torch
from torch import Tensor

from cooper_ros.evaluation.conformance_golden import Golden, Part, Rows, guarded
from cooper_ros.evaluation.conformance_rows import (
    Row,
    compare_number,
    compare_tensor,
    exact,
    worst,
)
from cooper_ros.model.network import Cooper
from cooper_ros.model.packing import Item, LatentItem, PackedBatch, TextItem, VisionItem, pack
from cooper_ros.model.patches import unpatchify
from cooper_ros.model.training_forward import TrainOutput, forward_train

LOSS_RELATIVE, NORM_RELATIVE = 1e-5, 1e-4


def check_training(golden: Golden) -> Rows:
    """Part g: the packed batch, the losses, the gradients, and those of a frozen half."""
    part = golden.part('g_train')
    with torch.inference_mode():
        latent = golden.runtime.vae.encode(part['in.padded_images'])
    yield part.compare('padded_latent_mean', latent)
    batch = pack(recorded_samples(golden, part), golden.model_config, golden.specials,
                 timestep_shift=part.value('train_timestep_shift'), noise=part['in.noise'])
    yield from guarded('g_train.packing', _packing_rows(part, batch))
    yield from guarded('g_train.step', _step_rows(golden, part, batch))
    yield from guarded('g_train.freeze_und', _frozen_rows(golden, part, batch))


def recorded_samples(golden: Golden, part: Part) -> list[list[Item]]:
    """The samples of the plan, filled with the recorded texts, latents and patches."""
    latents, visions = _latents(golden, part), _visions(golden, part)
    logits = iter(part.value('raw_normal_timesteps'))
    samples: list[list[Item]] = []
    for plan, texts in zip(part.value('plan'), part.value('texts')):
        words, sample = iter(texts), []
        for entry in plan:
            loss = bool(entry['loss'])
            if entry['type'] == 'text':
                sample.append(TextItem(tuple(next(words)), loss))
            elif entry['type'] == 'vit_image':
                sample.append(VisionItem(next(visions)))
            else:
                sample.append(LatentItem(next(latents), loss, next(logits) if loss else None))
        samples.append(sample)
    return samples


def _latents(golden: Golden, part: Part) -> Iterator[Tensor]:
    """Recorded latents ``[C, h, w]``, cropped to their real size."""
    patch = golden.model_config.latent_patch_size
    shapes = part.value('patchified_vae_latent_shapes')
    for padded, (rows, columns) in zip(part['out.padded_latent_mean'], shapes):
        yield padded[:, :rows * patch, :columns * patch]


def _visions(golden: Golden, part: Part) -> Iterator[Tensor]:
    """Pictures ``[3, H, W]`` behind the recorded patches; their grid is in the position ids."""
    config, lengths = golden.model_config, part['in.vit_token_seqlens'].tolist()
    patches = part['in.packed_vit_tokens'].split(lengths)
    for tokens, ids in zip(patches, part['in.packed_vit_position_ids'].split(lengths)):
        last = int(ids.max())
        side = config.vit_max_num_patch_per_side
        yield unpatchify(tokens, (last // side + 1, last % side + 1), config.vit.patch_size)


def _packing_rows(part: Part, batch: PackedBatch) -> Rows:
    """What our packer makes of the plan must be what the reference made of it."""
    layout = batch.layout
    for name, got in (('sample_lens', layout.sample_lens), ('split_lens', layout.split_lens),
                      ('attn_modes', layout.attn_modes)):
        yield exact(f'g_train.{name}', list(got), part.value(name))
    yield exact('g_train.sequence_length', sum(layout.sample_lens), part.value('sequence_length'))
    packed = {
        'packed_text_ids': batch.text_ids[0], 'packed_text_indexes': layout.text_index,
        'packed_position_ids': batch.positions[0], 'packed_label_ids': batch.labels[0],
        'ce_loss_indexes': layout.ce_index, 'mse_loss_indexes': layout.mse_index,
        'packed_vae_token_indexes': layout.latent_index,
        'packed_latent_position_ids': layout.latent_position_ids,
        'packed_vit_token_indexes': layout.vit_index,
        'packed_vit_position_ids': layout.vit_position_ids,
        'packed_vit_tokens': batch.patches[0],
        'vit_token_seqlens': torch.tensor(layout.vit_lengths)}
    for name, got in packed.items():
        yield compare_tensor(f'g_train.in.{name}', got, part[f'in.{name}'])
    times = batch.times[0].repeat_interleave(torch.tensor(layout.latent_lengths))
    yield part.compare('times_after_shift', times)
    raw = part['in.packed_timesteps']
    yield exact('g_train.in.packed_timesteps', (times > 0).tolist(), (raw > -math.inf).tolist())
    yield part.compare('attention_allowed', batch.allowed[0].to(torch.uint8))


def _step_rows(golden: Golden, part: Part, batch: PackedBatch) -> Rows:
    network, results = golden.network(), part.value('results')
    output = forward_train(network, batch)
    yield part.compare('ce', output.ce[0])
    yield part.compare('mse', output.mse[0])
    yield part.compare('last_hidden', output.last_hidden[0])
    losses = _losses(part, output)
    for name, got in losses.items():
        yield compare_number(f'g_train.results.{name}', got.item(), results[name],
                             relative=LOSS_RELATIVE)
    losses['loss'].backward()
    norms = _gradient_norms(network)
    total = math.sqrt(sum(norm ** 2 for norm in norms.values() if norm is not None))
    yield compare_number('g_train.results.total_grad_norm', total, results['total_grad_norm'],
                         relative=NORM_RELATIVE)
    yield _norm_row('g_train.results.grad_norms', norms, results['grad_norms'])
    yield from _gradient_rows(part, network)


def _losses(part: Part, output: TrainOutput) -> dict[str, Tensor]:
    weights = part['in.ce_loss_weights']
    ce, mse = output.ce[0].mean(), output.mse[0].mean()
    weighted = (output.ce[0] * weights).sum() / weights.sum()
    return {'ce_mean': ce, 'ce_weighted': weighted, 'mse_mean': mse, 'loss': ce + mse}


def _gradient_rows(part: Part, network: Cooper) -> Rows:
    parameters = dict(network.named_parameters())
    for name, _ in part.numbered('out.grad.'):
        gradient = parameters[name].grad
        yield part.compare(f'grad.{name}', torch.zeros_like(parameters[name])
                           if gradient is None else gradient)


def _frozen_rows(golden: Golden, part: Part, batch: PackedBatch) -> Rows:
    """The understanding side detached: the same loss, gradients on the other side only."""
    network, recorded = golden.network(), part.value('results', 'freeze_und')
    losses = _losses(part, forward_train(network, batch, freeze_und=True))
    yield compare_number('g_train.freeze_und.loss', losses['loss'].item(), recorded['loss'],
                         relative=LOSS_RELATIVE)
    losses['loss'].backward()
    yield _norm_row('g_train.freeze_und.grad_norms', _gradient_norms(network),
                    recorded['grad_norms'])


def _gradient_norms(network: Cooper) -> dict[str, float | None]:
    return {name: None if parameter.grad is None else float(parameter.grad.norm())
            for name, parameter in network.named_parameters()}


def _norm_row(item: str, got: Mapping[str, float | None],
              expected: Mapping[str, Any]) -> Row:
    """All norms as one line; no gradient and a gradient of zero are the same thing."""
    unknown = sorted(set(expected) - set(got))
    if unknown:
        return Row(item, None, None, False, f'no parameter {unknown[0]}')
    return worst(item, [compare_number(name, got[name] or 0.0, norm or 0.0,
                                       relative=NORM_RELATIVE)
                        for name, norm in expected.items()])
