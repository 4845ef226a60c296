"""Every shipped file of the small checkpoint starts, takes two steps and shows its curves.

The whole chain at its real sizes, on a handful of frames: each stage starts from what the one
before it left.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Iterator

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cooper_ros.errors import BadCheckpoint
from cooper_ros.runtime.checkpoint import read_model_folder
from cooper_ros.training.cli import run_stage
from cooper_ros.training.tokenizer import kept_tokenizer

CONFIG = Path(__file__).parents[1] / 'config' / 'train'
ORDER = ('vae', 'decoder', 'see', 'joint', 'think', 'practice', 'draw', 'rehearse', 'redraw',
         'text_grpo', 'final_draw', 'fine_decoder', 'fine_draw', 'one_step', 'look', 'auto_grpo',
         'decoded', 'whole', 'own', 'deep', 'words', 'grpo', 'maps_grpo', 'see_names', 'base',
         'stage1', 'cooper')
EXPORTS = {'vae': 'vae_export', 'decoder': 'decoder_export', 'joint': 'model',
           'think': 'think_export', 'practice': 'practice_export', 'draw': 'model',
           'rehearse': 'rehearse_export', 'redraw': 'model',
           'text_grpo': 'text_grpo_export', 'final_draw': 'model',
           'fine_decoder': 'fine_decoder_export', 'fine_draw': 'fine_draw_export',
           'one_step': 'one_step_export', 'look': 'model', 'auto_grpo': 'model',
           'decoded': 'model', 'whole': 'whole_export', 'own': 'model', 'deep': 'deep_export',
           'words': 'model'}
TINY = {'steps': 2, 'batch': 2, 'threads': 1, 'checkpoint_every': 2, 'preview_every': 2,
        'log_every': 1}
DATA = {'seed': 0, 'train': 3, 'valid': 1}


def tiny(name: str, place: Path) -> Path:
    """The shipped file with fewer frames, questions, steps and tokens."""
    text = (CONFIG / f'nano_{name}.yaml').read_text(encoding='utf-8')
    text = text.replace('runs/nano', str(place)).replace('models/cooper-nano', f'{place}/model')
    values: dict[str, Any] = yaml.safe_load(text) | TINY
    values['data'] |= DATA
    task = values.get('task', {})
    for recipe in task.get('recipes', {}).values():
        recipe |= {'frames': 2, 'questions': 2}
    if values['stage'] == 'grpo':
        task['rollout'] |= {'group': 2, 'max_turn_tokens': 6}
        task |= {'valid_questions': 1, 'drawing': {'flow_points': 2}}
    path = place / f'{name}.yaml'
    path.write_text(yaml.safe_dump(values), encoding='utf-8')
    return path


@pytest.fixture(scope='module')
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """All stages, run one after the other."""
    place = tmp_path_factory.mktemp('nano')
    for name in ORDER:
        config = tiny(name, place)
        export = str(place / EXPORTS[name]) if name in EXPORTS else ''
        run_stage(yaml.safe_load(config.read_text())['stage'], config, export=export)
    yield place


def test_no_shipped_file_is_left_out() -> None:
    assert {path.stem for path in CONFIG.glob('nano_*.yaml')} == {f'nano_{name}' for name in ORDER}


@pytest.mark.parametrize('name', ORDER)
def test_it_starts_and_takes_two_steps(name: str, place: Path) -> None:
    lines = [json.loads(line) for line in (place / name / 'log.jsonl').read_text().splitlines()]
    trained = [line['step'] for line in lines if 'loss' in line and 'gradient_norm' in line]
    assert trained == [1, 2] and any(key.startswith('valid_') for key in lines[-1])
    assert (place / name / 'checkpoint.pt').is_file()


def test_the_exported_model_draws_as_its_settings_say(place: Path) -> None:
    said = [json.loads((place / name / 'cooper.json').read_text())['drawing']['flow_points']
            for name in ('practice_export', 'model')]
    assert said == [5, 2]


def test_a_tokenizer_is_kept_as_it_is(place: Path, tmp_path: Path) -> None:
    kept_tokenizer(str(place / 'model')).save_pretrained(tmp_path)
    for name in ('tokenizer.json', 'tokenizer_config.json'):
        assert json.loads((tmp_path / name).read_text()) == json.loads(
            (place / 'model' / name).read_text())


def test_a_folder_without_a_tokenizer_is_not_gone_on_from(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match=f'no tokenizer.*{tmp_path.name}.*was exported'):
        kept_tokenizer(str(tmp_path))


def test_the_chain_ends_in_a_model(place: Path) -> None:
    assert read_model_folder(place / 'model').card.name == 'cooper-nano'


@pytest.mark.parametrize(('name', 'curve', 'picture'), [
    ('joint', 'valid_mse_draw', 'maps'), ('grpo', 'reward_format', 'rollout')])
def test_tensorboard_shows_it(name: str, curve: str, picture: str, place: Path) -> None:
    events = EventAccumulator(str(place / name / 'tensorboard'))
    events.Reload()
    lines = [json.loads(line) for line in (place / name / 'log.jsonl').read_text().splitlines()]
    for wanted in ('loss', curve):
        shown = [(event.step, event.value) for event in events.Scalars(wanted)]
        logged = [(line['step'], line[wanted]) for line in lines if wanted in line]
        assert shown == [(step, pytest.approx(value, rel=1e-5)) for step, value in logged]
    drawn = events.Images(picture)[-1]
    assert drawn.step == 2 and drawn.width > 300 and drawn.encoded_image_string
    assert (place / name / 'previews' / f'0000002_{picture}.png').is_file()
