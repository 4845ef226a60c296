"""A recording straight through the engine: same bag, seed and questions, same bytes out."""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Callable, Iterator, Protocol, Sequence

import numpy as np

from cooper_ros.config import CooperConfig
from cooper_ros.engine.events import Answer, Event, Failure, Map
from cooper_ros.errors import BadBag, BadOption
from cooper_ros.imaging.lens import Calibration, calibration_of
from cooper_ros.replay.bag import STRING, Bag, Frame, Picture, Skipped, describe
from cooper_ros.replay.output import AnswerBag
from cooper_ros.replay.places import (
    ANSWERS,
    check_beside,
    check_output,
    clear_answers,
    clear_beside,
    make_folder,
    refusing,
)
from cooper_ros.replay.questions import DEFAULT_QUESTION, Picker, Plan, Question
from cooper_ros.replay.storage import Topic, slashed

TRIED = 8  # pictures before a recorded question that are tried until one can be decoded
EARLY = 'questions before the first picture, which were not asked'
BLIND = 'questions with damaged pictures alone before them, which were not asked'


class Asks(Protocol):
    """What a replay needs of an engine."""

    def ask(self, images: Any, question: str, *, request_id: str,
            **changes: Any) -> Iterator[Event]:
        """Yield events, then one Answer or Failure."""


@dataclass(frozen=True)
class Request:
    """What to replay.

    Attributes:
        bag: file or folder.
        out: folder for the bag of answers, the summary and the pictures.
        questions: asked about every picture that the plan takes.
        plan: which pictures.
        topic: picture topic; None takes the only one.
        question_topic: ``std_msgs/String`` topic of the bag, whose texts are asked about the
            latest picture before them.
        mode, seed: of the questions that have no mode of their own.
        overwrite: replace the answers, the summary and the sheets of an older run.
        timings: write timings into the bag.
        focal: of the camera, see ``CooperConfig``, where no recorded CameraInfo says it.
        max_image_pixels: see ``CooperConfig``.
    """

    bag: Path
    out: Path
    questions: Sequence[Question] = ()
    plan: Plan = Plan()
    topic: str | None = None
    question_topic: str | None = None
    mode: str = CooperConfig.mode
    seed: int = CooperConfig.seed
    overwrite: bool = False
    timings: bool = False
    focal: float = CooperConfig.focal
    max_image_pixels: int = CooperConfig.max_image_pixels


@dataclass(frozen=True)
class Asked:
    """One question and how it ended. ``seconds`` is wall time."""

    frame: Frame
    question: Question
    mode: str
    end: Answer | Failure
    seconds: float

    @property
    def maps(self) -> tuple[Map, ...]:
        """The maps of the answer; none once the pixels are dropped."""
        return self.end.maps if isinstance(self.end, Answer) else ()


@dataclass
class Result:
    """What a replay did, filled while it runs.

    Attributes:
        topic: the picture topic.
        seen: pictures that went by; those that are not asked about are not decoded.
        asked: questions in order; the pixels of a picture are dropped once its sheet is drawn.
        skipped: pictures to ask about that could not be decoded.
        warnings: what the recording lacked.
        interrupted: the run was stopped before the end of the recording.
    """

    request: Request
    topic: Topic
    seen: int = 0
    asked: list[Asked] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    interrupted: bool = False

    @property
    def pictures(self) -> int:
        """Pictures that went by, without those that were skipped."""
        return self.seen - len(self.skipped)


@dataclass(frozen=True)
class Watch:
    """Callbacks for progress; each may stay as it is.

    Attributes:
        progress: how much of the recording is done, 0..1.
        event: every event of the engine.
        asked: a question is done; its pictures are still there.
        skipped: a picture to ask about could not be decoded.
    """

    progress: Callable[[float], None] = lambda done: None
    event: Callable[[Event], None] = lambda event: None
    asked: Callable[[int, Asked], None] = lambda number, asked: None
    skipped: Callable[[Skipped], None] = lambda skipped: None


def check(request: Request) -> Topic:
    """Find out whether a replay can start, before a large model is loaded for nothing.

    The folder for its output is made.

    Returns:
        the picture topic.

    Raises:
        BadBag, BadOption: as :func:`replay`.
    """
    _check_places(request)
    with Bag(request.bag) as bag:
        _check_question_topic(bag, request.question_topic)
        topic = bag.choose_topic(request.topic)
    make_folder(request.out)
    return topic


def replay(request: Request, engine: Asks, watch: Watch = Watch()) -> Result:
    """Ask about the pictures of a recording and write the bag of answers.

    Ctrl-C stops it after what is done; the bag written so far is whole.

    Raises:
        BadBag: the recording cannot be read, or has no pictures to ask about.
        BadOption: the output exists or cannot be written, or the question topic is not there.
    """
    _check_places(request)
    with Bag(request.bag, request.max_image_pixels) as bag:
        topic = bag.choose_topic(request.topic)
        _check_question_topic(bag, request.question_topic)
        result = Result(request, topic, warnings=bag.warnings)
        make_folder(request.out)
        clear_beside(request.out)
        with AnswerBag(request.out / ANSWERS, request.overwrite, request.timings) as out:
            run = _Run(request, engine, watch, result, out, bag)
            try:
                run.play()
            except KeyboardInterrupt:
                result.interrupted = True
        if run.is_blind():
            clear_answers(request.out / ANSWERS)  # else it is in the way of the next try
            raise _no_picture(result)
        return result


def _no_picture(result: Result) -> BadBag:
    which = 'to be asked about' if result.pictures else 'of the topic'
    reason = result.skipped[0].reason if result.skipped else '; '.join(result.warnings)
    return BadBag(f'no picture {which} can be decoded', remedy='try another --topic',
                  value=f'{describe(result.topic)}: {reason}')


@dataclass
class _Run:
    request: Request
    engine: Asks
    watch: Watch
    result: Result
    out: AnswerBag
    bag: Bag
    written: int = -1
    latest: Frame | None = None  # that could be decoded
    since: deque[Picture] = field(default_factory=lambda: deque(maxlen=TRIED))  # not yet tried
    unasked: Counter[str] = field(default_factory=Counter)  # recorded questions, by the reason

    def play(self) -> None:
        """Go through pictures and recorded questions in the order of their bag stamps."""
        try:
            self._play(Picker(self.request.plan))
        finally:
            for reason, count in self.unasked.items():
                self._warn(f'{reason}: {count}')

    def _play(self, picker: Picker) -> None:
        first, last = self.bag.recording.span_ns()
        for item in self.bag.play(self.result.topic, self.request.question_topic):
            self.watch.progress((item.bag_ns - first) / max(1, last - first))
            if isinstance(item, Picture):
                self._see(item, picker)
            else:
                self._hear(item.text)
            if picker.finished and not self.request.question_topic:
                break
        self.watch.progress(1.0)

    def is_blind(self) -> bool:
        """Whether there was no picture, or none of those that the plan takes could be decoded."""
        planned = bool(self._questions()) and self.latest is None
        return not self.result.pictures or (planned and bool(self.result.skipped))

    def _see(self, picture: Picture, picker: Picker) -> None:
        """Ask about a picture that the plan takes; keep others for questions to come."""
        self.result.seen += 1
        if not self._questions() or not picker.wants(picture.index, picture.bag_ns):
            if self.request.question_topic:
                self.since.append(picture)
        elif (frame := self._decoded(picture)) is not None:
            picker.take(frame.bag_ns)
            self._ask_all(frame, self._questions())

    def _decoded(self, picture: Picture) -> Frame | None:
        """Decode what is to be asked about; None, and a word about it, where that fails."""
        found = self.bag.look(picture)
        if isinstance(found, Skipped):
            self.result.skipped.append(found)
            self.watch.skipped(found)
            return None
        self.latest = found
        self.since.clear()
        return found

    def _hear(self, text: str) -> None:
        """Ask a recorded question about the latest picture that can be decoded."""
        while self.since and self._decoded(self.since.pop()) is None:
            pass
        if self.latest is not None:
            self._ask_all(self.latest, [Question(text)])
        else:
            self.unasked[BLIND if self.result.seen else EARLY] += 1

    def _calibration(self, frame: Frame) -> Calibration:
        """What the recorded camera info says of a picture; what is wrong with it is said once."""
        rows, columns = frame.rgb.shape[:2]
        found = calibration_of(frame.info, self.result.topic.name, (columns, rows),
                               self.request.focal)
        if found.error:
            self._warn(found.error)
        return found

    def _warn(self, text: str) -> None:
        """Say it once."""
        if text not in self.result.warnings:
            self.result.warnings.append(text)

    def _questions(self) -> Sequence[Question]:
        default = () if self.request.question_topic else (Question(DEFAULT_QUESTION),)
        return self.request.questions or default

    def _ask_all(self, frame: Frame, questions: Sequence[Question]) -> None:
        lens = self._calibration(frame)
        if frame.index != self.written:  # recorded questions come one by one
            self.out.write_picture(frame, self.result.topic.type, lens.info)
            self.written = frame.index
        for question in questions:
            number = len(self.result.asked)
            asked = self._ask(frame, question, f'{frame.index}-{number}', lens.focal)
            self.out.write_answer(frame, question, asked.mode, asked.end, lens)
            self.watch.asked(number, asked)
            self.result.asked.append(_without_pixels(asked))

    def _ask(self, frame: Frame, question: Question, request_id: str, focal: float) -> Asked:
        mode, start, end = question.mode or self.request.mode, time.monotonic(), None
        for event in self.engine.ask([frame.rgb], question.text, request_id=request_id,
                                     mode=mode, seed=self.request.seed, focal=focal):
            self.watch.event(event)
            end = event
        assert isinstance(end, (Answer, Failure)), 'an engine ends with an answer or a failure'
        return Asked(frame, question, mode, end, time.monotonic() - start)


def _check_places(request: Request) -> None:
    """Before anything is removed."""
    with refusing(request.out):
        answers, bag = (request.out / ANSWERS).resolve(), request.bag.resolve()
        if answers in (bag, *bag.parents):
            raise BadOption('the answers would take the place of the recording', value=str(bag),
                            remedy='give another --out')
        check_output(request.out / ANSWERS, request.overwrite)
        check_beside(request.out, request.overwrite)


def _check_question_topic(bag: Bag, name: str | None) -> None:
    texts = [topic.name for topic in bag.recording.topics.values()
             if topic.type == STRING]
    if name is not None and slashed(name) not in texts:
        raise BadOption('the recording has no such text topic', value=name,
                        limit=', '.join(texts) or 'none is recorded')


def _without_pixels(asked: Asked) -> Asked:
    """Drop pictures and maps, so that a long recording does not fill the memory."""
    nothing = np.empty((0, *asked.frame.rgb.shape[1:]), np.uint8)  # a slice would hold it all
    frame = replace(asked.frame, rgb=nothing, cdr=b'', info=None)
    end = replace(asked.end, maps=()) if isinstance(asked.end, Answer) else asked.end
    return replace(asked, frame=frame, end=end)
