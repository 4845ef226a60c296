"""Traces over maps that state their conclusion alone, in the categories that ask for it."""

from __future__ import annotations

from dataclasses import asdict
from types import SimpleNamespace
from typing import Any, Sequence

import numpy as np
import pytest
import torch

from cooper_ros.engine.prompts import Prompts
from cooper_ros.errors import BadOption
from cooper_ros.model.packing import TextItem
from cooper_ros.scenes.qa import DEPTH, SEGMENTATION, QuestionAnswer
from cooper_ros.training.folder import PROMPTS
from cooper_ros.training.mixed_options import MixOptions
from cooper_ros.training.pictures import PictureCache
from cooper_ros.training.recipes import RECIPES, Source
from cooper_ros.training.tree import Tree
from cooper_ros.training.typed import build

CUPS = QuestionAnswer('counting', 'number_int', 'how many cups are there?', '2', '',
                      'red cup at 10, blue cup at 64: 2.', (SEGMENTATION,))
FAR = QuestionAnswer('relative_distance', 'mcq', 'which is closer? (a) egg (b) can', 'b', '',
                     'egg 1.44 m, can 1.25 m: can.', (DEPTH,))
CELL = QuestionAnswer('spatial_grid', 'number_int', 'which cell holds the egg?', '5', '',
                      'egg middle center.', ())
LISTED = f'<think>{CUPS.facts}</think><answer>\\boxed{{2}}</answer>'
STATED = '<think>2.</think><answer>\\boxed{2}</answer>'


def source(conclude: Sequence[str]) -> Source:
    """One frame that three questions are about; text stays readable."""
    store: Any = SimpleNamespace(questions=[[asdict(asked) for asked in (CUPS, FAR, CELL)]])
    cache = PictureCache(np.zeros((1, 3, 14, 14, 3), np.uint8), np.zeros((1, 3, 4, 2, 2)))
    prompts: Prompts = PROMPTS
    return Source(store, cache, prompts, lambda text: [ord(c) for c in text], conclude)


def said(tree: Tree) -> list[str]:
    """What the assistant says last in every branch."""
    return [''.join(map(chr, branch[-1].ids)) for branch in tree.branches
            if isinstance(branch[-1], TextItem)]


@pytest.mark.parametrize('recipe, conclude, counts', [
    ('auto', (), LISTED), ('auto', ('counting',), STATED),
    ('auto', ('relative_distance',), LISTED), ('text', ('counting',), LISTED)])
def test_only_the_named_categories_conclude_over_maps(recipe: str, conclude: tuple[str, ...],
                                                      counts: str) -> None:
    tree = RECIPES[recipe].tree(source(conclude), 0, 3, torch.Generator())
    spoken = said(tree)
    assert counts in spoken
    cell = f'<think>{CELL.facts}</think><answer>\\boxed{{5}}</answer>'
    assert cell in spoken  # without a colon nothing is cut off


def test_the_map_is_drawn_as_before() -> None:
    concluded, listed = CUPS.concluded.trace('interleaved'), CUPS.trace('interleaved')
    assert concluded.turns == (listed.turns[0], STATED) and concluded.tools == listed.tools
    assert FAR.concluded.facts == 'can.' and CUPS.facts.startswith('red cup')


def test_a_category_that_does_not_exist_is_refused() -> None:
    with pytest.raises(BadOption, match='unknown category; got counts; allowed: camera_dist'):
        build(MixOptions, {'recipes': {'auto': {'weight': 1, 'frames': 1}},
                           'conclude': ['counts']}, 'task')
