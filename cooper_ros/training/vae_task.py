"""Stage ``vae``: the autoencoder of a small checkpoint, trained on the pictures it has to code.

Three kinds of pictures go through one autoencoder, as in the released model: camera frames, depth
as grey and segmentations in palette colours. The latents' spread is set to what the fixed scale
factor expects by :func:`rescaled` when the weights are exported.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cooper_ros.imaging.resize import denormalise
from cooper_ros.model.packing import IGNORED
from cooper_ros.model.vae import AutoEncoder
from cooper_ros.runtime.weights import save_tensors
from cooper_ros.scenes.palette import paint, palette_rgb
from cooper_ros.scenes.scene import MAX_DEPTH_M, MIN_DEPTH_M
from cooper_ros.training.ahead import Ahead
from cooper_ros.training.data import FrameStore, frame_store
from cooper_ros.training.folder import vae_tensors
from cooper_ros.training.precision import mixed
from cooper_ros.training.processes import mean_over_processes, mean_values, training_device
from cooper_ros.training.settings import TrainSettings
from cooper_ros.training.sizes import vae_sizes
from cooper_ros.training.starting import take_weights
from cooper_ros.training.task import batch_indices, sample_generators, step_generator
from cooper_ros.training.typed import build, check_ranges

RGB, DEPTH, LABELS = range(3)
BETWEEN_COLOURS = 0.1  # squared distance, of colours in -1..1, over which belief falls by e
Batch = tuple[Tensor, Tensor, Tensor, list[torch.Generator]]


@dataclass(frozen=True)
class VaeOptions:
    """Settings of this stage.

    Attributes:
        crop: (height, width) of training crops; (0, 0) for whole pictures.
        kl: weight of the divergence from the standard normal, per latent number.
        depth_focus: metres; near depth counts more, as ``focus / (focus + depth)``, because the
            depth scores are relative. 0 for equal weights.
        decoder_only: keep the encoder, and with it every latent a network was trained on; train
            the decoder further, on maps alone, which are all it has to draw.
        latent_noise: largest noise added to what the decoder reads, in spreads of the latents;
            drawn latents are never exact, and a decoder that has met noise forgives them.
        classes: weight of a cross-entropy over the palette's colours at every pixel of a
            segmentation. Without it edges come out as mixtures, which are no class or a third one.
        vae: folder of the ``ae.safetensors`` to start from; empty for fresh weights.
    """

    crop: tuple[int, int] = (64, 64)
    kl: float = 1e-4
    depth_focus: float = 1.0
    decoder_only: bool = False
    latent_noise: float = 0.0
    classes: float = 0.0
    vae: str = ''

    def __post_init__(self) -> None:
        names = ('kl', 'depth_focus', 'latent_noise', 'classes')
        check_ranges(self, (
            ('crop', min(self.crop) > 0 or self.crop == (0, 0), 'two numbers > 0, or [0, 0]'),
            *((name, getattr(self, name) >= 0, '>= 0') for name in names)), 'task')


class VaeTask:
    """See :class:`~cooper_ros.training.task.Task`."""

    def __init__(self, settings: TrainSettings) -> None:
        self.settings, self.options = settings, build(VaeOptions, settings.task, 'task')
        sizes = vae_sizes(settings.model, self.options.crop)
        torch.manual_seed(settings.seed)
        self.module: AutoEncoder = AutoEncoder(sizes)
        if self.options.vae:
            take_weights(self.module, vae_tensors(Path(self.options.vae)),
                         'give `model` the sizes of the autoencoder that `task.vae` names')
        self.module.encoder.requires_grad_(not self.options.decoder_only)
        data = settings.data
        self.train = frame_store(data.folder, 'train', data.seed, data.train, 0)
        self.valid = frame_store(data.folder, 'validation', data.seed, data.valid, 0)
        self.ahead = Ahead(self._batch, training_device(settings.device))

    def samples(self, step: int) -> int:
        """Pictures of a step."""
        return self.settings.batch

    def loss(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Absolute reconstruction error and divergence of one batch of mixed pictures."""
        *parts, noises = self.ahead(step)
        pixels, weight, classes = (part.to(self._device) for part in parts)
        mean, logvar = self.module.encoder(pixels).float().chunk(2, dim=1)
        noise = torch.stack([torch.randn(mean.shape[1:], generator=noise)
                             for noise in noises]).to(self._device)
        wide = spread_of(mean)
        spread = torch.exp(0.5 * logvar) + self._disturbance(wide, noises)
        restored = self.module.decoder(mean + spread * noise).float()
        error = ((restored - pixels).abs() * weight).mean()
        square = F.mse_loss(restored, pixels)
        divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        whole = error + square + self.options.kl * divergence
        named = {'l1': error, 'mse': square, 'kl': divergence,
                 'sigma': torch.exp(0.5 * logvar).mean() / wide}
        if self.options.classes:
            named['classes'] = class_loss(restored, classes)
            whole = whole + self.options.classes * named['classes']
        return {'loss': whole, **named}

    @property
    def _device(self) -> torch.device:
        return next(self.module.parameters()).device

    def _disturbance(self, wide: float, noises: list[torch.Generator]) -> Tensor:
        """Spread of the added noise, one per picture: ``[B, 1, 1, 1]``."""
        share = torch.stack([torch.rand(1, 1, 1, generator=noise) for noise in noises])
        return self.options.latent_noise * wide * share.to(self._device)

    def _batch(self, step: int) -> Batch:
        """Pictures ``[B, 3, h, w]``, weights ``[B, 1, h, w]``, classes ``[B, h, w]``, noises."""
        batch, seed = self.settings.batch, self.settings.seed
        frames = batch_indices(len(self.train), batch, seed, step).tolist()
        noises = sample_generators(batch, step_generator(seed, step))
        first, parts = DEPTH if self.options.decoder_only else RGB, []
        for frame, noise in zip(frames, noises):
            kind = int(torch.randint(first, 3, (1,), generator=noise))
            parts.append(self._sample(frame, kind, torch.rand(3, generator=noise).tolist()))
        pixels, weights, classes = (torch.stack(column) for column in zip(*parts))
        return pixels, weights, classes, noises

    def _sample(self, frame: int, kind: int, draw: list[float]) -> tuple[Tensor, ...]:
        """One cropped, perhaps mirrored picture ``[3, h, w]``, its weights ``[1, h, w]`` and
        classes ``[h, w]``, which only a segmentation has."""
        pixels = picture(self.train, frame, kind)
        classes = torch.from_numpy(np.array(self.train.labels[frame], np.int64))
        layers = [pixels, self._weight(pixels, kind),
                  classes if kind == LABELS else torch.full_like(classes, IGNORED)]
        height, width = self.options.crop
        if height:
            top = int(draw[0] * (pixels.shape[1] - height + 1))
            left = int(draw[1] * (pixels.shape[2] - width + 1))
            layers = [x[..., top:top + height, left:left + width] for x in layers]
        return tuple(x.flip(-1) if draw[2] < 0.5 else x for x in layers)

    def _weight(self, pixels: Tensor, kind: int) -> Tensor:
        focus = self.options.depth_focus
        if kind != DEPTH or not focus:
            return torch.ones_like(pixels[:1])
        return 4 * focus / (focus + metres_of(pixels[:1])[None])

    def validate(self) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Reconstruction scores with posterior means: they bound what drawing can reach."""
        scores: dict[str, list[float]] = {'valid_absrel': [], 'valid_pixel_accuracy': [],
                                          'valid_rgb_l1': []}
        rows = []
        for frame in range(min(len(self.valid), 64)):
            pixels = torch.stack([picture(self.valid, frame, kind) for kind in range(3)])
            with mixed(self._device, self.settings.optim.bfloat16):
                latents = self.module.encode(pixels.to(self._device))
                restored = self.module.decode(latents).float().clamp(-1, 1).cpu()
            scores['valid_rgb_l1'].append(float((restored[RGB] - pixels[RGB]).abs().mean()))
            scores['valid_absrel'].append(_absrel(restored[DEPTH], pixels[DEPTH]))
            scores['valid_pixel_accuracy'].append(_same_class(restored[LABELS], pixels[LABELS]))
            if frame < 4:
                rows.append(torch.cat([*pixels, *restored], dim=2))
        means = {name: float(np.mean(values)) for name, values in scores.items()}
        return means, {'reconstructions': denormalise(torch.cat(rows, dim=1).numpy())}

    def export(self, folder: Path, weights: Mapping[str, Tensor]) -> None:
        """Write ``ae.safetensors`` with latents rescaled to the fixed scale factor."""
        self.module.load_state_dict(weights)
        folder.mkdir(parents=True, exist_ok=True)
        state = (self.module.state_dict() if self.options.decoder_only  # latents stay as they are
                 else rescaled(self.module, self._latent_std().to(self._device)))
        save_tensors({name: value.cpu() for name, value in state.items()},
                     folder / 'ae.safetensors')

    @torch.no_grad()
    def _latent_std(self) -> Tensor:
        """Spread ``[C]`` of the unscaled posterior means over validation pictures."""
        pixels = torch.stack([picture(self.valid, frame, kind)
                              for frame in range(min(len(self.valid), 32)) for kind in range(3)])
        means = [self.module.encoder(part.to(self._device)).chunk(2, dim=1)[0].cpu()
                 for part in pixels.split(8)]
        return torch.cat(means).std(dim=(0, 2, 3))


def picture(store: FrameStore, frame: int, kind: int) -> Tensor:
    """A stored frame as the network codes it: float32 ``[3, H, W]`` in -1..1."""
    if kind == DEPTH:
        grey = torch.from_numpy(store.relative(frame))
        return (grey * 2 - 1).expand(3, -1, -1)
    rgb = store.rgb[frame] if kind == RGB else paint(store.labels[frame])
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1).float() / 127.5 - 1


def metres_of(depth: Tensor) -> Tensor:
    """Metres ``[..., H, W]`` of grey depth pictures ``[..., C, H, W]`` in -1..1. What lies beyond
    the range is not cut off, or it would learn nothing."""
    return MIN_DEPTH_M + (depth.mean(-3) * 0.5 + 0.5) * (MAX_DEPTH_M - MIN_DEPTH_M)


def class_loss(restored: Tensor, classes: Tensor) -> Tensor:
    """How far decoded colours are from saying their class: cross-entropy over squared distances to
    the palette's colours. Pictures ``[B, 3, H, W]`` in -1..1, classes ``[B, H, W]``; 0 without.

    A process may have no segmentation at a step, and others many; as parts of the mean over the
    pixels of all processes, every pixel counts alike.
    """
    pixels = mean_over_processes([float((classes != IGNORED).sum())])[0]
    return F.cross_entropy(class_logits(restored), classes, ignore_index=IGNORED,
                           reduction='sum') / pixels


def class_logits(restored: Tensor) -> Tensor:
    """Belief ``[B, K, H, W]`` in every class, from colours ``[B, 3, H, W]`` in -1..1."""
    palette = torch.from_numpy(palette_rgb()).to(restored) / 127.5 - 1  # [K, 3]
    away = (restored[:, None] - palette[None, :, :, None, None]).square().sum(2)  # [B, K, H, W]
    return -away / BETWEEN_COLOURS


def spread_of(latents: Tensor) -> float:
    """Spread of the latents of all processes."""
    found = mean_values({'mean': latents.mean(), 'square': latents.square().mean()})
    return max(found['square'] - found['mean']**2, 1e-12)**0.5


def rescaled(vae: AutoEncoder, std: Tensor) -> dict[str, Tensor]:
    """State dict of the same autoencoder whose latent channels spread as the scale expects.

    The factor is folded into the encoder's last and the decoder's first convolution, so that
    pictures come back unchanged.

    Args:
        vae: trained autoencoder.
        std: spread ``[C]`` of its unscaled latents.
    """
    factor = 1 / (vae.config.scale_factor * std)  # [C]
    state = {name: value.detach().clone() for name, value in vae.state_dict().items()}
    channels = len(std)
    for name, shape in (('weight', (-1, 1, 1, 1)), ('bias', (-1,))):
        state[f'encoder.conv_out.{name}'][:channels] *= factor.view(shape)
    state['encoder.conv_out.bias'][channels:] += 2 * factor.log()
    state['decoder.conv_in.weight'] /= factor.view(1, -1, 1, 1)
    return state


def _absrel(restored: Tensor, truth: Tensor) -> float:
    found, metres = metres_of(restored), metres_of(truth)
    return float(((found - metres).abs() / metres).mean())


def _same_class(restored: Tensor, truth: Tensor) -> float:
    palette = torch.tensor(paint(np.arange(11, dtype=np.uint8))).float() / 127.5 - 1  # [K, 3]
    found, wanted = (torch.cdist(x.flatten(1).T.float(), palette).argmin(1)
                     for x in (restored, truth))
    return float((found == wanted).float().mean())
