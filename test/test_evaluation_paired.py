"""Paired comparison of two ways of answering, and the variants of ``cooper evaluate``."""

from __future__ import annotations

import functools
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from cooper_ros.cli import main
from cooper_ros.errors import BadData
from cooper_ros.evaluation import paired, scenes_suite
from cooper_ros.evaluation.paired import compare_paired
from cooper_ros.evaluation.scenes_report import parse_variant
from cooper_ros.scoring.scores import scene_bootstrap

RNG = np.random.default_rng(3)
SCENES = np.repeat(np.arange(60), 5)


def test_equal_scores_differ_by_nothing() -> None:
    scores = RNG.random(300)
    found = compare_paired(scores, scores, SCENES)
    assert found.difference == 0 and found.interval == (0, 0) and found.p == 1
    assert (found.questions, found.scenes) == (300, 60)


def test_a_real_gain_is_found_and_luck_is_not() -> None:
    base = RNG.random(300) < 0.5
    gain = compare_paired(base | (RNG.random(300) < 0.2), base, SCENES, rounds=2000)
    assert gain.p < 0.001 and gain.interval[0] > 0
    luck = [compare_paired(RNG.random(300) < 0.5, RNG.random(300) < 0.5, SCENES, rounds=500).p
            for _ in range(60)]
    assert np.mean(np.array(luck) < 0.05) < 0.17


def test_questions_of_one_scene_count_as_one_witness() -> None:
    """Five copies of every question tell nothing new."""
    first, second = RNG.random(60), RNG.random(60)
    once = compare_paired(first, second, np.arange(60))
    copies = compare_paired(np.repeat(first, 5), np.repeat(second, 5), SCENES)
    assert copies.difference == pytest.approx(once.difference)
    assert copies.p == pytest.approx(once.p, abs=0.02)


def test_a_table_of_thousands_of_pictures_takes_little_memory() -> None:
    first, second = np.random.default_rng(5).random((2, 3000)) < 0.5
    tracemalloc.start()
    try:
        compare_paired(first, second, np.arange(3000))
        assert tracemalloc.get_traced_memory()[1] < 200e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize('at_once', [1, 100, 2**22])
def test_p_is_the_same_in_however_many_parts_it_is_drawn(
        at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paired, '_AT_ONCE', at_once)
    gain = np.random.default_rng(5).integers(-4, 5, 61) / 4
    found = compare_paired(gain, np.zeros(61), np.arange(61), rounds=999, seed=2)
    rng = np.random.default_rng(2)
    scene_bootstrap(gain, np.ones(61), 999, rng)
    flips = rng.choice((-1.0, 1.0), size=(999, 61)) @ gain  # as older versions did
    assert found.p == (1 + (np.abs(flips) >= abs(gain.sum()) - 1e-12).sum()) / 1000


@pytest.mark.parametrize(('first', 'second', 'scenes'), [
    ([], [], []), ([1.0], [1.0, 0.0], [0]), ([1.0], [0.0], [0, 1])])
def test_unequal_lists_are_refused(first: list, second: list, scenes: list) -> None:
    with pytest.raises(BadData, match='same questions'):
        compare_paired(first, second, scenes)


@pytest.mark.parametrize(('text', 'expected'), [
    ('direct', ('here', 'direct')), ('runs/base', ('runs/base', 'auto')),
    ('runs/base:text', ('runs/base', 'text')), ('C:/x', ('C:/x', 'auto'))])
def test_variants_name_a_mode_a_folder_or_both(text: str, expected: tuple[str, str]) -> None:
    assert parse_variant(text, 'here', 'auto') == expected


def test_variants_are_asked_the_same_questions(
        tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
        ) -> None:
    out, constants = tmp_path / 'scores.json', functools.partial(scenes_suite.constants, 12)
    monkeypatch.setattr(scenes_suite, 'constants', constants)  # of 200 rooms they take 8 s
    with pytest.raises(SystemExit) as end:
        main(['evaluate', '--mode', 'direct', '--count', '2', '--maps', '0', '--variant', 'text',
              '--json', str(out), '--threads', '1'])
    said, found = capsys.readouterr().out, json.loads(out.read_text())
    assert end.value.code == 0 and 'in pairs' in said
    assert set(found['comparisons']) == {'best constant', 'grey picture', 'text'}
    asked, again = found['rows'], found['variants']['text']['rows']
    assert [row['truth'] for row in asked] == [row['truth'] for row in again]
    gap = np.mean([a['score'] - b['score'] for a, b in zip(asked, again)])
    assert found['comparisons']['text']['all']['difference'] == pytest.approx(gap)
