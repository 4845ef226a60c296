"""The engine: pictures and a question in, a stream of typed events out. No ROS in here."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Iterator, Sequence

import torch

from cooper_ros.config import CooperConfig
from cooper_ros.engine import reasoning, settings
from cooper_ros.engine.answers import answer_text, has_answer, says_answer, short_answer
from cooper_ros.engine.contexts import Reader
from cooper_ros.engine.events import (
    DEPTH,
    SEGMENTATION,
    Answer,
    DepthMap,
    Event,
    Failure,
    Map,
    SegmentationMap,
)
from cooper_ros.engine.limits import CancelToken, Limits
from cooper_ros.engine.one_request import OneRequest
from cooper_ros.engine.pictures import Picture, PictureLike, PictureReader
from cooper_ros.engine.prompts import Prompts, load_prompts
from cooper_ros.engine.question import clean_question
from cooper_ros.engine.talk import Steps, Talk, Turn, text_piece
from cooper_ros.engine.tokens import TextCodec
from cooper_ros.errors import (
    BadImage,
    Canceled,
    CooperError,
    DeadlineExceeded,
    ErrorCode,
    NoAnswer,
    OutOfMemory,
)
from cooper_ros.imaging.resize import ImageTransform
from cooper_ros.runtime.base import Runtime
from cooper_ros.runtime.card import ModelCard
from cooper_ros.runtime.load import load_runtime
from cooper_ros.runtime.memory import is_memory_error
from cooper_ros.runtime.notice import Tell, silent

_SPARE_TOKENS = 16  # for the begin and end tokens of a turn
_GROWTH = 1024  # caches grow in such steps, so that a longer follow-up still finds its frame


@dataclass(frozen=True)
class Parts:
    """What an engine is made of; tests and parity runs build it by hand.

    Attributes:
        runtime: runs the network.
        codec: text to ids and back.
        prompts: the texts the weights were trained with.
        card: what the model folder says about resizing, drawing, depth range and palette.
    """

    runtime: Runtime
    codec: TextCodec
    prompts: Prompts
    card: ModelCard


class CooperEngine:
    """Answers spatial questions about pictures, with the maps it reasoned from.

    One request runs at a time; calls from other threads wait. A thread that calls again before
    its own iterator of :meth:`ask` or :meth:`draw` is exhausted or closed gets ``Busy``. What was
    read for the last request stays in the cache, so a follow-up question on the same frame reads
    only its own words.
    """

    def __init__(self, parts: Parts, config: CooperConfig = CooperConfig()) -> None:
        self.parts, self.config = parts, config
        self._reader: Reader | None = None
        self._turn = OneRequest()

    @classmethod
    def from_pretrained(cls, folder: str | Path, config: CooperConfig = CooperConfig(),
                        tell: Tell = silent) -> CooperEngine:
        """Load a model folder (official layout, or ours).

        Args:
            folder: model folder.
            config: settings.
            tell: hears which runtime is chosen and why, and what is prepared; also later, from
                another thread, where the setting ``engine_missing`` is ``serve``.

        Raises:
            BadCheckpoint: a file, key or shape is missing, extra or wrong; named in the message.
            BadPrompts: ``prompts.yaml`` is missing or incomplete.
            NotReady: a package, a compiler or a GPU is missing for the runtime.
            EngineMismatch: compiled engines are missing, damaged or for something else.
        """
        prompts = load_prompts(Path(folder))
        loaded = load_runtime(Path(folder), config, tell)
        codec = TextCodec(loaded.encode, loaded.decode, loaded.begin, loaded.end)
        engine = cls(Parts(loaded.runtime, codec, prompts, loaded.card), config)
        if loaded.upgrade is not None:
            loaded.upgrade.start(engine.swap)
        return engine

    def swap(self, make: Callable[[], Runtime]) -> None:
        """Run the network another way from the next request on.

        Args:
            make: makes the other runtime; called between two requests. When it raises, the
                runtime stays.

        Raises:
            Busy: an iterator of this thread is unfinished.
        """
        with self._turn.taken('swap'):
            self._reader = None  # its cache belongs to the old one, and its memory is needed
            self.parts = replace(self.parts, runtime=make())

    def device_lost(self) -> bool:
        """Whether a fault of the GPU (an illegal access, a failed launch) has ended all its work
        in this process; only another process can go on then."""
        if not torch.cuda.is_initialized():
            return False
        try:
            torch.cuda.synchronize()
        except RuntimeError:
            return True
        return False

    def ask(self, images: PictureLike | Sequence[PictureLike], question: str, *,
            request_id: str | None = None, cancel: CancelToken | None = None,
            **changes: Any) -> Iterator[Event]:
        """Ask about one or several pictures; yields events as they happen.

        Args:
            images: uint8 RGB ``[H, W, 3]`` or PIL; maps are drawn of the last one.
            question: plain text.
            request_id: repeated in every event; made up if absent.
            cancel: stops the request within one token, one flow step or one piece of context
                (a text, a picture).
            **changes: settings of :class:`CooperConfig` for this request only, such as ``mode``,
                ``seed``, ``time_budget_s``, ``max_turns`` or ``flow_points``.

        Yields:
            Text and map events, then exactly one :class:`Answer` or :class:`Failure`. Errors of
            the request never raise.

        Raises:
            Busy: with the first event, while another iterator of this thread is unfinished.
                Exhaust or close every iterator: until then other threads wait for it.
        """
        request_id = request_id or uuid.uuid4().hex
        limits = Limits(cancel=cancel)
        with self._turn.taken(request_id):
            talk = None
            try:
                config = self.config.replaced(**changes)
                limits.budget_s = config.time_budget_s
                talk = self._talk(request_id, _as_list(images),
                                  clean_question(question, config.max_question_chars), config,
                                  limits)
                yield from _route(talk, config)
                yield _answer(talk, _verdict(talk, config, self.parts.card))
            except Exception as error:  # one request may fail, the engine goes on
                yield self._failed(request_id, limits, talk, error)

    def estimate_depth(self, image: PictureLike, **changes: Any) -> DepthMap:
        """Draw one depth map, without a question.

        Raises:
            CooperError: as :meth:`ask` would report it.
        """
        drawn = self._one_map(image, DEPTH, changes)
        assert isinstance(drawn, DepthMap)
        return drawn

    def segment(self, image: PictureLike, **changes: Any) -> SegmentationMap:
        """Draw one segmentation, without a question.

        Raises:
            CooperError: as :meth:`ask` would report it.
        """
        drawn = self._one_map(image, SEGMENTATION, changes)
        assert isinstance(drawn, SegmentationMap)
        return drawn

    def draw(self, image: PictureLike, kind: str, *, request_id: str = 'draw',
             cancel: CancelToken | None = None, **changes: Any) -> Iterator[Event]:
        """Draw one map, without a question; yields map events, then one :class:`Answer` that has
        no words.

        Raises:
            Busy: as :meth:`ask`; exhaust or close the iterator.
            CooperError: as :meth:`ask` would report it.
        """
        with self._turn.taken(request_id):
            config = self.config.replaced(**changes)
            limits = Limits(config.time_budget_s, cancel)
            try:
                talk = self._talk(request_id, [image], '', config, limits)
                yield from reasoning.one_map(talk, kind)
                yield _answer(talk, None)
            except Exception as error:
                raise self._as_cooper_error(error) from error

    def _one_map(self, image: PictureLike, kind: str, changes: dict[str, Any]) -> Map:
        *_, end = self.draw(image, kind, **changes)
        assert isinstance(end, Answer)
        return end.maps[0]

    def _talk(self, request_id: str, images: Sequence[PictureLike], question: str,
              config: CooperConfig, limits: Limits) -> Talk:
        if not images:
            raise BadImage('a question needs a picture', value=0, limit='at least 1')
        card = self.parts.card
        pictures = PictureReader(self.parts.runtime, ImageTransform(*card.vae_transform),
                                 ImageTransform(*card.vit_transform), config.sample_posterior,
                                 config.max_image_pixels)
        prepared = [pictures.prepare(image, config.seed, index)
                    for index, image in enumerate(images)]
        needed = config.context_tokens or _rounded_up(
            self._needed_tokens(prepared, question, config))
        return Talk(request_id=request_id, codec=self.parts.codec, prompts=self.parts.prompts,
                    reader=self._reader_for(needed), pictures=prepared, question=question,
                    text_options=settings.text_options(config, card),
                    draw_options=settings.draw_options(config, card),
                    maker=settings.map_maker(pictures, config, card), limits=limits,
                    seed=config.seed)

    def _needed_tokens(self, pictures: Sequence[Picture], question: str,
                       config: CooperConfig) -> int:
        """Cache slots for the longest course a request can take."""
        prompts = self.parts.prompts
        systems = prompts.interleave_system, prompts.image_system, prompts.think_system
        fixed = self._tokens(max(systems, key=self._tokens), question) + sum(
            picture.latents.tokens() + picture.vision.tokens() for picture in pictures)
        turns = config.max_turns * (settings.text_options(config, self.parts.card).max_tokens
                                    + _SPARE_TOKENS)
        last = pictures[-1]
        per_map = last.vision.tokens() + self._tokens(prompts.reflection, prompts.depth,
                                                      prompts.segmentation)
        return fixed + turns + max(2, config.max_turns) * per_map + last.latents.tokens()

    def _tokens(self, *texts: str) -> int:
        return sum(text_piece(self.parts.codec, text).tokens() for text in texts)

    def _reader_for(self, needed: int) -> Reader:
        """The kept reader, or a larger one when this request would not fit."""
        if self._reader is None or self._reader.capacity < needed:
            self._reader = None  # free the old cache before the new one is made
            self._reader = Reader(self.parts.runtime, needed)
        self._reader.reset_counters()
        return self._reader

    def _failed(self, request_id: str, limits: Limits, talk: Talk | None,
                error: Exception) -> Event:
        known = self._as_cooper_error(error)
        stopped = isinstance(known, (Canceled, DeadlineExceeded))
        if stopped and talk is not None and (talk.maps or any(turn.text for turn in talk.turns)):
            return _answer(talk, known)
        return Failure(request_id, limits.elapsed(), int(known.code), str(known))

    def _as_cooper_error(self, error: Exception) -> CooperError:
        """Name any error; what is not of our family costs the cache, in case it is damaged, and
        so does a lack of memory, for the cache never shrinks."""
        known = isinstance(error, CooperError)
        if not known or isinstance(error, OutOfMemory):
            self._reader = None
        if known:
            return error
        if is_memory_error(error):
            return OutOfMemory('no memory left for this request', value=str(error)[:200],
                               remedy='smaller pictures, fewer turns, or a smaller model')
        return CooperError(f'unexpected {type(error).__name__}', value=str(error)[:500],
                           remedy='please report this with the log')


def _as_list(images: PictureLike | Sequence[PictureLike]) -> list[PictureLike]:
    return list(images) if isinstance(images, (list, tuple)) else [images]  # type: ignore


def _route(talk: Talk, config: CooperConfig) -> Steps:
    if config.mode == 'maps':
        return reasoning.both_maps(talk)
    if config.mode == 'text':
        return reasoning.thinking(talk)
    if config.mode == 'direct':
        return reasoning.direct(talk)
    return reasoning.interleaved(talk, config.max_turns, config.repeat_stuck_turns)


def _verdict(talk: Talk, config: CooperConfig, card: ModelCard) -> NoAnswer | None:
    """Whether a finished route holds an answer; only the interleaved loop must tag it, and what
    a limit cut off must have come to it."""
    last = talk.turns[-1]
    said = says_answer(last.text) if last.cut else bool(answer_text(last.text))
    if has_answer(last.text) or (config.mode != 'auto' and said):
        return None
    if last.cut:
        return _cut_off(last, config, card)
    return NoAnswer('the model stopped without an answer block', value=repr(last.text[-200:]),
                    remedy='raise max_turns or max_turn_tokens, or ask in another mode')


def _cut_off(turn: Turn, config: CooperConfig, card: ModelCard) -> NoAnswer:
    """What ended a turn before its answer; who only sets ours cannot raise the model's limit."""
    ours, theirs = config.max_turn_tokens, card.max_turn_tokens
    limit = f'{ours} tokens' if ours < theirs else f'{theirs} tokens, as the model folder says'
    raised = ['max_turn_tokens'] * (ours < theirs) + ['max_turns'] * (config.mode == 'auto')
    remedy = f'raise {" or ".join(raised)}, or ask' if raised else 'ask'
    return NoAnswer('the answer was cut off at max_turn_tokens', value=repr(turn.text[-200:]),
                    limit=limit, remedy=f'{remedy} for a shorter answer or in another mode')


def _rounded_up(tokens: int) -> int:
    return -(-tokens // _GROWTH) * _GROWTH


def _answer(talk: Talk, error: CooperError | None) -> Answer:
    """The best answer so far: the last turn that holds one, else the last turn with words, else
    the maps alone."""
    turns = [turn for turn in talk.turns if turn.text] or [Turn()]
    best = next((turn for turn in reversed(turns) if has_answer(turn.text)), turns[-1])
    code = ErrorCode.NONE if error is None else error.code
    return Answer(talk.request_id, talk.limits.elapsed(), text=answer_text(best.text),
                  short=short_answer(best.text),
                  reasoning=tuple(turn.text for turn in talk.turns),
                  confidence=best.confidence(), maps=tuple(talk.maps), timings=talk.timings(),
                  complete=error is None, error_code=int(code), error_msg=str(error or ''))
