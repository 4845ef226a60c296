"""All question categories, asked of one rendered scene."""

from __future__ import annotations

import re
from typing import Callable, Sequence

import numpy as np

from cooper_ros.errors import BadOption
from cooper_ros.scenes import ask_metric, ask_picture, ask_relation
from cooper_ros.scenes.ask import Rng
from cooper_ros.scenes.qa import Draft, QuestionAnswer, View
from cooper_ros.scenes.render import Frame
from cooper_ros.scenes.scene import Scene
from cooper_ros.scenes.truth import ObjectTruth, describe

Asker = Callable[[View, Rng], 'Draft | None']
ASKERS: dict[str, Asker] = {
    'camera_distance': ask_metric.camera_distance,
    'object_distance': ask_metric.object_distance,
    'relative_distance': ask_metric.relative_distance,
    'object_size': ask_metric.object_size,
    'height': ask_metric.height,
    'counting': ask_picture.counting,
    'existence': ask_picture.existence,
    'relation_camera': ask_relation.relation_camera,
    'relation_object': ask_relation.relation_object,
    'reach': ask_metric.reach,
    'occlusion': ask_picture.occlusion,
    'situational': ask_relation.situational,
    'spatial_grid': ask_picture.spatial_grid,
}
# A category's place seeds its questions, so new ones go to the end. Stores of frames are found by
# name, those made without the new one too: raise EDITION (edition.py), which is in their names.
CATEGORIES = tuple(ASKERS)
_TRIES = 6


def questions(scene: Scene, frame: Frame, *, per_category: int = 1,
              categories: Sequence[str] = CATEGORIES,
              truths: tuple[ObjectTruth, ...] | None = None) -> list[QuestionAnswer]:
    """Ask up to ``per_category`` different questions of each category.

    The same scene always gets the same questions. A category the scene offers no clear question
    for is left out, so the list can be shorter than asked.

    Args:
        scene: the scene.
        frame: a frame rendered from it.
        per_category: how many questions of each category at most.
        categories: which categories, in order.
        truths: ``describe(scene, frame)`` where it is at hand already.

    Raises:
        BadOption: unknown category.
    """
    height, width = frame.instance.shape
    view = View.of(scene, describe(scene, frame) if truths is None else truths, width, height)
    found = []
    for category in categories:
        if category not in CATEGORIES:
            raise BadOption('unknown category', value=category, limit=', '.join(CATEGORIES))
        rng = np.random.default_rng([scene.seed, 104729, CATEGORIES.index(category)])
        found += _ask(ASKERS[category], view, rng, category, per_category)
    return found


def _ask(asker: Asker, view: View, rng: Rng, category: str, count: int) -> list[QuestionAnswer]:
    kept: dict[frozenset[str], QuestionAnswer] = {}
    for _ in range(_TRIES * count):
        draft = asker(view, rng)
        if draft is not None:
            kept.setdefault(_parts(draft.question), QuestionAnswer(
                category, draft.kind, draft.question, draft.answer, draft.unit, draft.facts,
                draft.tools))
        if len(kept) == count:
            break
    return list(kept.values())


def _parts(question: str) -> frozenset[str]:
    """What is asked and its options: in another order they make no other question."""
    return frozenset(re.split(r' \([a-d]\) ', question))
