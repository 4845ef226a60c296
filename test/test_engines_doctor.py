"""What fits where, and what this machine has."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.tiny import tiny_config

from cooper_ros.errors import BadOption
from cooper_ros.model.config import ModelConfig
from cooper_ros.runtime import doctor
from cooper_ros.runtime.doctor import COMPILED, EVERYTHING, GIB, TALK_ONLY, Need
from cooper_ros.runtime.engines import leftovers
from cooper_ros.runtime.engines.torch_tensorrt import pins

NEEDS = doctor.needs(ModelConfig.official_7b())
ORIN, ADA = (8, 7), (8, 9)


def need(precision: str, use: str) -> Need:
    (found,) = [one for one in NEEDS if (one.precision, one.use) == (precision, use)]
    return found


@pytest.mark.parametrize(('precision', 'use', 'gib'), [
    ('bf16', EVERYTHING, 27.4), ('int8', EVERYTHING, 15.2), ('int4', EVERYTHING, 9.5),
    ('bf16', COMPILED, 39.5), ('fp8', COMPILED, 21.3), ('int4', COMPILED, 12.6),
    ('bf16', TALK_ONLY, 15.0), ('int8', TALK_ONLY, 8.9), ('int4', TALK_ONLY, 6.1)])
def test_weights_of_the_published_size(precision: str, use: str, gib: float) -> None:
    """14.607 billion parameters and the autoencoder; arithmetic of the reference within 0.2."""
    assert need(precision, use).weights / GIB == pytest.approx(gib, abs=0.2)


def test_engines_of_the_published_size_fit_a_board_of_64_gb() -> None:
    """The network in PyTorch is gone before they are loaded."""
    assert need('bf16', COMPILED).total / GIB == pytest.approx(42.8, abs=0.1)
    rows = doctor.need_rows(ModelConfig.official_7b(), ORIN, 58 * GIB)
    assert ('bf16', COMPILED, '42.8 GiB', 'fits') in rows
    assert ('bf16', EVERYTHING, '30.7 GiB', 'fits') in rows


@pytest.mark.parametrize(('capability', 'free', 'said'), [
    (ADA, 46, 'everything in bf16 fits: about 30.7 of 46.0 GiB'),
    (ORIN, 58, 'everything in bf16 fits: about 30.7 of 58.0 GiB'),
    (ADA, 23, 'everything in fp8 fits: about 18.5 of 23.0 GiB'),
    (ORIN, 13, 'understanding only in int8 fits: about 10.2 of 13.0 GiB, with load_drawing '
     'first_map and mode direct or text. Not part of this version: everything in int4 would fit'),
    (ORIN, 10, 'nothing that this version runs fits 10.0 GiB: use a smaller checkpoint'),
    (ORIN, 23, 'everything in int8 fits'), (ORIN, 13, 'everything in int4 would fit'),
    (ORIN, 10, 'understanding only in int4 would fit: about 7.2'),
    (ORIN, 6, 'use a smaller checkpoint, such as cooper-nano')])
def test_advice_takes_the_best_that_fits(capability: tuple[int, int], free: int,
                                         said: str) -> None:
    assert said in doctor.advice(NEEDS, capability, free * GIB)


def test_what_is_out_of_reach_says_why() -> None:
    for there in (ORIN, None):
        said = doctor.can_run(need('fp8', EVERYTHING), there, 99 * GIB)
        assert said == 'no fp8 kernels on this device'
    assert doctor.can_run(need('bf16', COMPILED), None, 99 * GIB) == 'engines run on a GPU'
    assert doctor.can_run(need('bf16', COMPILED), ADA, 99 * GIB) == ''
    assert doctor.can_run(need('bf16', EVERYTHING), ADA, 23 * GIB).endswith('GiB too much')
    assert doctor.can_run(need('int4', EVERYTHING), ADA, 23 * GIB) == ''


def test_larger_pictures_and_contexts_need_more() -> None:
    small, tiny = tiny_config(), doctor.needs(tiny_config())[0]
    assert doctor.needs(small, context=16384)[0].working > tiny.working
    assert doctor.needs(small, side=1024)[0].working > tiny.working
    assert doctor.needs(small, side=1024)[0].weights == tiny.weights < 10 * (1 << 20)


def test_facts_of_this_machine() -> None:
    found = {fact.what: fact for fact in doctor.facts()}
    assert list(found) == ['driver', 'CUDA', 'GPU', 'CPU', 'TensorRT', 'Torch-TensorRT',
                           'onnxruntime', 'host memory', 'engine cache']
    assert found['TensorRT'].value.startswith('tensorrt-rtx 1.') and found['TensorRT'].good
    assert 'SM89' in found['TensorRT'].value
    assert all(fact.next for fact in found.values() if fact.good is False)


@pytest.mark.parametrize(('said', 'value', 'good'), [
    ('580.65.06\n580.65.06\n', '580.65.06', True), ('', 'nvidia-smi fails', False)])
def test_several_gpus_have_one_driver(said: str, value: str, good: bool,
                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, 'which', lambda tool: tool)
    monkeypatch.setattr(doctor, '_run', lambda command: said)
    found = doctor.driver()
    assert (found.value, found.good, bool(found.next)) == (value, good, not good)


@pytest.mark.parametrize(('said', 'value', 'good'), [
    (b'# R36 (release), REVISION: 4.3\nmore', 'R36 (release), REVISION: 4.3', True),
    (b'', 'names no release', None), (b'\n', 'names no release', None),
    (b'# R\xff', 'R\ufffd', True), (None, 'Is a directory', None)])
def test_the_release_of_a_jetson_is_a_finding(
        said: bytes | None, value: str, good: bool | None, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / 'release'
    monkeypatch.setattr(doctor, 'TEGRA', place)
    if said is None:
        place.mkdir()
        monkeypatch.setattr(Path, 'is_file', lambda path: True)
    else:
        place.write_bytes(said)
    found = doctor.driver()
    assert value in found.value and found.good is good and bool(found.next) is not bool(good)


@pytest.mark.parametrize(('said', 'value', 'good'), [
    ('["tensorrt", "10.3.0", ["SM87"]]\n', 'tensorrt 10.3.0, builds for SM87', True),
    ('a library\n["tensorrt", "10.3.0", []]\n', 'tensorrt 10.3.0, builds for no GPU', False),
    ('null\n', 'none', None), ('', 'none', None), (' \n', 'none', None),
    ('null\nleaks 3 objects\n', 'says what cannot be read: null\nleaks 3 objects', False),
    ('5', 'says what', False), ('["a", "b", 5]', 'says what', False), ('[1]', 'says what', False),
    ('[' * 200_000, 'says what', False)])
def test_whatever_the_probe_of_tensorrt_says_is_a_finding(
        said: str, value: str, good: bool | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, '_run', lambda command: said)
    found = doctor.tensorrt()
    assert found.value.startswith(value) and found.good is good
    assert bool(found.next) or found.good is not None


def test_a_library_that_raises_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise RuntimeError('CUDA unknown error')

    monkeypatch.setattr(doctor.torch.cuda, 'is_available', broken)
    monkeypatch.setattr(doctor, '_run', lambda command: '')
    found = {fact.what: fact for fact in doctor.facts()}
    assert len(found) == 9 and found['GPU'].good is False and found['GPU'].next
    assert found['GPU'].value == 'cannot be found out: RuntimeError: CUDA unknown error'


@pytest.mark.parametrize(('mode', 'said', 'good'), [
    (0o700, 'only this user may write it', True), (0o755, 'only this user may write it', True),
    (0o775, 'the group of this user may write ', None), (0o777, 'anyone may write ', False),
    (0o1777, 'anyone may write ', False), (None, 'not there yet', None)])
def test_who_else_may_write_engines_is_told(mode: int | None, said: str, good: bool | None,
                                            tmp_path: Path) -> None:
    cache = tmp_path / 'a cache'
    if mode is not None:
        cache.mkdir()
        cache.chmod(mode)
    (found,) = (fact for fact in doctor.facts(cache) if fact.what == 'engine cache')
    assert said in found.value and str(cache) in found.value and found.good is good
    assert found.next == f"run `chmod -R go-w '{cache}'`" * said.endswith('may write ')


def test_a_closed_folder_of_graphs_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                           ) -> None:
    def refuse(folder: Path) -> None:
        raise BadOption('a folder cannot be read', value=folder, remedy='change the rights')

    monkeypatch.setattr(leftovers, 'require_readable', refuse)
    found = doctor.engine_cache(tmp_path)
    assert found.value == f'a folder cannot be read: {tmp_path / "graphs"}'
    assert found.good is False and found.next == 'change the rights'


@pytest.mark.parametrize(('able', 'said', 'good'), [
    (True, 'computes in bfloat16', True), (False, 'imitates bfloat16, many times slower', None)])
def test_a_cpu_without_bfloat16_is_told(able: bool, said: str, good: bool | None,
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, 'has_bfloat16', lambda device: able)
    found = doctor.cpu()
    assert said in found.value and found.good is good
    assert ('dtype: auto or float32' in found.next) is not able


@pytest.mark.parametrize(('version', 'pair'), [
    ('2.13.0', ('2.13', '11.0')), ('2.8.0+cu126', ('2.8', '10.12')), ('3.0', None)])
def test_pins(version: str, pair: tuple[str, str] | None) -> None:
    assert pins(version) == pair


def test_a_probe_that_crashes_is_a_finding() -> None:
    import sys
    crash = 'import ctypes; print("half"); ctypes.string_at(0)'
    assert doctor._run([sys.executable, '-c', crash]) == ''
    assert doctor._run(['/no/such/program']) == ''
    assert doctor._run([sys.executable, '-c', 'import sys; sys.stdout.buffer.write(b"\\xff")'])


def test_weights_that_only_drawing_needs_are_told_as_loading_tells_them(
        monkeypatch: pytest.MonkeyPatch) -> None:
    before = doctor._parameters(tiny_config())
    monkeypatch.setattr(doctor, 'is_drawing', lambda key: False)
    linear, rest, talk_linear, talk_rest, _ = doctor._parameters(tiny_config())
    assert (talk_linear, talk_rest) == (linear, rest)
    assert before[2] < linear and before[3] < rest
