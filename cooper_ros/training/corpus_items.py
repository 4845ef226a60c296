"""From samples of the readers to items of the network, with token counts for packing."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence

import numpy as np
import torch

from cooper_ros.errors import BadOption
from cooper_ros.imaging.resize import ImageTransform
from cooper_ros.model.layout import MARKERS
from cooper_ros.model.packing import Item, LatentItem, TextItem, VisionItem
from cooper_ros.training.datasets.catalogue import COOPER, KINDS, draw_kind
from cooper_ros.training.datasets.cooper_set import TalkSet
from cooper_ros.training.datasets.draw import DEPTH, DrawSet, open_set
from cooper_ros.training.datasets.samples import DrawSample, TalkSample
from cooper_ros.training.policy import Policy
from cooper_ros.training.typed import build, check_ranges


@dataclass(frozen=True)
class SetOptions:
    """One set of the mixture.

    Attributes:
        place: folder of the set, or one of its ``.jsonl`` lists.
        weight: share of the draws, relative to the other sets.
        kind: which set of the catalogue it is read as; empty for the one it is named after.
    """

    place: str
    weight: float = 1.0
    kind: str = ''


@dataclass(frozen=True)
class CorpusOptions:
    """Settings of these stages.

    Attributes:
        sets: the mixture by name; a name that is not in the catalogue needs a ``kind``.
        max_tokens: length of a sequence; longer samples are left out.
        ce_weight, mse_weight: weights of the two losses.
        timestep_shift: of the drawn flow times.
        mirror: share of mirrored depth and segmentation samples.
        map_latents: show the maps of conversations through the VAE too, as the published
            training did; inference never does (quirk Q7).
        sample_posterior: sample the VAE, as published, or take its mean.
        freeze: name prefixes of weights that do not train; published: the vision tower.
        recompute: trade time for memory.
        valid: samples of every set that are held out of training, its last ones.
        preview: draw or answer the last held-out sample of every set at each validation.
        drawing: settings of previews.

    Raises:
        BadOption: a value is unknown or out of its range.
    """

    sets: Mapping[str, SetOptions]
    max_tokens: int = 10240
    ce_weight: float = 1.0
    mse_weight: float = 1.0
    timestep_shift: float = 1.0
    mirror: float = 0.5
    map_latents: bool = True
    sample_posterior: bool = True
    freeze: tuple[str, ...] = ('vit_model',)
    recompute: bool = False
    valid: int = 8
    preview: bool = True
    drawing: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.sets:
            raise BadOption('task.sets names no set', value='{}', limit=', '.join(KINDS))
        for name, entry in self.sets.items():
            _check_set(name, entry)
        check_ranges(self, (
            ('max_tokens', self.max_tokens >= 1, '>= 1'),
            ('ce_weight', 0 <= self.ce_weight < math.inf, '>= 0'),
            ('mse_weight', 0 <= self.mse_weight < math.inf, '>= 0'),
            ('timestep_shift', 0 < self.timestep_shift < math.inf, '> 0'),
            ('mirror', 0 <= self.mirror <= 1, '0 .. 1'), ('valid', self.valid >= 0, '>= 0')),
            'task')


def _check_set(name: str, entry: SetOptions) -> None:
    if not re.fullmatch(r'[\w-]+', str(name)):  # it is part of file names and curves
        raise BadOption('a set has an odd name', value=repr(name),
                        limit='letters, digits, - and _')
    if (entry.kind or name) not in KINDS:
        raise BadOption('no such kind of data set', limit=', '.join(KINDS),
                        value=f'{name}: {entry.kind}' if entry.kind else name,
                        remedy='a set with a name of its own says what it is: '
                               '{kind: cooper, place: ...}')
    if not entry.place:
        raise BadOption(f'task.sets.{name}.place is empty', value="''", limit='a folder')
    if not 0 < entry.weight < math.inf:
        raise BadOption(f'task.sets.{name}.weight is out of range', value=entry.weight,
                        limit='> 0')


def corpus_options(values: Mapping[str, Any]) -> CorpusOptions:
    """Check the ``task`` part of a training file.

    Raises:
        BadOption: an unknown or missing setting, or a value out of its range.
    """
    return build(CorpusOptions, values, 'task')


@dataclass(frozen=True)
class Corpus:
    """One open set as sequences see it.

    Attributes:
        name: of the set.
        rows: the data.
        items: sample number, mirrored or not, random numbers -> items.
        tokens: tokens of a sample. A drawing is measured by the header of its picture; of a
            conversation every picture is decoded.
    """

    name: str
    rows: DrawSet | TalkSet
    items: Callable[[int, bool, torch.Generator], list[Item]]
    tokens: Callable[[int], int]


@dataclass(frozen=True)
class ItemMaker:
    """Turns samples of the readers into items of the network."""

    policy: Policy
    options: CorpusOptions

    def corpus(self, name: str, entry: SetOptions) -> Corpus:
        """Open a set of the mixture."""
        (vae, vit), place, kind = self.rules, Path(entry.place), entry.kind or name
        if kind == COOPER:
            talks = TalkSet(place)
            return Corpus(name, talks, lambda index, _, noise: self.talk(
                talks.sample(index), noise), lambda index: self.talk_tokens(talks.sample(index)))
        drawings = open_set(draw_kind(kind), place, vae, vit)
        return Corpus(name, drawings, lambda index, mirrored, noise: self.drawing(
            drawings.sample(index, mirrored), noise), lambda index: self.draw_tokens(
                drawings.kind.kind, drawings.size(index)))

    @property
    def rules(self) -> tuple[ImageTransform, ImageTransform]:
        """Resize rules of the VAE and the vision encoder."""
        card = self.policy.loaded.card
        return ImageTransform(*card.vae_transform), ImageTransform(*card.vit_transform)

    def drawing(self, sample: DrawSample, noise: torch.Generator) -> list[Item]:
        """Picture (VAE, ViT), prompt, target (reference 10.1)."""
        return [self.latent(sample.vae, noise), VisionItem(torch.from_numpy(sample.vit)),
                self.prompt(sample.kind), self.latent(sample.target, noise, loss=True)]

    def talk(self, sample: TalkSample, noise: torch.Generator) -> list[Item]:
        """System prompt, then the conversation in file order (reference 10.2)."""
        items: list[Item] = [self.text(self.policy.prompts.interleave_system)]
        for entry, latents in self._shown(sample):
            if entry.text is not None:
                items.append(self.text(entry.text, entry.need_loss))
            elif entry.image is not None:
                vae, vit = self.rules  # each of the picture as it is (reference 5.2)
                items += [self.latent(vae(entry.image), noise)] if latents else []
                items.append(VisionItem(torch.from_numpy(vit(entry.image))))
        return items

    def _shown(self, sample: TalkSample) -> list[tuple[Any, bool]]:
        """Entries, and whether a picture is shown through the VAE: maps come after a turn."""
        written, found = False, []
        for entry in sample.items:
            found.append((entry, self.options.map_latents or not written))
            written = written or entry.need_loss
        return found

    def talk_tokens(self, sample: TalkSample) -> int:
        """Tokens of a conversation."""
        texts = [self.text(self.policy.prompts.interleave_system)]
        texts += [self.text(entry.text) for entry in sample.items if entry.text is not None]
        total = sum(len(item.ids) + MARKERS for item in texts)
        for entry, latents in self._shown(sample):
            if entry.image is not None:
                total += self._picture_tokens(entry.image.shape[1::-1], latents)
        return total

    def draw_tokens(self, kind: str, size: tuple[int, int]) -> int:
        """Tokens of a drawing sample whose picture is (width, height)."""
        target = self._grid(self.rules[0], size, self.policy.loaded.config.pixels_per_latent_token)
        return self._picture_tokens(size, True) + target + len(self.prompt(kind).ids) + 2 * MARKERS

    def _picture_tokens(self, size: Sequence[int], latents: bool) -> int:
        config, (vae, vit) = self.policy.loaded.config, self.rules
        seen = self._grid(vit, size, config.vit.patch_size) + MARKERS
        return seen + (self._grid(vae, size, config.pixels_per_latent_token) + MARKERS
                       if latents else 0)

    @staticmethod
    def _grid(rule: ImageTransform, size: Sequence[int], patch: int) -> int:
        width, height = rule.size(size[0], size[1])
        return (width // patch) * (height // patch)

    def prompt(self, kind: str) -> TextItem:
        """What asks for a map."""
        prompts = self.policy.prompts
        return self.text(prompts.depth if kind == DEPTH else prompts.segmentation)

    def text(self, text: str, loss: bool = False) -> TextItem:
        """A text segment."""
        return TextItem(self.policy.encode(text), loss)

    @torch.no_grad()
    def latent(self, pixels: np.ndarray, noise: torch.Generator, loss: bool = False) -> LatentItem:
        """Pixels ``[3, H, W]`` through the frozen autoencoder."""
        vae = self.policy.loaded.vae
        device = next(vae.parameters()).device
        height, width = (side // vae.config.downsample for side in pixels.shape[1:])
        drawn = torch.randn(1, vae.config.z_channels, height, width, generator=noise)
        latent = vae.encode(torch.from_numpy(np.ascontiguousarray(pixels))[None].to(device),
                            drawn.to(device) if self.options.sample_posterior else None)
        return LatentItem(latent[0].float().cpu(), loss)
