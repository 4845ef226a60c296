"""Only pictures that are asked about are decoded, and only of those damage is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Iterator

import numpy as np
import pytest
from bag_maker import PERIOD_NS, START_NS, STRING, camera, text, write_ros2
from rosbags.highlevel import AnyReader

from cooper_ros.engine.events import Answer, Event
from cooper_ros.errors import BadBag
from cooper_ros.replay import bag as bag_module
from cooper_ros.replay import run
from cooper_ros.replay.questions import Picker, Plan, Question
from cooper_ros.replay.run import Request, Result, Watch, replay

FREE = [Question('Way free?')]
ALL = Plan(rate=0)


class Yes:
    """An engine that says yes."""

    def ask(self, images: Any, question: str, *, request_id: str, **changes: Any
            ) -> Iterator[Event]:
        """Yield the answer alone."""
        yield Answer(request_id, 0.0, 'yes', 'yes', (), 1.0)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of each picture whose pixels were decoded: the column of its bar."""
    seen: list[int] = []
    rgb_of = bag_module.rgb_of

    def counted(*words: Any) -> np.ndarray:
        rgb = rgb_of(*words)
        seen.append(int((rgb[0, :, 0] == 255).argmax()))
        return rgb

    monkeypatch.setattr(bag_module, 'rgb_of', counted)
    return seen


def drive(folder: Path, count: int, damaged: tuple[int, ...] = (),
          asked: tuple[float, ...] = ()) -> Path:
    """Pictures, some of which cannot be decoded, and questions at times between them."""
    messages = camera(count)
    for number in damaged:
        messages[number][3].step = 1
    return write_ros2(folder / 'in', messages + [
        ('/ask', STRING, START_NS + int(place * PERIOD_NS), text(f'At {place}?'))
        for place in asked])


def asked_of(result: Result) -> list[int]:
    return [asked.frame.index for asked in result.asked]


def skipped_of(result: Result) -> list[int]:
    return [skipped.index for skipped in result.skipped]


@pytest.mark.parametrize(('plan', 'taken'), [
    (Plan(rate=0.2), [0, 10, 20]), (Plan(rate=0, every=12), [0, 12, 24]),
    (Plan(rate=0, limit=2), [0, 1]), (ALL, list(range(25)))])
def test_what_the_plan_leaves_out_is_not_decoded(tmp_path: Path, decoded: list[int], plan: Plan,
                                                 taken: list[int]) -> None:
    result = replay(Request(drive(tmp_path, 25), tmp_path / 'out', FREE, plan), Yes())
    assert asked_of(result) == decoded == taken
    assert result.pictures == (2 if plan.limit else 25)


def test_recorded_questions_cost_the_picture_before_them_alone(tmp_path: Path,
                                                               decoded: list[int]) -> None:
    bag = drive(tmp_path, 25, asked=(-1, 3.5, 3.6, 20.5))
    result = replay(Request(bag, tmp_path / 'out', question_topic='/ask'), Yes())
    assert asked_of(result) == [3, 3, 20] and decoded == [3, 20] and result.pictures == 25
    assert result.warnings == ['questions before the first picture, which were not asked: 1']
    with AnyReader([tmp_path / 'out' / 'answers']) as reader:
        assert {one.topic: one.msgcount for one in reader.connections}['/camera/image_raw'] == 2


def test_damage_is_told_of_what_was_to_be_asked_about_alone(tmp_path: Path) -> None:
    """A damaged picture does not count for the plan: the next one takes its place."""
    said: list[int] = []
    bag = drive(tmp_path, 12, damaged=(0, 3, 5, 6))
    watch = Watch(skipped=lambda bad: said.append(bad.index))
    result = replay(Request(bag, tmp_path / 'out', FREE, Plan(rate=0.5)), Yes(), watch)
    assert asked_of(result) == [1, 7, 11] and skipped_of(result) == said == [0, 5, 6]
    assert result.pictures == 9
    assert all('step is too small' in bad.reason for bad in result.skipped)


def test_a_recorded_question_goes_to_the_latest_picture_that_can_be_decoded(tmp_path: Path
                                                                            ) -> None:
    bag = drive(tmp_path, 10, damaged=(0, 3, 4, 7), asked=(0.5, 2.5, 4.5, 7.5, 7.6, 8.5))
    result = replay(Request(bag, tmp_path / 'out', question_topic='/ask'), Yes())
    assert [(asked.frame.index, asked.question.text) for asked in result.asked] == [
        (2, 'At 2.5?'), (2, 'At 4.5?'), (6, 'At 7.5?'), (6, 'At 7.6?'), (8, 'At 8.5?')]
    assert skipped_of(result) == [0, 4, 3, 7]
    assert result.warnings == [
        'questions with damaged pictures alone before them, which were not asked: 1']


def test_a_planned_picture_is_told_once_though_a_recorded_question_follows(tmp_path: Path
                                                                           ) -> None:
    bag = drive(tmp_path, 3, damaged=(1,), asked=(1.5,))
    result = replay(Request(bag, tmp_path / 'out', FREE, ALL, question_topic='/ask'), Yes())
    assert asked_of(result) == [0, 0, 2] and skipped_of(result) == [1]


def test_few_pictures_are_kept_for_questions_to_come(tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[int] = []
    see = run._Run._see
    monkeypatch.setattr(run._Run, '_see', lambda self, *words: (
        see(self, *words), kept.append(len(self.since)))[0])
    for name, topic, most in (('none', None, 0), ('asked', '/ask', run.TRIED)):
        (tmp_path / name).mkdir()
        bag = drive(tmp_path / name, 30, asked=(29.5,))
        replay(Request(bag, tmp_path / name / 'out', FREE, Plan(rate=0.1), question_topic=topic),
               Yes())
        assert max(kept) == most


@pytest.mark.parametrize(('plan', 'words'), [
    (ALL, 'no picture of the topic can be decoded.*step is too small'),
    (Plan(rate=0, every=2), 'no picture to be asked about can be decoded.*step is too small')])
def test_nothing_but_damage_is_an_error(tmp_path: Path, plan: Plan, words: str) -> None:
    bag = drive(tmp_path, 4, damaged=(0, 1, 2, 3))
    with pytest.raises(BadBag, match=words):
        replay(Request(bag, tmp_path / 'out', FREE, plan), Yes())
    assert not (tmp_path / 'out' / 'answers').exists()


def test_a_picture_is_counted_when_it_is_taken() -> None:
    picker = Picker(Plan(rate=1, limit=2))
    assert picker.wants(0, 0) and picker.wants(0, 0) and not picker.taken
    picker.take(0)
    assert not picker.wants(1, 5 * 10**8) and picker.takes(2, 10**9) and picker.finished
    assert not picker.takes(3, 10**10) and picker.taken == 2
