"""One request under way: reads pieces, lets the model write and draw, reports every step.

A :class:`Talk` knows how to do the three primitive things (read, write a turn, draw a map); the
routes in :mod:`cooper_ros.engine.reasoning` say in which order. Everything that exists so far
stays in ``turns`` and ``maps``, so that a cancelled request can still return its best.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Generator, Sequence

import torch
from torch import Tensor

from cooper_ros.engine import contexts
from cooper_ros.engine.contexts import ImagePiece, Piece, Reader, TextPiece
from cooper_ros.engine.drawing import DrawOptions
from cooper_ros.engine.events import (
    Event,
    Loading,
    Map,
    MapFinished,
    MapStarted,
    MapStep,
    TextDelta,
    Timings,
)
from cooper_ros.engine.limits import Limits
from cooper_ros.engine.maps import MapMaker
from cooper_ros.engine.pictures import Picture
from cooper_ros.engine.prompts import Prompts
from cooper_ros.engine.sampling import TextOptions, choose_token, generator_for
from cooper_ros.engine.tokens import TextCodec

Steps = Generator[Event, None, None]


@dataclass
class Turn:
    """One text turn of the model; grows while it is written.

    Attributes:
        text: what it says.
        log_probability: sum over the chosen tokens.
        tokens: how many were chosen.
        cut: whether the limit ended it, and not the model.
    """

    text: str = ''
    log_probability: float = 0.0
    tokens: int = 0
    cut: bool = False

    def confidence(self) -> float:
        """Geometric mean probability of the chosen tokens, 0..1."""
        return math.exp(self.log_probability / self.tokens) if self.tokens else 0.0


def text_piece(codec: TextCodec, text: str) -> TextPiece:
    """A text segment as the network reads it."""
    return TextPiece(tuple(codec.encode(text)))


@dataclass(frozen=True)
class Branches:
    """The three readings that guided drawing compares."""

    full: Sequence[Piece]
    no_text: Sequence[Piece]
    no_image: Sequence[Piece]


@dataclass
class Talk:
    """State and tools of one request."""

    request_id: str
    codec: TextCodec
    prompts: Prompts
    reader: Reader
    pictures: Sequence[Picture]
    question: str
    text_options: TextOptions
    draw_options: DrawOptions
    maker: MapMaker
    limits: Limits
    seed: int
    turns: list[Turn] = field(default_factory=list)
    maps: list[Map] = field(default_factory=list)
    noises: Sequence[Tensor] | None = None  # given start noise, for parity runs
    read_s: float = 0.0
    text_s: float = 0.0
    draw_s: float = 0.0
    flow_steps: int = 0

    def text(self, text: str) -> TextPiece:
        """A text segment as the network reads it."""
        return text_piece(self.codec, text)

    def images(self, *, latents: bool) -> list[Piece]:
        """The request's pictures: the ViT block each, behind the VAE block if ``latents``."""
        pieces: list[Piece] = []
        for picture in self.pictures:
            pieces += [picture.latents, picture.vision] if latents else [picture.vision]
        return pieces

    def write(self, context: Sequence[Piece]) -> Steps:
        """Let the model write one turn after ``context``; it is appended to ``turns``.

        The cache is rewound by the next read: a turn that stays in the conversation is read again
        as an ordinary segment, as published (reference section 6.3).
        """
        if any(isinstance(piece, ImagePiece) and piece.latent for piece in context):
            yield from self._load_drawing()
        self._read(contexts.FULL, context)
        turn = Turn()
        self.turns.append(turn)
        started = time.monotonic()
        try:
            yield from self._decode(turn)
        finally:
            self.text_s += time.monotonic() - started

    def draw(self, kind: str, branches: Branches) -> Steps:
        """Draw a map of the last picture; it is appended to ``maps``.

        Raises:
            BadOption: the map would have an empty range.
        """
        self.maker.check(kind)
        options, number = self.draw_options, len(self.turns)
        yield from self._load_drawing()
        yield MapStarted(self.request_id, self.limits.elapsed(), number, kind, options.steps)
        rows = self._read_branches(branches)
        started = time.monotonic()
        drawn, picture = self._noise(len(self.maps)), self.pictures[-1]
        flow = options.flow(self.reader.session, rows, drawn, picture.grid, self.limits)
        for step, drawn in enumerate(flow, start=1):  # noqa: B007  the last one is the map
            self.flow_steps += 1
            yield MapStep(self.request_id, self.limits.elapsed(), number, kind, step,
                          options.steps)
        finished = self.maker.finish(kind, drawn, picture.grid, picture.rgb)
        self.draw_s += time.monotonic() - started
        self.maps.append(finished)
        yield MapFinished(self.request_id, self.limits.elapsed(), number, finished)

    def see(self, drawn: Map) -> Piece:
        """A drawn map as the network is shown it: ViT block only (reference quirk Q7)."""
        return self.maker.show(drawn)

    def timings(self) -> Timings:
        """Seconds and counts so far."""
        return Timings(total_s=self.limits.elapsed(), read_s=self.read_s, text_s=self.text_s,
                       draw_s=self.draw_s, read_tokens=self.reader.read_tokens,
                       reused_tokens=self.reader.reused_tokens,
                       text_tokens=sum(turn.tokens for turn in self.turns),
                       flow_steps=self.flow_steps)

    def _load_drawing(self) -> Steps:
        """Tell about every tenth; stopping between two tensors loses nothing."""
        told = -1
        for step in self.maker.pictures.runtime.load_drawing():
            if (tenth := 10 * step.done // step.total) > told:
                told = tenth
                yield Loading(self.request_id, self.limits.elapsed(), step.done / step.total,
                              step.resident)
            self.limits.check()

    def _read(self, row: int, pieces: Sequence[Piece]) -> None:
        started = time.monotonic()
        try:
            self.reader.read(row, pieces, self.limits.check)
        finally:
            self.read_s += time.monotonic() - started

    def _read_branches(self, branches: Branches) -> tuple[int, ...]:
        """Read only the branches that the guidance scales will use."""
        self._read(contexts.FULL, branches.full)
        if self.draw_options.guides_text:
            self._read(contexts.NO_TEXT, branches.no_text)
        if self.draw_options.guides_image:
            self._read(contexts.NO_IMAGE, branches.no_image)
        return contexts.FULL, contexts.NO_TEXT, contexts.NO_IMAGE

    def _decode(self, turn: Turn) -> Steps:
        """Decode until the end token or the limit; each forward pass feeds one token.

        What the last allowed pass chooses is never fed, and not part of the turn, as published.
        """
        session, options = self.reader.session, self.text_options
        generator = generator_for(self.seed, 'text', len(self.turns))
        stream = self.codec.stream()
        token = self.codec.begin
        for left in range(options.max_tokens - 1, -1, -1):
            self.limits.check()
            logits = session.step(contexts.FULL, token)
            token, probability = choose_token(logits, options, generator)
            turn.tokens += 1
            turn.log_probability += math.log(max(probability, 1e-12))
            if token == self.codec.end or not left:
                break
            delta = stream.push(token)
            turn.text += delta
            if delta:
                yield TextDelta(self.request_id, self.limits.elapsed(), len(self.turns), delta)
        turn.cut = token != self.codec.end and not stream.ended()
        tail = stream.finish()
        turn.text += tail
        if tail:
            yield TextDelta(self.request_id, self.limits.elapsed(), len(self.turns), tail)

    def _noise(self, index: int) -> Tensor:
        """Start noise ``[N, P]``: drawn on the CPU in float32, as published."""
        if self.noises is not None:
            return self.noises[index]
        rows, columns = self.pictures[-1].grid
        generator = generator_for(self.seed, 'map', index)
        return torch.randn(rows * columns, self.maker.token_size, generator=generator)
