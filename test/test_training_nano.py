"""The shipped checkpoint: small, complete, loaded strictly, and it answers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from cooper_ros.config import CooperConfig
from cooper_ros.engine.engine import CooperEngine
from cooper_ros.engine.events import Answer
from cooper_ros.engine.prompts import load_prompts
from cooper_ros.evaluation.scoring import score
from cooper_ros.runtime.checkpoint import read_model_folder
from cooper_ros.scenes.generate import make_sample
from cooper_ros.training.folder import PROMPTS

FOLDER = Path(__file__).parents[1] / 'models' / 'cooper-nano'


@pytest.fixture(scope='module')
def engine() -> CooperEngine:
    return CooperEngine.from_pretrained(FOLDER, CooperConfig(threads=1))


def test_it_is_small_and_in_the_published_layout() -> None:
    weights = list(FOLDER.glob('*.safetensors'))
    assert {path.name for path in weights} == {'ema.safetensors', 'ae.safetensors'}
    assert sum(path.stat().st_size for path in weights) <= 40e6
    with safe_open(FOLDER / 'ema.safetensors', 'pt') as file:
        keys = set(file.keys())
    assert 'language_model.model.layers.0.self_attn.q_proj_moe_gen.weight' in keys
    loaded = read_model_folder(FOLDER)
    assert keys == set(loaded.network.state_dict())
    assert loaded.card.name == 'cooper-nano' and loaded.card.depth_range_m == (0.2, 8.0)
    assert json.loads((FOLDER / 'cooper.json').read_text())['palette']


def test_its_prompts_are_those_it_was_trained_with() -> None:
    assert load_prompts(FOLDER) == PROMPTS


@pytest.mark.parametrize('mode', ['auto', 'direct', 'text', 'maps'])
def test_it_answers_in_every_mode(engine: CooperEngine, mode: str) -> None:
    sample = make_sample(7, 'test')
    question = next(q for q in sample.questions if q.kind == 'yes_no')
    last = list(engine.ask(sample.frame.rgb, question.question, mode=mode))[-1]
    assert isinstance(last, Answer) and last.short in ('yes', 'no'), last
    assert len(last.maps) == 2 if mode == 'maps' else mode == 'auto' or not last.maps


def test_it_draws_metres(engine: CooperEngine) -> None:
    """Unseen scenes: better than any constant depth could be."""
    errors, constant = [], []
    for seed in range(4):
        frame = make_sample(seed, 'test', per_category=0).frame
        metres = engine.estimate_depth(frame.rgb).metres
        assert metres is not None
        errors.append(np.mean(np.abs(metres - frame.depth_m) / frame.depth_m))
        best = np.median(frame.depth_m)  # knows the scene, so a hard rival
        constant.append(np.mean(np.abs(best - frame.depth_m) / frame.depth_m))
    assert np.mean(errors) < np.mean(constant)


def test_it_beats_chance_on_unseen_scenes(engine: CooperEngine) -> None:
    """Yes-no and choice questions answered without maps; about 60, so a loose bound."""
    hits = []
    for seed in range(12):
        sample = make_sample(seed, 'test')
        for q in sample.questions:
            if q.kind in ('yes_no', 'mcq'):
                last = list(engine.ask(sample.frame.rgb, q.question, mode='direct'))[-1]
                hits.append(score(q.kind, last.short, q.answer))  # type: ignore[union-attr]
    assert len(hits) > 40 and np.mean(hits) > 0.5
