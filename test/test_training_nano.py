"""The shipped checkpoint: small, complete, loaded strictly, and it answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Sequence

import numpy as np
import pytest
from safetensors import safe_open

from cooper_ros.config import CooperConfig
from cooper_ros.engine.engine import CooperEngine
from cooper_ros.engine.events import Answer
from cooper_ros.engine.prompts import load_prompts
from cooper_ros.runtime.checkpoint import read_model_folder
from cooper_ros.scenes.generate import make_sample
from cooper_ros.scenes.qa import QuestionAnswer
from cooper_ros.scoring.scores import score
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


def test_its_maps_follow_the_picture(engine: CooperEngine) -> None:
    """Depth drawn of unseen scenes fits its own scene better than the next one."""
    frames = [make_sample(seed, 'test', per_category=0).frame for seed in range(6)]
    drawn = [engine.estimate_depth(frame.rgb).metres for frame in frames]

    def error(shift: int) -> float:
        return float(np.mean([np.mean(np.abs(metres - truth.depth_m) / truth.depth_m) for
                              metres, truth in zip(drawn, frames[shift:] + frames[:shift])]))
    # A model that drew one map for all pictures would have a ratio of 1; the shipped one has 0.24.
    assert error(0) < 0.1 and error(0) < 0.5 * min(error(1), error(2), error(3))


def test_it_sees(engine: CooperEngine) -> None:
    """Answers about unseen scenes are better than those of the same model on a grey picture."""
    samples = [make_sample(seed, 'test') for seed in range(8)]
    grey = np.full_like(samples[0].frame.rgb, 128)

    def scores(picture: np.ndarray, questions: Sequence[QuestionAnswer]) -> list[float]:
        last = [list(engine.ask(picture, one.question, mode='direct'))[-1] for one in questions]
        return [score(one.kind, said.short if isinstance(said, Answer) else '', one.answer)
                for one, said in zip(questions, last, strict=True)]

    # One picture after the other: the engine reads a picture anew when another came between.
    seen = [given for one in samples for given in scores(one.frame.rgb, one.questions)]
    blind = scores(grey, [question for one in samples for question in one.questions])
    assert len(seen) > 75 and np.mean(seen) > np.mean(blind) + 0.1
