"""What a model folder says about itself: every broken value is named, none is let through."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cooper_ros.errors import BadCheckpoint
from cooper_ros.runtime.card import CARD_FILE, Drawing, ModelCard, read_card, read_json

INFINITE, NAN = float('inf'), float('nan')


@pytest.mark.parametrize(('name', 'value', 'limit'), [
    ('flow_points', 1, '2 .. 1000'), ('flow_points', -1, '2 .. 1000'),
    ('flow_points', 10**9, '2 .. 1000'), ('flow_shift', -5, '0.001 .. 100'),
    ('flow_shift', 0, '0.001 .. 100'), ('flow_shift', -1.0, '0.001 .. 100'),
    ('cfg_text', INFINITE, '0 .. 100'), ('cfg_text', NAN, '0 .. 100'),
    ('cfg_text', -1.0, '0 .. 100'), ('cfg_image', 101, '0 .. 100'), ('cfg_low', 7, '0 .. 1'),
    ('cfg_high', 1.5, '0 .. 1'), ('cfg_renorm_min', 3, '0 .. 1'),
    ('cfg_renorm_min', -0.1, '0 .. 1')])
def test_drawing_out_of_range_is_named(name: str, value: float, limit: str) -> None:
    """The range of the setting of that name, whose -1 stands for what a card says."""
    with pytest.raises(BadCheckpoint, match=f'entry {name} is out of range; got .+; allowed: '
                       f'{limit}$'):
        ModelCard.from_json({'drawing': {name: value}})


@pytest.mark.parametrize('values', [
    {'flow_points': 2, 'flow_shift': 1, 'cfg_text': 0, 'cfg_image': 100, 'cfg_low': 0,
     'cfg_high': 1, 'cfg_renorm_min': 1}, {}])
def test_drawing_in_range_is_taken(values: dict[str, Any]) -> None:
    assert ModelCard.from_json({'drawing': values}).drawing == Drawing(**values)


@pytest.mark.parametrize('depth', [
    {'min_m': 0.2, 'max_m': INFINITE}, {'min_m': INFINITE, 'max_m': INFINITE},
    {'min_m': NAN, 'max_m': 8.0}, {'min_m': 0.2}, {'min_m': -1, 'max_m': 8}])
def test_depth_without_two_finite_ends_is_named(depth: dict[str, float]) -> None:
    with pytest.raises(BadCheckpoint, match='depth is no range; .+ 0 <= min_m < max_m, both'):
        ModelCard.from_json({'depth': depth})


@pytest.mark.parametrize('wrong', [[], 0, '', False, [1], 'x', 5])
@pytest.mark.parametrize('name', ['transforms', 'drawing', 'depth', 'quantization'])
def test_an_entry_that_is_no_object_is_named(name: str, wrong: object) -> None:
    with pytest.raises(BadCheckpoint, match=f'cooper.json {name} is not an object; got'):
        ModelCard.from_json({name: wrong})


@pytest.mark.parametrize('wrong', [{}, 0, '', False, 'x', 5, {'a': 1}])
def test_a_palette_that_is_no_list_is_named(wrong: object) -> None:
    with pytest.raises(BadCheckpoint, match='entry palette is no list; got'):
        ModelCard.from_json({'palette': wrong})


@pytest.mark.parametrize('row', [5, 'x', None, {'id': 0}, {'id': INFINITE, 'name': 'a', 'rgb': []},
                                 {'id': 0, 'name': 'a', 'rgb': [INFINITE, 0, 0]}])
def test_a_broken_row_of_a_palette_is_named(row: object) -> None:
    with pytest.raises(BadCheckpoint, match='palette'):
        ModelCard.from_json({'palette': [row]})


def test_null_and_nothing_are_the_published_values() -> None:
    names = ('transforms', 'drawing', 'depth', 'palette', 'quantization')
    assert ModelCard.from_json(dict.fromkeys(names)) == ModelCard.from_json({}) == ModelCard()


def test_a_number_beyond_floats_is_named() -> None:
    with pytest.raises(BadCheckpoint, match='cfg_text is too large; got a number of 401 digits'):
        ModelCard.from_json({'drawing': {'cfg_text': 10**400}})


@pytest.mark.parametrize('text', ['[' * 200_000, '{"a":' * 200_000, '{', '[]', '5', '\xff'])
def test_a_file_that_is_no_object_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / CARD_FILE).write_bytes(text.encode('latin-1'))
    for read in (read_card, lambda folder: read_json(folder / CARD_FILE)):
        with pytest.raises(BadCheckpoint, match='cooper.json (cannot be read|is not a JSON obj)'):
            read(tmp_path)


def test_our_own_card_is_read() -> None:
    nano = Path(__file__).parents[1] / 'models' / 'cooper-nano'
    assert read_card(nano).to_json() == json.loads((nano / CARD_FILE).read_text())
