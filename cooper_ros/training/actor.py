"""Groups of sampled answers to questions, written side by side.

The members of a group are rows of one cache. Picture and question are read once and shared; every
decoding step feeds all rows that still write in one pass, those of several groups if so wished,
and every flow step all rows of a group that draw. What a row reads and what training later reads
are the same items (:mod:`cooper_ros.model.packing`), so the log-probabilities of both agree:
sampled ids are fed back as they are, never decoded and encoded again (quirk Q16), and maps are
shown through the ViT alone (Q7). A turn that neither looks nor answers ends its rollout (Q13).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any, Mapping, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cooper_ros.engine.answers import ANSWER_START, ToolCall, find_tool_call, has_answer
from cooper_ros.engine.drawing import DrawOptions
from cooper_ros.engine.engine import Parts
from cooper_ros.engine.events import DEPTH, SEGMENTATION, DepthMap, Map
from cooper_ros.engine.maps import MapMaker
from cooper_ros.engine.pictures import PictureReader
from cooper_ros.imaging.resize import ImageTransform, encoder_inputs, normalise
from cooper_ros.model.layout import MARKERS
from cooper_ros.model.packing import Item, LatentItem, TextItem, VisionItem, piece_of
from cooper_ros.runtime.base import Cursor
from cooper_ros.runtime.torch_runtime import TorchRuntime, TorchSession
from cooper_ros.training.batched import close_turn, draw_together, step_rows
from cooper_ros.training.rollouts import Group, Rollout, RolloutOptions, Turn

START = Cursor(0, 0)
BRANCHES = 3  # rows per map: everything, and the two readings that guidance compares with
Asked = tuple[np.ndarray, str, torch.Generator]


class Actor:
    """Samples groups; the network may be trained between calls, as nothing is kept.

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
        self.maker = MapMaker(pictures, card.depth_range_m, card.palette, card.drawing.depth_edges)

    def group(self, image: np.ndarray, question: str, generator: torch.Generator) -> Group:
        """Sample one group, see :meth:`groups`."""
        return self.groups([(image, question, generator)])[0]

    def groups(self, asked: Sequence[Asked]) -> list[Group]:
        """Sample one group per question, ``together`` of them side by side.

        Args:
            asked: image uint8 ``[H, W, 3]``, question in plain text, and the source of the
                group's text and map noise.
        """
        self.runtime.network.eval()
        device, size = self.runtime.device.type, self.options.together
        with torch.no_grad(), torch.autocast(device, enabled=False):
            return [group for first in range(0, len(asked), size)
                    for group in _SideBySide(self, asked[first:first + size]).run()]

    def text(self, text: str) -> TextItem:
        """A text segment."""
        return TextItem(tuple(self.parts.codec.encode(text)))

    def shown(self, drawn: Map) -> VisionItem:
        """A drawn map as it is shown to the network: colours, through the ViT alone."""
        rgb = drawn.colour if isinstance(drawn, DepthMap) else drawn.rgb
        small = self.vit_rule.resize(self.vae_rule.resize(Image.fromarray(rgb)))
        return VisionItem(torch.from_numpy(normalise(np.asarray(small))))


class _SideBySide:
    """Groups that are written together; rollout ``i`` of group ``n`` is row ``n * group + i``.

    Behind them are the rows that guidance reads while maps are drawn: groups draw one after the
    other, and need them no longer than that.
    """

    def __init__(self, actor: Actor, asked: Sequence[Asked]) -> None:
        self.codec, self.options, self.runtime = actor.parts.codec, actor.options, actor.runtime
        self.members = [_GroupUnderWay(actor, *one) for one in asked]
        self.count = self.options.group * len(asked)
        guided = actor.drawing.guides_text or actor.drawing.guides_image
        branches = BRANCHES - 1 if guided else 0
        session = self.runtime.session(rows=self.count + branches * self.options.drawn_together,
                                       capacity=max(member.capacity for member in self.members))
        assert isinstance(session, TorchSession)
        self.session = session
        for number, member in enumerate(self.members):
            member.enter(session, number * self.options.group, self.count)

    def run(self) -> list[Group]:
        """Read, share, write, look, write."""
        for member in self.members:
            member.begin()
        active = list(range(self.count))
        for remaining in range(self.options.most_turns - 1, -1, -1):
            starts = {row: self.session.cursor(row) for row in active}
            self._write(active)
            active = [row for member in self.members
                      for row in member.look(active, starts)] if remaining else []
        return [Group(tuple(member.prefix), tuple(member.rollouts)) for member in self.members]

    def _write(self, rows: Sequence[int]) -> None:
        """Let all rows write one turn; each step feeds one token of every open row.

        The token of the last allowed step is not part of the turn, as when the engine answers.
        """
        codec, limit = self.codec, self.options.max_turn_tokens
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
            if not turn.ended:
                del turn.ids[-1], turn.log_probs[-1]
            self.members[row // self.options.group].keep(row, turn)

    def _sample(self, rows: Sequence[int], fed: Sequence[int]) -> tuple[list[int], list[float]]:
        logits = step_rows(self.runtime, self.session, rows, fed)  # [R, V]
        log_probs = torch.log_softmax(logits / self.options.temperature, dim=-1).cpu()
        counts = Counter(row // self.options.group for row in rows)
        parts = log_probs.exp().split([counts[number] for number in sorted(counts)])
        drawn = torch.cat([torch.multinomial(part, 1, generator=self.members[number].generator)
                           for number, part in zip(sorted(counts), parts)])  # [R, 1]
        return drawn[:, 0].tolist(), log_probs.gather(1, drawn)[:, 0].tolist()


class _GroupUnderWay:
    """One question, its rollouts so far, and their rows of the shared cache."""

    session: TorchSession
    rows: range
    all_rows: int

    def __init__(self, actor: Actor, image: np.ndarray, question: str,
                 generator: torch.Generator) -> None:
        self.actor, self.generator, self.options = actor, generator, actor.options
        self.runtime, self.draw_options = actor.runtime, actor.drawing
        inputs = encoder_inputs(image, actor.vae_rule, actor.vit_rule)
        self.grid = tuple(side // self.runtime.config.pixels_per_latent_token
                          for side in inputs.vae.shape[1:])
        self.rgb, vision = inputs.pixels, VisionItem(torch.from_numpy(inputs.vit))
        prompts, style = actor.parts.prompts, self.options.style
        systems = {'interleaved': prompts.interleave_system, 'text': prompts.think_system,
                   'maps': prompts.image_system}
        picture: list[Item] = [vision]
        if style != 'text':
            latent = self.runtime.encode_image(torch.from_numpy(inputs.vae), None)
            picture = [LatentItem(latent.cpu().float().clone()), vision]
        self.prefix: list[Item] = [actor.text(systems[style]), *picture, actor.text(question)]
        self.no_image: list[Item] = [self.prefix[0], self.prefix[-1]]
        self.rollouts = [Rollout() for _ in range(self.options.group)]
        self.capacity = self._capacity(vision)

    def enter(self, session: TorchSession, first: int, count: int) -> None:
        """Take rows ``first`` and on of a cache that holds ``count`` rollouts."""
        self.session, self.all_rows = session, count
        self.rows = range(first, first + self.options.group)

    def begin(self) -> None:
        """Read what all rollouts share."""
        first = self.rows[0]
        for item in self.prefix:
            self._read(first, item)
        if self.options.style == 'maps':
            self._both_maps(first)
        for row in self.rows[1:]:
            self.session.share(first, row)

    def _capacity(self, vision: VisionItem) -> int:
        actor, prompts = self.actor, self.actor.parts.prompts
        texts = list(map(actor.text, (prompts.reflection, prompts.depth, prompts.segmentation,
                                      ANSWER_START)))
        maps, turns = self.options.most_maps, self.options.most_turns
        drawn = self.grid[0] * self.grid[1] + MARKERS if maps else 0
        return (self._tokens(self.prefix) + turns * (self.options.max_turn_tokens + MARKERS)
                + max(1, maps) * self._tokens(texts) + maps * self._tokens([vision]) + drawn)

    def _tokens(self, items: Sequence[Item]) -> int:
        return sum(piece_of(item, self.runtime.config).tokens for item in items)

    def _read(self, row: int, item: Item) -> None:
        if isinstance(item, TextItem):
            self.session.append_text(row, item.ids)
        elif isinstance(item, VisionItem):
            self.session.append_vision(row, self.runtime.encode_vision(item.pixels))
        elif isinstance(item, LatentItem):
            self.session.append_latents(row, self.runtime.embed_latents(item.latent))

    def keep(self, row: int, turn: Turn) -> None:
        """Add a written turn to the rollout of a row."""
        stream, rollout = self.actor.parts.codec.stream(), self._rollout(row)
        start = ANSWER_START if self.options.style == 'maps' else ''
        turn.text = start + ''.join(map(stream.push, turn.ids)) + stream.finish()
        rollout.turns.append(turn)
        rollout.items.append(TextItem(tuple(turn.ids), loss=True))

    def _rollout(self, row: int) -> Rollout:
        return self.rollouts[row - self.rows[0]]

    def look(self, active: Sequence[int], starts: Mapping[int, Cursor]) -> list[int]:
        """Draw the maps that the last turns of our active rows ask for, as many at once as there
        are rows for; returns the rows that go on."""
        calls = {row: call for row in active if row in self.rows
                 if (call := self._call(row)) is not None}
        twins = self._twins(list(calls))
        rows, size = list(twins), self.options.drawn_together
        noise = self._noise(len(rows))
        for first in range(0, len(rows), size):
            part = rows[first:first + size]
            for place, row in enumerate(part):
                close_turn(self.session, row, self.actor.parts.codec.end)
                self._read_branches(self._branches(row, place), starts[row],
                                    [self.actor.text(calls[row].rest)],
                                    [*self.no_image, *self._rollout(row).items])
            drawn = self._draw({row: calls[row].kind for row in part}, noise[first:first + size])
            for row, found in zip(part, drawn):
                self._show(row, twins[row], found)
        return list(calls)

    def _call(self, row: int) -> ToolCall | None:
        text = self._rollout(row).turns[-1].text
        return None if has_answer(text) else find_tool_call(text)

    def _twins(self, rows: Sequence[int]) -> dict[int, list[int]]:
        """Rows that draw, each with those that would draw the very same map."""
        if not self.options.common_noise:
            return {row: [] for row in rows}
        written = defaultdict[tuple[Any, ...], list[int]](list)
        for row in rows:
            written[tuple((turn.text, *turn.ids) for turn in self._rollout(row).turns)].append(row)
        return {first: others for first, *others in written.values()}

    def _show(self, row: int, others: Sequence[int], drawn: Map) -> None:
        """Let a row read its map, and give its twins both."""
        seen = [self.actor.shown(drawn), self.actor.text(self.actor.parts.prompts.reflection)]
        for item in seen:
            self._read(row, item)
        for other in others:
            self.session.share(row, other)
        for member in (row, *others):
            self._rollout(member).maps.append(drawn)
            self._rollout(member).items += seen

    def _both_maps(self, row: int) -> None:
        """Draw both maps behind the question, in one row."""
        prompts = self.actor.parts.prompts
        for kind, prompt in ((DEPTH, prompts.depth), (SEGMENTATION, prompts.segmentation)):
            start = self.session.cursor(row)
            asked = self.actor.text(prompt)
            self._read(row, asked)
            self._read_branches(self._branches(row, 0), start, [], [*self.no_image, asked])
            drawn = self._draw({row: kind}, self._noise(1))[0]
            self._read(row, self.actor.shown(drawn))
            self.prefix += [asked, self.actor.shown(drawn)]
            self.no_image += [asked, self.actor.shown(drawn)]
            for rollout in self.rollouts:
                rollout.maps.append(drawn)
        answer = self.actor.text(ANSWER_START)
        self._read(row, answer)
        self.prefix.append(answer)

    def _branches(self, row: int, place: int) -> tuple[int, int, int]:
        """The rows of the map that is drawn at a place: everything, without the last text,
        without the picture."""
        text_row = self.all_rows + place
        return row, text_row, text_row + self.options.drawn_together

    def _read_branches(self, branches: tuple[int, int, int], start: Cursor,
                       no_text: Sequence[Item], no_image: Sequence[Item]) -> None:
        """Read what guidance compares with, if it does."""
        row, text_row, image_row = branches
        if self.draw_options.guides_text:
            self.session.share(row, text_row)
            self.session.rewind(text_row, start)
            for item in no_text:
                self._read(text_row, item)
        if self.draw_options.guides_image:
            self.session.rewind(image_row, START)
            for item in no_image:
                self._read(image_row, item)

    def _noise(self, maps: int) -> Tensor:
        """What maps start from, ``[maps, N, P]``."""
        starts = min(maps, 1) if self.options.common_noise else maps
        noise = torch.randn(starts, self.grid[0] * self.grid[1], self.actor.maker.token_size,
                            generator=self.generator)
        return noise.expand(maps, -1, -1)

    def _draw(self, kinds: Mapping[int, str], noise: Tensor) -> list[Map]:
        """One map behind every given row, from noise ``[maps, N, P]``."""
        tokens = draw_together(self.runtime, self.session, self.draw_options,
                               [self._branches(row, place) for place, row in enumerate(kinds)],
                               noise, self.grid)
        return [self.actor.maker.finish(kind, drawn, self.grid, self.rgb)
                for kind, drawn in zip(kinds.values(), tokens)]
