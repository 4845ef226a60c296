"""Quantised checkpoints: round trip, error per layer, strictness and refusals."""

from __future__ import annotations

import json
import re
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from model_folder import write_model_folder
from safetensors.torch import load_file, save_file
from support.tiny import tiny_runtime

from cooper_ros.cli import main
from cooper_ros.config import CooperConfig
from cooper_ros.engine.engine import CooperEngine
from cooper_ros.errors import BadCheckpoint, BadOption
from cooper_ros.evaluation.parity import compare, first_difference
from cooper_ros.runtime import files
from cooper_ros.runtime import quantise as quantising
from cooper_ros.runtime.card import Quantisation, read_card
from cooper_ros.runtime.checkpoint import read_model_folder
from cooper_ros.runtime.files import Unwritable
from cooper_ros.runtime.quantise import INDEX_FILE, quantise_folder
from cooper_ros.runtime.quantised import (
    check_shapes,
    choose_group,
    is_quantised,
    quantise,
    restore,
)

# e4m3 at the top of its range steps by 32, at most 448: half a step is 1 of 28
FORMATS = {'int8': (Quantisation('int8'), 127.5), 'int4': (Quantisation('int4', 64), 7.5),
           'fp8': (Quantisation('fp8'), 14)}
KEY = 'language_model.model.layers.1.self_attn.q_proj_moe_gen.weight'
FIRST = 'model-00001.safetensors'


@pytest.fixture(scope='module')
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model_folder(tmp_path_factory.mktemp('plain') / 'tiny')


@pytest.fixture(scope='module')
def made(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp('made')
    for name in FORMATS:
        quantise_folder(plain, root / name, name)
    return {name: root / name for name in FORMATS}


@pytest.mark.parametrize('name', FORMATS)
def test_every_layer_is_within_half_a_step_and_the_rest_is_untouched(
        made: dict[str, Path], name: str) -> None:
    how, steps = FORMATS[name]
    loaded = read_model_folder(made[name])
    assert loaded.card.quantization == how
    count = 0
    for key, truth in tiny_runtime().network.state_dict().items():
        found = loaded.network.state_dict()[key]
        if not is_quantised(key):
            assert torch.equal(found, truth), key
            continue
        count += 1
        groups = truth.unflatten(1, (-1, how.group or truth.shape[1]))
        bound = groups.abs().amax(-1, keepdim=True) / steps * 0.501
        error = (found.dequantize().view_as(groups) - groups).abs()
        assert (error <= bound).all() and error.max() > 0, key
    assert count == 2 * 2 * 7  # layers, experts, projections


@pytest.mark.parametrize('name', FORMATS)
def test_a_quantised_folder_answers_close_to_the_original(made: dict[str, Path],
                                                          name: str, plain: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    config = CooperConfig(device='cpu', dtype='float32')
    one, other = (CooperEngine.from_pretrained(path, config).estimate_depth(picture).relative
                  for path in (plain, made[name]))
    assert one.shape == other.shape and np.isfinite(other).all()
    assert not np.array_equal(one, other)


def test_int4_is_packed_on_disk(made: dict[str, Path]) -> None:
    stored = load_file(made['int4'] / FIRST)
    rows, columns = tiny_runtime().network.state_dict()[KEY].shape
    assert stored[KEY].dtype == torch.uint8 and stored[KEY].shape == (rows, columns // 2)


def test_bfloat16_computes_in_bfloat16() -> None:
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    tensor = restore(*quantise(weight, Quantisation('int8')), Quantisation('int8'),
                     torch.bfloat16)
    x = torch.randn(2, 64, dtype=torch.bfloat16)
    assert torch.nn.functional.linear(x, tensor).dtype == torch.bfloat16


def test_shards_are_indexed_and_load_the_same(plain: Path, tmp_path: Path,
                                              made: dict[str, Path]) -> None:
    seen: list[tuple[int, int]] = []
    quantise_folder(plain, tmp_path / 'q', 'int4', shard_bytes=50_000,
                    progress=lambda *told: seen.append(told))
    names = set(json.loads((tmp_path / 'q' / INDEX_FILE).read_text())['weight_map'].values())
    assert len(names) > 2 and seen[-1][0] == seen[-1][1]
    one, other = (read_model_folder(path).network.state_dict()[KEY].dequantize()
                  for path in (tmp_path / 'q', made['int4']))
    assert torch.equal(one, other)


def _broken(made: dict[str, Path], tmp_path: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    folder = Path(shutil.copytree(made['int4'], tmp_path / 'q'))
    return folder, load_file(folder / FIRST)


def test_a_missing_scale_is_named(made: dict[str, Path], tmp_path: Path) -> None:
    folder, tensors = _broken(made, tmp_path)
    del tensors[KEY + '_scale']
    save_file(tensors, folder / FIRST)
    with pytest.raises(BadCheckpoint, match=f'has no scale; got {KEY}_scale: missing'):
        read_model_folder(folder)


@pytest.mark.parametrize('shape', [(64,), (2, 2, 2), (), (0, 8)])
@pytest.mark.parametrize('name', FORMATS)
def test_a_layer_that_is_no_matrix_is_named(made: dict[str, Path], tmp_path: Path,
                                            name: str, shape: tuple[int, ...]) -> None:
    """Both where it is said to be quantised and where it is to be."""
    wrong = re.escape(f'no sizes can be read from; got {KEY} {list(shape)}; allowed: 2 sizes')
    folder = Path(shutil.copytree(made[name], tmp_path / 'q'))
    tensors = load_file(folder / FIRST)
    tensors[KEY] = torch.zeros(shape, dtype=tensors[KEY].dtype)
    save_file(tensors, folder / FIRST)
    with pytest.raises(BadCheckpoint, match=wrong):
        read_model_folder(folder)
    (tmp_path / 'm').mkdir()
    save_file({KEY: torch.ones(shape)}, tmp_path / 'm' / 'ema.safetensors')
    with pytest.raises(BadCheckpoint, match=wrong):
        quantise_folder(tmp_path / 'm', tmp_path / 'new', name)
    assert not (tmp_path / 'new').exists()


@pytest.mark.parametrize(('declared', 'message'), [
    ({'format': 'int4', 'group': 32}, 'do not fit the declared group size'),
    ({'format': 'int4', 'group': 48}, 'does not divide a layer; got .+: 128 inputs, group 48;'),
    ({'format': 'int4', 'group': 0}, 'cannot be read; got format int4, group 0'),
    ({'format': 'int3', 'group': 0}, 'cannot be read; got format int3'),
    (None, r'28 of another type: .* U8, .*remedy: .*quantised weights are declared')])
def test_a_wrong_declaration_is_refused(made: dict[str, Path], tmp_path: Path,
                                        declared: object, message: str) -> None:
    folder, _ = _broken(made, tmp_path)
    card = json.loads((folder / 'cooper.json').read_text())
    (folder / 'cooper.json').write_text(json.dumps({**card, 'quantization': declared}))
    with pytest.raises(BadCheckpoint, match=message):
        read_model_folder(folder)


def test_what_cannot_be_done_is_refused(plain: Path, made: dict[str, Path],
                                        tmp_path: Path) -> None:
    with pytest.raises(BadOption, match='unknown format of weights; got fp7'):
        quantise_folder(plain, tmp_path / 'q', 'fp7')
    with pytest.raises(BadOption, match='would replace the old one'):
        quantise_folder(plain, plain, 'int8', force=True)
    with pytest.raises(BadCheckpoint, match='quantised already'):
        quantise_folder(made['int8'], tmp_path / 'q', 'int8')
    with pytest.raises(BadOption, match='no group size divides'):
        choose_group({40})
    assert choose_group({3584, 18944}) == 128 and choose_group({64, 128}) == 64


def test_the_command_writes_once_and_again_with_force(
        plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ['quantize', str(plain), '--to', 'int8', '--out', str(tmp_path / 'q')]
    for extra, status in (([], 0), ([], 2), (['--force'], 0)):
        with pytest.raises(SystemExit) as end:
            main([*words, *extra])
        assert end.value.code == status
    assert 'the output exists' in capsys.readouterr().err
    assert read_card(tmp_path / 'q').quantization == Quantisation('int8')
    assert [path.name for path in tmp_path.iterdir()] == ['q']


def test_the_old_folder_stays_until_the_new_one_is_complete(
        plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / 'q'
    quantise_folder(plain, out, 'int8')

    def refused(*arguments: object) -> None:
        raise PermissionError(13, 'no')

    with monkeypatch.context() as patch:
        patch.setattr(quantising.shutil, 'copy2', refused)
        with pytest.raises(Unwritable, match='ae.safetensors.*: no; .*remedy: change the rights, '
                           'or name another folder with --out'):
            quantise_folder(plain, out, 'int4', force=True)
    assert read_card(out).quantization == Quantisation('int8')
    assert [path.name for path in tmp_path.iterdir()] == ['q']
    synced: list[str] = []
    monkeypatch.setattr(files, 'sync_tree', lambda folder: synced.append(read_card(folder).name))
    quantise_folder(plain, out, 'int4', force=True)
    assert synced == ['tiny'] and read_model_folder(out).card.quantization.format == 'int4'
    assert [path.name for path in tmp_path.iterdir()] == ['q']


def test_a_second_run_waits_and_then_finds_the_output(plain: Path, tmp_path: Path,
                                                      caplog: pytest.LogCaptureFixture) -> None:
    begun, may_go, refused = threading.Event(), threading.Event(), []

    def stop(done: int, total: int) -> None:
        begun.set()
        assert may_go.wait(60)

    def second() -> None:
        try:
            quantise_folder(plain, tmp_path / 'q', 'int4')
        except BadOption as error:
            refused.append(str(error))

    first = threading.Thread(target=quantise_folder, args=(plain, tmp_path / 'q', 'int8'),
                             kwargs={'progress': stop})
    first.start()
    assert begun.wait(60)
    other = threading.Thread(target=second)
    other.start()
    while 'waiting for another run that writes' not in caplog.text and other.is_alive():
        other.join(0.01)
    may_go.set()
    first.join()
    other.join()
    assert 'the output exists' in refused[0]
    assert read_model_folder(tmp_path / 'q').card.quantization == Quantisation('int8')
    assert [path.name for path in tmp_path.iterdir()] == ['q']


@pytest.mark.parametrize('name', ['q', 'deep/er/q'])
def test_a_copy_inside_its_source_is_refused(plain: Path, tmp_path: Path, name: str) -> None:
    source = Path(shutil.copytree(plain, tmp_path / 'm'))
    before = {path.name for path in source.iterdir()}
    with pytest.raises(BadOption, match=f'the new folder would lie in the old one; got .+{name}; '
                       'allowed: a folder outside; remedy: name another --out'):
        quantise_folder(source, source / name, 'int8')
    assert {path.name for path in source.iterdir()} == before


@pytest.mark.parametrize('target', ['nowhere', 'q', 'model'])
@pytest.mark.parametrize('force', [True, False])
def test_a_link_is_no_new_folder(plain: Path, tmp_path: Path, target: str, force: bool,
                                 capsys: pytest.CaptureFixture[str]) -> None:
    """One that leads nowhere, to itself, or to a model folder that is there."""
    shutil.copytree(plain, tmp_path / 'model')
    (tmp_path / 'q').symlink_to(target)
    with pytest.raises(SystemExit) as end:
        main(['quantize', str(plain), '--out', str(tmp_path / 'q'), *['--force'] * force])
    assert end.value.code == 2
    assert (f'cooper: BAD_OPTION: the new folder is a link; got {tmp_path / "q"} -> {target}; '
            'allowed: a new folder') in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ['model', 'q']


def test_a_layer_with_one_input_is_named(tmp_path: Path) -> None:
    """torchao takes its scale for one of the whole layer, and fails in words of its own."""
    key = 'language_model.model.layers.0.mlp.down_proj.weight'
    (tmp_path / 'm').mkdir()
    save_file({key: torch.ones(8, 1)}, tmp_path / 'm' / 'ema.safetensors')
    with pytest.raises(BadOption, match=re.escape(
            f'int8 does not take a layer with one input; got {key} [8, 1]; allowed: 2 inputs')):
        quantise_folder(tmp_path / 'm', tmp_path / 'q', 'int8')
    assert not (tmp_path / 'q').exists()
    for shape in ((1, 1), (1, 3), (3, 2), (5, 3)):
        check_shapes({key: shape})
        stored, scale = quantise(torch.randn(shape), Quantisation('int8'))
        assert (stored.shape, scale.shape) == (shape, (shape[0], 1))


def test_nano_in_int8_is_compared_question_by_question(tmp_path: Path) -> None:
    nano = Path(__file__).parent.parent / 'models' / 'cooper-nano'
    quantise_folder(nano, tmp_path / 'q', 'int8')
    config = CooperConfig(device='cpu', dtype='float32', mode='direct')
    plain, small = (CooperEngine.from_pretrained(path, config)
                    for path in (nano, tmp_path / 'q'))
    rows = list(compare(plain, small, count=2))
    assert sum(row.agree for row in rows) >= 0.8 * len(rows) > 10
    assert all(0 < row.logits < 0.5 for row in rows)
    assert all(row.differs_at is not None for row in rows if not row.agree)
    same = list(compare(plain, plain, count=1))
    assert all(row.agree and row.logits == 0 and row.differs_at is None for row in same)


def test_the_first_difference_is_counted_without_the_begin_marker() -> None:
    assert first_difference([1, 5, 6], [1, 5, 7]) == 1
    assert first_difference([1, 5], [1, 5, 7]) == 1
    assert first_difference([1, 5], [1, 5]) is None
