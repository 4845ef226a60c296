"""Rollouts: a group of sampled answers to one question, written side by side.

The members of a group are rows of one cache. Picture and question are read once and shared; every
decoding step feeds all rows that still write in one pass, and every flow step all that draw. What
a row reads and what training later reads are the same items (:mod:`cooper_ros.model.packing`), so
the log-probabilities of both agree: sampled ids are fed back as they are, never decoded and
encoded again (quirk Q16), and maps are shown through the ViT alone (Q7). A turn that neither looks
nor answers ends its rollout (Q13).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Mapping, Sequence

import numpy as np
import torch
from PIL import Image

from cooper_ros.engine.answers import find_tool_call, has_answer
from cooper_ros.engine.drawing import DrawOptions
from cooper_ros.engine.engine import Parts
from cooper_ros.engine.events import DEPTH, SEGMENTATION, DepthMap, Map
from cooper_ros.engine.maps import MapMaker
from cooper_ros.engine.pictures import PictureReader
from cooper_ros.errors import BadOption
from cooper_ros.imaging.resize import ImageTransform, encoder_inputs, normalise
from cooper_ros.model.packing import Item, LatentItem, TextItem, VisionItem, piece_of
from cooper_ros.runtime.base import Cursor
from cooper_ros.runtime.torch_runtime import MARKERS, TorchRuntime, TorchSession
from cooper_ros.training.batched import close_turn, draw_together, step_rows
from cooper_ros.training.rewards import STYLES

START = Cursor(0, 0)
BRANCHES = 3  # rows per rollout: everything, and the two readings that guidance compares with
ANSWER_START = '<answer>'


@dataclass(frozen=True)
class RolloutOptions:
    """How a group is sampled; defaults as published (reference section 11.5).

    Attributes:
        style: ``interleaved``, COOPER's own; ``text``, one thinking turn without maps; ``maps``,
            an answer after both maps, which the whole group shares.
        group: rollouts per question.
        max_turns: text turns at most; one map fewer.
        max_turn_tokens: tokens of one turn.
        temperature: of the softmax that is sampled and scored. There is no nucleus: it would
            make the scored distribution another one than the sampled one.
    """

    style: str = 'interleaved'
    group: int = 8
    max_turns: int = 3
    max_turn_tokens: int = 4096
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.style not in STYLES:
            raise BadOption('no such rollout style', value=self.style, limit=', '.join(STYLES))
        for name, least in (('group', 2), ('max_turns', 1), ('max_turn_tokens', 1)):
            if getattr(self, name) < least:
                raise BadOption(f'{name} is too small', value=getattr(self, name),
                                limit=f'>= {least}')
        if not self.temperature > 0:
            raise BadOption('temperature must be positive', value=self.temperature, limit='> 0')


@dataclass
class Turn:
    """One turn as it was sampled.

    Attributes:
        ids: sampled ids without the end token.
        log_probs: of every sampled token, the end token included, when it was sampled.
        ended: whether the end token was sampled; False when the length limit came first.
        text: the ids as text.
    """

    ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    ended: bool = False
    text: str = ''


@dataclass
class Rollout:
    """One member of a group.

    Attributes:
        turns: what it wrote.
        items: everything behind the group's prefix, for training; written turns carry the loss.
        maps: what it drew.
    """

    turns: list[Turn] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    maps: list[Map] = field(default_factory=list)

    @property
    def texts(self) -> list[str]:
        """The turns as text."""
        return [turn.text for turn in self.turns]


@dataclass(frozen=True)
class Group:
    """All rollouts of one question behind their common prefix."""

    prefix: tuple[Item, ...]
    rollouts: tuple[Rollout, ...]


class Actor:
    """Samples groups with a network that may be trained in between: nothing is kept.

    Args:
        parts: runtime (of the network that trains), codec, prompts and card.
        options: how to sample.
        draw: how to draw.
    """

    def __init__(self, parts: Parts, options: RolloutOptions, draw: DrawOptions) -> None:
        assert isinstance(parts.runtime, TorchRuntime)
        self.parts, self.options, self.drawing = parts, options, draw
        self.runtime = parts.runtime
        card = parts.card
        self.vae_rule = ImageTransform(*card.vae_transform)
        self.vit_rule = ImageTransform(*card.vit_transform)
        pictures = PictureReader(self.runtime, self.vae_rule, self.vit_rule, False, 2**31)
        self.maker = MapMaker(pictures, card.depth_range_m, card.palette)

    def group(self, image: np.ndarray, question: str, generator: torch.Generator) -> Group:
        """Sample one group.

        Args:
            image: uint8 ``[H, W, 3]``.
            question: plain text.
            generator: source of text and of map noise.
        """
        self.runtime.network.eval()
        device = self.runtime.device.type
        with torch.no_grad(), torch.autocast(device, enabled=False):
            return _GroupUnderWay(self, image, question, generator).run()

    def text(self, text: str) -> TextItem:
        """A text segment."""
        return TextItem(tuple(self.parts.codec.encode(text)))

    def shown(self, drawn: Map) -> VisionItem:
        """A drawn map as it is shown to the network: colours, through the ViT alone."""
        rgb = drawn.colour if isinstance(drawn, DepthMap) else drawn.rgb
        small = self.vit_rule.resize(self.vae_rule.resize(Image.fromarray(rgb)))
        return VisionItem(torch.from_numpy(normalise(np.asarray(small))))


class _GroupUnderWay:
    """The state of one call of :meth:`Actor.group`."""

    def __init__(self, actor: Actor, image: np.ndarray, question: str,
                 generator: torch.Generator) -> None:
        self.actor, self.generator, self.options = actor, generator, actor.options
        self.runtime, self.draw_options = actor.runtime, actor.drawing
        inputs = encoder_inputs(image, actor.vae_rule, actor.vit_rule)
        latent = self.runtime.encode_image(torch.from_numpy(inputs.vae), None).cpu().clone()
        self.grid = tuple(side // self.runtime.config.pixels_per_latent_token
                          for side in inputs.vae.shape[1:])
        vision = VisionItem(torch.from_numpy(inputs.vit))
        prompts, style = actor.parts.prompts, self.options.style
        systems = {'interleaved': prompts.interleave_system, 'text': prompts.think_system,
                   'maps': prompts.image_system}
        picture = [vision] if style == 'text' else [LatentItem(latent), vision]
        self.prefix: list[Item] = [actor.text(systems[style]), *picture, actor.text(question)]
        self.no_image: list[Item] = [self.prefix[0], self.prefix[-1]]
        self.rollouts = [Rollout() for _ in range(self.options.group)]
        rows = self.options.group * (BRANCHES if self.draw_options.guides_text else 1)
        session = self.runtime.session(rows=rows,
                                       capacity=self._capacity(vision))
        assert isinstance(session, TorchSession)
        self.session = session

    def run(self) -> Group:
        """Read, share, write, look, write."""
        for item in self.prefix:
            self._read(0, item)
        if self.options.style == 'maps':
            self._both_maps()
        for row in range(1, self.options.group):
            self.session.share(0, row)
        active = list(range(self.options.group))
        turns = self.options.max_turns if self.options.style == 'interleaved' else 1
        for remaining in range(turns - 1, -1, -1):
            starts = {row: self.session.cursor(row) for row in active}
            self._write(active)
            active = self._look(active, starts) if remaining else []
        return Group(tuple(self.prefix), tuple(self.rollouts))

    def _capacity(self, vision: VisionItem) -> int:
        actor, prompts = self.actor, self.actor.parts.prompts
        config = self.runtime.config
        between = [vision, *map(actor.text, (prompts.reflection, prompts.depth,
                                             prompts.segmentation, ANSWER_START))]
        per_turn = self.options.max_turn_tokens + MARKERS + sum(
            piece_of(item, config).tokens for item in between)
        fixed = sum(piece_of(item, config).tokens for item in self.prefix)
        drawn = self.grid[0] * self.grid[1] + MARKERS
        return fixed + max(2, self.options.max_turns) * per_turn + drawn

    def _read(self, row: int, item: Item) -> None:
        if isinstance(item, TextItem):
            self.session.append_text(row, item.ids)
        elif isinstance(item, VisionItem):
            self.session.append_vision(row, self.runtime.encode_vision(item.pixels))
        elif isinstance(item, LatentItem):
            self.session.append_latents(row, self.runtime.embed_latents(item.latent))

    def _write(self, rows: Sequence[int]) -> None:
        """Let all rows write one turn; each step feeds one token of every open row."""
        codec, limit = self.actor.parts.codec, self.options.max_turn_tokens
        turns = {row: Turn() for row in rows}
        open_rows = list(rows)
        while open_rows:
            fed = [turns[row].ids[-1] if turns[row].ids else codec.begin for row in open_rows]
            for row, token, log_prob in zip(open_rows, *self._sample(open_rows, fed)):
                turns[row].log_probs.append(log_prob)
                turns[row].ended = token == codec.end
                turns[row].ids += [] if turns[row].ended else [token]
            open_rows = [row for row in open_rows
                         if not turns[row].ended and len(turns[row].ids) < limit]
        for row, turn in turns.items():
            self._keep(row, turn)

    def _sample(self, rows: Sequence[int], fed: Sequence[int]) -> tuple[list[int], list[float]]:
        logits = step_rows(self.runtime, self.session, rows, fed)  # [R, V]
        log_probs = torch.log_softmax(logits / self.options.temperature, dim=-1).cpu()
        drawn = torch.multinomial(log_probs.exp(), 1, generator=self.generator)  # [R, 1]
        return drawn[:, 0].tolist(), log_probs.gather(1, drawn)[:, 0].tolist()

    def _keep(self, row: int, turn: Turn) -> None:
        stream = self.actor.parts.codec.stream()
        start = ANSWER_START if self.options.style == 'maps' else ''
        turn.text = start + ''.join(map(stream.push, turn.ids)) + stream.finish()
        self.rollouts[row].turns.append(turn)
        self.rollouts[row].items.append(TextItem(tuple(turn.ids), loss=True))

    def _look(self, rows: Sequence[int], starts: Mapping[int, Cursor]) -> list[int]:
        """Draw what the last turns ask for, all at once; returns the rows that go on."""
        asked = {}
        for row in rows:
            turn = self.rollouts[row].turns[-1]
            call = None if has_answer(turn.text) else find_tool_call(turn.text)
            if call is not None:
                end = self.actor.parts.codec.end
                close_turn(self.session, row, [end] if turn.ended else [*turn.ids[-1:], end])
                self._read_branches(row, starts[row], [self.actor.text(call.rest)],
                                    [*self.no_image, *self.rollouts[row].items])
                asked[row] = call.kind
        for row, drawn in zip(asked, self._draw(asked)):
            seen = [self.actor.shown(drawn), self.actor.text(self.actor.parts.prompts.reflection)]
            for item in seen:
                self._read(row, item)
            self.rollouts[row].maps.append(drawn)
            self.rollouts[row].items += seen
        return list(asked)

    def _both_maps(self) -> None:
        """Draw both maps behind the question, in row 0."""
        prompts = self.actor.parts.prompts
        for kind, prompt in ((DEPTH, prompts.depth), (SEGMENTATION, prompts.segmentation)):
            start = self.session.cursor(0)
            asked = self.actor.text(prompt)
            self._read(0, asked)
            self._read_branches(0, start, [], [*self.no_image, asked])
            drawn = self._draw({0: kind})[0]
            self._read(0, self.actor.shown(drawn))
            self.prefix += [asked, self.actor.shown(drawn)]
            self.no_image += [asked, self.actor.shown(drawn)]
            for rollout in self.rollouts:
                rollout.maps.append(drawn)
        answer = self.actor.text(ANSWER_START)
        self._read(0, answer)
        self.prefix.append(answer)

    def _branches(self, row: int) -> tuple[int, int, int]:
        """The rows of a rollout: everything, without the last text, without the picture."""
        group = self.options.group
        return row, group + row, 2 * group + row

    def _read_branches(self, row: int, start: Cursor, no_text: Sequence[Item],
                       no_image: Sequence[Item]) -> None:
        """Read what guidance compares with, if it does."""
        _, text_row, image_row = self._branches(row)
        if self.draw_options.guides_text:
            self.session.share(row, text_row)
            self.session.rewind(text_row, start)
            for item in no_text:
                self._read(text_row, item)
        if self.draw_options.guides_image:
            self.session.rewind(image_row, START)
            for item in no_image:
                self._read(image_row, item)

    def _draw(self, kinds: Mapping[int, str]) -> list[Map]:
        """One map behind every given row."""
        if not kinds:
            return []
        rows, columns = self.grid
        noise = torch.randn(len(kinds), rows * columns, self.actor.maker.token_size,
                            generator=self.generator)
        tokens = draw_together(self.runtime, self.session, self.draw_options,
                               [self._branches(row) for row in kinds], noise, self.grid)
        return [self.actor.maker.finish(kind, drawn, self.grid)
                for kind, drawn in zip(kinds.values(), tokens)]
