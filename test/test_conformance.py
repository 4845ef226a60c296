"""The recording of the reference is reproduced, and the comparison notices when it is not."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from cooper_ros.errors import BadData, BadOption, BadPrompts
from cooper_ros.evaluation import conformance
from cooper_ros.evaluation import conformance_rows as rows_
from cooper_ros.evaluation.conformance_pictures import same_order_of_passes

SMALL = Path(__file__).parent / 'data' / 'golden_small'
PARTS = sorted(conformance.PARTS)


@pytest.fixture(scope='module')
def rows() -> list[conformance.Row]:
    """A run on the untouched recording."""
    return conformance.run_conformance(SMALL)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The recording as links; :func:`change` replaces single files."""
    target = tmp_path / 'golden'
    shutil.copytree(SMALL, target, copy_function=os.symlink)
    return target


def change(path: Path, content: bytes | str | dict[str, torch.Tensor]) -> None:
    """Replace a linked file without touching the original."""
    path.unlink()
    if isinstance(content, dict):
        save_file(content, path)
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def run_failed(folder: Path, *parts: str) -> dict[str, conformance.Row]:
    found = conformance.run_conformance(folder, parts=parts or None)
    return {row.item: row for row in conformance.failed(found)}


def test_every_recorded_output_is_reproduced(rows: list[conformance.Row]) -> None:
    assert conformance.failed(rows) == []
    items = {row.item for row in rows}
    assert len(items) == len(rows), 'items have one name each'
    for path in SMALL.glob('*.safetensors'):
        for name in load_file(path):
            assert not name.startswith('out.') or f'{path.stem}.{name}' in items


def test_every_part_contributes_and_numbers_are_real(rows: list[conformance.Row]) -> None:
    for part in PARTS:
        mine = [row for row in rows if row.item.startswith(part)]
        assert len(mine) >= 6, part
        if part != 'i_routes':
            assert all(row.passed or 'Pillow' in row.note for row in mine)
    assert sum(bool(row.max_abs_error) for row in rows) > 80  # not all trivially zero


def test_only_what_needs_the_published_words_is_left_untried(rows: list[conformance.Row]) -> None:
    untried = [row for row in rows if row.passed is None and 'Pillow' not in row.note]
    assert all('prompts' in row.note for row in untried)
    assert len(untried) <= 1


def test_only_what_an_old_pillow_does_in_another_order_is_excused(
        rows: list[conformance.Row]) -> None:
    assert same_order_of_passes([(74, 52), (80, 48)], '13.0.0')
    assert not same_order_of_passes([(74, 52), (80, 48)], '12.3.0')
    assert not same_order_of_passes([(70, 50), (74, 52), (80, 48)], '9.0.1')
    assert not same_order_of_passes([(58, 90), (56, 84)], '9.0.1')
    assert same_order_of_passes([(74, 52), (80, 60), (40, 40), (20, 20)], '9.0.1')
    assert all('.vae_small' in row.item or '.vit_small' in row.item
               for row in rows if 'Pillow' in row.note)


@pytest.mark.parametrize('weight,hit', [
    ('language_model.model.layers.1.self_attn.q_proj_moe_gen.weight', 'f_generate'),
    ('language_model.model.layers.0.mlp.up_proj.weight', 'd_text'),
    ('vit_model.vision_model.encoder.layers.1.mlp.fc1.bias', 'b_vit'),
    ('time_embedder.mlp.2.bias', 'f_generate')])
def test_a_perturbed_weight_fails(copy: Path, weight: str, hit: str) -> None:
    path = copy / 'checkpoint' / 'ema.safetensors'
    weights = load_file(path)
    weights[weight] = weights[weight] * 1.05
    change(path, weights)
    found = run_failed(copy, 'a_preprocess', 'c_vae', hit)
    assert found and all(item.startswith(hit) for item in found)


def test_a_perturbed_autoencoder_fails(copy: Path) -> None:
    path = copy / 'checkpoint' / 'ae.safetensors'
    weights = load_file(path)
    weights['decoder.conv_out.bias'] += 1e-3
    change(path, weights)
    assert 'c_vae.out.decoded_from_mean_1' in run_failed(copy, 'c_vae')


@pytest.mark.parametrize('part,name', [
    ('a_preprocess', 'out.rgba.rgb_u8'), ('b_vit', 'out.connector'),
    ('c_vae', 'out.moments_1'), ('d_text', 'out.cache.key_2'), ('d_text', 'out.batch.logits'),
    ('e_context', 'out.vae_vit.update_0.hidden'), ('f_generate', 'out.time_embedding'),
    ('f_generate', 'out.depth_route.depth'), ('g_train', 'out.attention_allowed'),
    ('g_train', 'out.grad.llm2vae.bias'), ('h_depth', 'out.ramp_colour_u8_hwc'),
    ('i_routes', 'out.depth_map.depth')])
def test_a_perturbed_expectation_fails_alone(copy: Path, part: str, name: str) -> None:
    """Twice the tolerance in a single number is enough, and only that item is blamed."""
    path = copy / f'{part}.safetensors'
    tensors = load_file(path)
    expected = tensors[name]
    place = expected.abs().flatten().argmin() if expected.is_floating_point() else 0
    step = (2.5 * rows_.general_tolerance(expected) if expected.is_floating_point() else 1)
    expected.view(-1)[place] += step
    change(path, tensors)
    assert list(run_failed(copy, part)) == [f'{part}.{name}']


@pytest.mark.parametrize('part,path,value', [
    ('d_text', ['decode', 'returned_ids', 3], 7), ('d_text', ['prompts', 0, 'rope_after'], 99),
    ('a_preprocess', ['sizes', 'vit_518', 4, 2], 1), ('h_depth', ['align', 'scale'], 1.0),
    ('g_train', ['results', 'ce_mean'], 9.0), ('e_context', ['vae_vit', 'updates', 0,
                                                            'kv_len_after'], 5),
    ('f_generate', ['edit', 'cfg_img'], [1, 1]),
    ('h_depth', ['metrics_on_aligned_clamped_1e-5_80', 'delta1_acc'], 0.5)])
def test_a_perturbed_small_value_fails(copy: Path, part: str, path: list, value: object) -> None:
    values = json.loads((copy / f'{part}.json').read_text())
    holder = values
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    change(copy / f'{part}.json', json.dumps(values))
    found = run_failed(copy, part)
    assert found and all(item.startswith(part) for item in found)


def test_missing_things_are_named(copy: Path) -> None:
    tensors = load_file(copy / 'b_vit.safetensors')
    del tensors['out.layer_1']
    change(copy / 'b_vit.safetensors', tensors)
    (copy / 'h_depth.json').unlink()
    (copy / 'images' / 'a_gray.png').unlink()
    change(copy / 'd_text.json', '{ no json')
    change(copy / 'c_vae.safetensors', b'damaged')
    found = run_failed(copy, *PARTS[:5], 'h_depth')
    assert 'missing from b_vit.safetensors' in found['b_vit.out.layer_1'].note
    assert 'h_depth.json is missing' in found['h_depth'].note
    assert 'a_gray.png' in found['a_preprocess.gray'].note
    assert 'd_text.json is not JSON' in found['d_text'].note
    assert 'c_vae.safetensors is damaged' in found['c_vae'].note
    assert not any(item.startswith('e_context') for item in found)


def test_an_output_nobody_knows_is_a_failure(copy: Path) -> None:
    tensors = load_file(copy / 'c_vae.safetensors')
    tensors['out.surprise'] = torch.zeros(2)
    change(copy / 'c_vae.safetensors', tensors)
    assert run_failed(copy, 'c_vae')['c_vae.out.surprise'].note == 'was not compared'


def test_an_empty_folder_fails_everywhere_and_no_folder_is_an_error(tmp_path: Path) -> None:
    assert sorted(run_failed(tmp_path)) == PARTS
    with pytest.raises(BadData, match='no such folder'):
        conformance.run_conformance(tmp_path / 'nowhere')
    with pytest.raises(BadOption, match='unknown part; got j_more'):
        conformance.run_conformance(SMALL, parts=['j_more'])


@pytest.mark.parametrize('name,error,said', [
    ('nowhere', BadData, 'no such prompts; got {path}'),
    ('notes.txt', BadData, 'no such prompts; got {path}'),
    ('', BadPrompts, 'prompts.yaml is missing; got {path}')])
def test_prompts_that_are_not_there_are_one_error(tmp_path: Path, name: str,
                                                  error: type[Exception], said: str) -> None:
    (tmp_path / 'notes.txt').write_text('not the prompts')
    with pytest.raises(error, match=re.escape(said.format(path=tmp_path / name))):
        conformance.run_conformance(SMALL, prompts=tmp_path / name)


def test_the_table_shows_every_item_and_the_verdict() -> None:
    console = Console(width=120, record=True, quiet=False, file=open(os.devnull, 'w'))
    rows_.print_table([rows_.Row('x.good', 1e-7, 1e-6, True), rows_.Row('x.bad', 1.0, 1e-6, False),
                       rows_.Row('x.later', None, None, None, 'needs prompts')], console)
    text = console.export_text()
    assert all(word in text for word in ('x.good', '1.00e-07', 'NO', 'not tried', 'needs prompts'))
    assert '3 items: 1 pass, 1 fail, 1 not tried' in text


@pytest.mark.parametrize('got,expected,passed', [
    ([1.0, 2.0], [1.0, 2.0 + 9e-5], True), ([1.0, 2.0], [1.0, 2.00012], False),
    ([float('nan')], [1.0], False), ([1.0], [float('nan')], False),
    ([float('inf')], [float('inf')], True), ([float('inf')], [1.0], False),
    ([float('inf')], [-float('inf')], False), ([1.0, 1.0], [1.0], False), ([], [], True)])
def test_the_general_rule(got: list, expected: list, passed: bool) -> None:
    row = rows_.compare_tensor('x', torch.tensor(got), torch.tensor(expected))
    assert row.passed is passed


def test_pictures_may_differ_by_one_in_few_places() -> None:
    expected = np.full((20, 20, 3), 7, np.uint8)
    close, far, many = expected.copy(), expected.copy(), expected.copy()
    close[0, 0, 0], far[0, 0, 0] = 8, 9
    many[:1] = 8
    verdicts = [rows_.compare_picture('x', got, expected).passed
                for got in (expected, close, far, many, expected.astype(np.int16))]
    assert verdicts == [True, True, False, False, False]
