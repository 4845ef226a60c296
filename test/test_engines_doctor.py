"""What fits where, and what this machine has."""

from __future__ import annotations

import pytest
from support.tiny import tiny_config

from cooper_ros.model.config import ModelConfig
from cooper_ros.runtime import doctor
from cooper_ros.runtime.doctor import COMPILED, EVERYTHING, GIB, TALK_ONLY, Need
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
    assert doctor.can_run(need('fp8', EVERYTHING), ORIN, 99 * GIB) == 'no fp8 on this device'
    assert doctor.can_run(need('fp8', EVERYTHING), None, 99 * GIB) == 'no fp8 on this device'
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
                           'onnxruntime', 'host memory']
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
