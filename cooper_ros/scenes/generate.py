"""An endless stream of scenes with pictures, truth and questions."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Iterator

from cooper_ros.scenes.qa import QuestionAnswer
from cooper_ros.scenes.questions import questions
from cooper_ros.scenes.render import HEIGHT, WIDTH, Frame, render
from cooper_ros.scenes.sample import sample_scene
from cooper_ros.scenes.scene import Scene


@dataclass(frozen=True)
class Sample:
    """One scene, its picture and truth, and questions about it."""

    scene: Scene
    frame: Frame
    questions: tuple[QuestionAnswer, ...]


def make_sample(seed: int, split: str = 'train', width: int = WIDTH, height: int = HEIGHT,
                per_category: int = 1, smooth: bool = True) -> Sample:
    """Make one sample; everything follows from (seed, split) and the size."""
    scene = sample_scene(seed, split)
    frame = render(scene, width, height, smooth=smooth)
    asked = questions(scene, frame, per_category=per_category) if per_category else []
    return Sample(scene, frame, tuple(asked))


def generate(seed: int, count: int, split: str = 'train', *, width: int = WIDTH,
             height: int = HEIGHT, per_category: int = 1, smooth: bool = True,
             workers: int = 0) -> Iterator[Sample]:
    """Yield ``count`` samples from ``seed`` on, in order.

    Args:
        seed: first seed within the split.
        count: how many samples.
        split: train, validation or test.
        width, height: picture size.
        per_category: questions of each category per scene; 0 for none.
        smooth: smooth edges in the pictures.
        workers: processes that share the work; 0 works in this one. The samples are the same.
    """
    options = (split, width, height, per_category, smooth)
    if workers <= 0:
        for index in range(seed, seed + count):
            yield make_sample(index, *options)
        return
    # spawn: a forked child of a process that runs torch threads can hang
    with ProcessPoolExecutor(workers, mp_context=get_context('spawn')) as pool:
        waiting: deque = deque()  # a window bounds memory: the consumer may be slower
        for index in range(seed, seed + count):
            waiting.append(pool.submit(make_sample, index, *options))
            if len(waiting) >= workers * 8:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
