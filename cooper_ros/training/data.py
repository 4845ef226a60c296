"""Generated frames on disk: made once, memory-mapped by every stage that trains on them.

A store holds ``rgb.npy``, ``depth.npy``, ``labels.npy``, ``instance.npy``, ``objects.npy``,
``focal.npy`` and ``questions.jsonl`` (one list per frame). It is written under a temporary name
and renamed when complete; several runs that need the same one wait for the first.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import multiprocessing
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, Sequence, TypeVar

import numpy as np
from tqdm import tqdm

from cooper_ros.errors import BadData
from cooper_ros.runtime.files import replace_folder, room
from cooper_ros.scenes.edition import EDITION
from cooper_ros.scenes.palette import COLOURS, SHAPES
from cooper_ros.scenes.questions import questions
from cooper_ros.scenes.render import HEIGHT, WIDTH, Frame, render
from cooper_ros.scenes.sample import MAX_OBJECTS, sample_scene
from cooper_ros.scenes.scene import MAX_DEPTH_M, MIN_DEPTH_M, Scene
from cooper_ros.scenes.truth import ObjectTruth, describe
from cooper_ros.training.arrays import REMEDY, new_array
from cooper_ros.training.once import make_once

STEPS_PER_METRE = 8000  # 8 m just fits 16 bits; one step is 0.125 mm
FEW = 64  # frames to draw, 40 ms each
Work, Done = TypeVar('Work'), TypeVar('Done')
Job = tuple[str, int, int]  # split, scene seed, questions per category
OBJECT_FIELDS = ('colour', 'shape', 'x', 'y', 'z', 'tall', 'top')
QUESTIONS = 'questions.jsonl'
ARRAYS = ('rgb', 'depth', 'labels', 'instance', 'objects', 'focal')


@dataclass(frozen=True)
class FrameStore:
    """Frames of one split, in order of their seeds.

    Attributes:
        folder: where it lies, and what is made of it too.
        rgb: uint8 ``[N, H, W, 3]``.
        depth: uint16 ``[N, H, W]``, eighths of a millimetre along the optical axis.
        labels: uint8 ``[N, H, W]``, ids of the scene palette.
        instance: int8 ``[N, H, W]``, object index, -1 the room, -2 the table.
        objects: float32 ``[N, MAX_OBJECTS, 7]`` by ``OBJECT_FIELDS``: index of the colour and of
            the shape, centre in the optical frame, height and height of the top above the floor
            in metres; NaN where there is no such object, or where nothing is asked of frames.
        focal: float32 ``[N]``, focal lengths in longest sides of the picture.
        canonical_focal: the lens that depth is drawn for, in the same unit; 0 for each
            picture's own.
    """

    folder: Path
    rgb: np.ndarray
    depth: np.ndarray
    labels: np.ndarray
    instance: np.ndarray
    objects: np.ndarray
    focal: np.ndarray
    canonical_focal: float = 0.0

    @functools.cached_property
    def questions(self) -> list[list[dict[str, Any]]]:
        """Per frame, a list of questions with their traces, as plain values; read when they are
        first asked for."""
        with _reading(self.folder):
            lines = (self.folder / QUESTIONS).read_text(encoding='utf-8').splitlines()
            return [json.loads(line) for line in lines]

    def __len__(self) -> int:
        return len(self.rgb)

    def relative(self, index: int) -> np.ndarray:
        """Relative depth float32 ``[H, W]``: 0 at the near limit, 1 at the far one.

        With a canonical lens, metres are first multiplied by its focal length over that of the
        picture (Metric3D, arXiv 2307.10984, section 3.2).
        """
        metres = self.depth[index].astype(np.float32) / STEPS_PER_METRE
        if self.canonical_focal:
            metres *= self.canonical_focal / self.focal[index]
        return np.clip((metres - MIN_DEPTH_M) / (MAX_DEPTH_M - MIN_DEPTH_M), 0, 1)


def frame_store(folder: Path | str, split: str, seed: int, count: int, per_category: int,
                canonical_focal: float = 0.0) -> FrameStore:
    """Open the store of these frames, making it first if it does not exist.

    Args:
        folder: where stores lie.
        split: ``train``, ``validation`` or ``test``.
        seed: first scene seed within the split.
        count: frames.
        per_category: questions per category and frame; 0 for pictures only.
        canonical_focal: see :class:`FrameStore`.
    """
    path = Path(folder) / f'{split}_{seed}_{count}_{per_category}_v{EDITION}'
    files = [path / f'{name}.npy' for name in ARRAYS] + [path / QUESTIONS]
    make_once(path, lambda: all(file.exists() for file in files),
              lambda: _make(path, split, seed, count, per_category))
    return open_store(path, canonical_focal)


def open_store(path: Path, canonical_focal: float = 0.0) -> FrameStore:
    """A store that is there; its pictures stay on disk until they are looked at.

    Raises:
        BadData: it is damaged.
    """
    with _reading(path):
        arrays = [np.load(path / f'{name}.npy', mmap_mode='r') for name in ARRAYS]
    return FrameStore(path, *arrays, canonical_focal)


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """Name what a damaged file of a store raises as ours."""
    try:
        yield
    except (OSError, ValueError, EOFError) as error:
        raise BadData('the frames are damaged', value=f'{folder}: {error}',
                      remedy='delete that folder: it is made again') from error


def _make(path: Path, split: str, seed: int, count: int, per_category: int) -> None:
    """Make a store; what is there is of an older form."""
    part = path.with_name(path.name + '.part')
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    shapes = {'rgb': ((HEIGHT, WIDTH, 3), np.uint8), 'depth': ((HEIGHT, WIDTH), np.uint16),
              'labels': ((HEIGHT, WIDTH), np.uint8), 'instance': ((HEIGHT, WIDTH), np.int8),
              'objects': ((MAX_OBJECTS, len(OBJECT_FIELDS)), np.float32),
              'focal': ((), np.float32)}
    arrays = {name: new_array(part / f'{name}.npy', kind, (count, *shape))
              for name, (shape, kind) in shapes.items()}
    jobs = [(split, seed + index, per_category) for index in range(count)]
    with (room(part, 0, QUESTIONS, REMEDY), over_cores(_draw, count) as drawer,
          open(part / QUESTIONS, 'w', encoding='utf-8') as lines):
        drawn = drawer(jobs)
        for index, frame in enumerate(tqdm(drawn, total=count, desc=path.name, mininterval=5)):
            for name, array in arrays.items():
                array[index] = frame[name]
            lines.write(json.dumps(frame['questions']) + '\n')
    for array in arrays.values():
        array.flush()
    replace_folder(part, path)


@contextmanager
def over_cores(work: Callable[[Work], Done], count: int, few: int = FEW
               ) -> Iterator[Callable[[Iterable[Work]], Iterator[Done]]]:
    """A ``map`` in order over all cores; a few things do not deserve processes, which take
    seconds to start."""
    if count < few:
        yield functools.partial(map, work)
        return
    processes = min(os.cpu_count() or 1, count // few + 1)
    with multiprocessing.get_context('spawn').Pool(processes) as pool:
        yield functools.partial(pool.imap, work, chunksize=16)


def _draw(job: Job) -> dict[str, Any]:
    split, seed, per_category = job
    scene = sample_scene(seed, split)
    frame = render(scene)
    truths = describe(scene, frame) if per_category else ()
    return {'rgb': frame.rgb, 'labels': frame.labels,
            'depth': np.rint(frame.depth_m * STEPS_PER_METRE).clip(0, 65535).astype(np.uint16),
            'instance': frame.instance.astype(np.int8), 'objects': _objects(truths),
            'focal': frame.focal,
            'questions': _questions(scene, frame, truths, per_category)}


def _objects(truths: Sequence[ObjectTruth]) -> np.ndarray:
    table = np.full((MAX_OBJECTS, len(OBJECT_FIELDS)), np.nan, np.float32)
    for truth in truths:
        thing = truth.thing
        table[truth.index] = (COLOURS.index(thing.colour), SHAPES.index(thing.shape),
                              *truth.position, thing.size[2], thing.top)
    return table


def _questions(scene: Scene, frame: Frame, truths: tuple[ObjectTruth, ...],
               per_category: int) -> list[dict[str, Any]]:
    if not per_category:
        return []
    return [dataclasses.asdict(entry) for entry in
            questions(scene, frame, per_category=per_category, truths=truths)]
