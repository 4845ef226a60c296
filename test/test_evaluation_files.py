"""``cooper evaluate`` on people's own files, and scores that depend on the model alone."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.map_files import MILLIMETRES, photo, save
from support.tiny import tiny_engine
from typer.testing import CliRunner

from cooper_ros.config import CooperConfig
from cooper_ros.engine.engine import CooperEngine
from cooper_ros.errors import BadOption, NoAnswer, OutOfDisk
from cooper_ros.evaluation import scenes_suite
from cooper_ros.evaluation.arguments import MODEL_FILES
from cooper_ros.evaluation.benchmarks.adapters import SiBench
from cooper_ros.evaluation.benchmarks.identity import model_name, sampled
from cooper_ros.evaluation.benchmarks.run import run
from cooper_ros.evaluation.benchmarks.table import Table
from cooper_ros.evaluation.cli import app
from cooper_ros.evaluation.suites import SuiteOptions, run_file_suite
from cooper_ros.runtime.card import Quantisation
from cooper_ros.runtime.compiled import compiled_runtime_of
from cooper_ros.runtime.quantised import quantise, restore

# ---- scores do not depend on the speed of the machine


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[CooperConfig]:
    """The settings that models are loaded with; a tiny one is loaded instead."""
    configs = []

    def load(folder: str, config: CooperConfig) -> CooperEngine:
        configs.append(config)
        return tiny_engine(len(configs), config.replaced(flow_points=2, max_question_chars=1))

    monkeypatch.setattr(CooperEngine, 'from_pretrained', load)
    monkeypatch.setattr(scenes_suite, 'constants', dict)
    looks_like_a_model(tmp_path)
    return configs


def looks_like_a_model(folder: Path) -> None:
    for name in MODEL_FILES:
        (folder / name).write_text('{}')


def test_no_request_is_cut_short_and_nothing_but_failures_is_an_error(
        loaded: list, tmp_path: Path) -> None:
    out, other = tmp_path / 'scores.json', str(tmp_path)
    done = CliRunner().invoke(app, ['--count', '1', '--maps', '0', '--mode', 'direct', '--variant',
                                    other, '--json', str(out)])
    assert isinstance(done.exception, NoAnswer)
    assert [config.time_budget_s for config in loaded] == [0.0, 0.0]
    found = json.loads(out.read_text())
    asked = found['overall']['questions']
    assert found['failures'] == 2 * asked  # each with its picture and with a grey one
    assert found['variants'][other]['failures'] == asked
    held_out = [row for row in found['rows'] if row['held_out']]
    assert 0 < len(held_out) == found['held_out']['questions'] < asked
    assert f'{2 * asked} requests failed; their answers count as wrong' in done.stdout
    assert f'every request failed; got {2 * asked} of {2 * asked} to tiny, the first says: ' \
           'BAD_QUESTION: ' in str(done.exception)
    assert found['comparisons']  # printed and kept all the same


def test_a_variant_that_only_fails_is_an_error(loaded: list, monkeypatch: pytest.MonkeyPatch,
                                               tmp_path: Path) -> None:
    monkeypatch.setattr(CooperEngine, 'from_pretrained', lambda folder, config: tiny_engine(
        0, config.replaced(max_turn_tokens=2, max_question_chars=1 if folder == str(tmp_path)
                           else 4000)))
    done = CliRunner().invoke(app, ['--count', '1', '--maps', '0', '--mode', 'direct', '--variant',
                                    str(tmp_path)])
    assert isinstance(done.exception, NoAnswer)
    assert f'to {tmp_path}, the first says: BAD_QUESTION' in str(done.exception)


def test_a_table_of_failures_is_an_error_and_no_score(tmp_path: Path) -> None:
    table, out = table_of(tmp_path), tmp_path / 'out.jsonl'
    with pytest.raises(NoAnswer, match='every request failed; got 2 of 2, the first says: BAD_Q'):
        run_file_suite(engine_of(max_question_chars=1), 'sibench', table.path,
                       SuiteOptions(mode='direct', out=out))
    assert len(out.read_text().splitlines()) == 2  # what was said is kept


def test_without_failures_nothing_is_said(loaded: list, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CooperEngine, 'from_pretrained', lambda folder, config: tiny_engine(
        0, config.replaced(max_turn_tokens=2)))
    done = CliRunner().invoke(app, ['--count', '1', '--maps', '0', '--mode', 'direct'],
                              catch_exceptions=False)
    assert 's a question' in done.stdout and 'failed' not in done.stdout


# ---- answers belong to the model that gave them


def table_of(folder: Path, count: int = 2) -> Table:
    photo(folder / 'a.png')
    path = folder / 't.tsv'
    path.write_text('index\tquestion\tanswer\ttype\timage_path\n' + ''.join(
        f'{number}\tq{number}?\tYes\tYN\ta.png\n' for number in range(count)))
    return Table(path, SiBench().columns)


def engine_of(seed: int = 0, **changes: Any) -> CooperEngine:
    return tiny_engine(seed, CooperConfig(max_turn_tokens=4, **changes))


def test_answers_of_another_model_mode_seed_or_setting_are_refused(tmp_path: Path) -> None:
    table, out = table_of(tmp_path), tmp_path / 'out.jsonl'
    run(engine_of(), SiBench(), table, mode='direct', limit=1, out=out)
    line = json.loads(out.read_text())
    assert line['model'] == model_name(engine_of()) and line['model'].startswith('tiny float32 ')
    assert (line['mode'], line['seed']) == ('direct', 0)
    ours, theirs = (model_name(engine_of(seed)) for seed in (0, 1))
    for engine, mode, seed, words in (
            (engine_of(1), 'direct', 0, f'got {out}: model {ours}; allowed: model {theirs}'),
            (engine_of(), 'text', 0, 'mode direct; allowed: mode text'),
            (engine_of(), 'direct', 7, 'seed 0; allowed: seed 7'),
            (engine_of(flow_points=9), 'direct', 0, "settings {'flow_points': 9}")):
        with pytest.raises(BadOption, match='give another --out') as refused:
            run(engine, SiBench(), table, mode=mode, seed=seed, out=out)
        assert words in str(refused.value).replace("'max_turn_tokens': 4, ", '')
    assert len(out.read_text().splitlines()) == 1
    assert len(run(engine_of(), SiBench(), table, mode='direct', out=out)) == 2


def test_answers_from_before_models_were_named_are_refused(tmp_path: Path) -> None:
    table, out = table_of(tmp_path), tmp_path / 'out.jsonl'
    out.write_text('{"mode": "direct", "index": "0", "prompt": "q0?", "error": ""}\n')
    with pytest.raises(BadOption, match='model unknown; allowed: model tiny'):
        run(engine_of(), SiBench(), table, mode='direct', out=out)


def test_what_failed_is_asked_again_and_a_cut_line_harms_no_other(tmp_path: Path) -> None:
    table, out = table_of(tmp_path), tmp_path / 'out.jsonl'
    failed = run(engine_of(max_question_chars=1), SiBench(), table, mode='direct', out=out)
    assert [record.decided for record in failed] == ['failed', 'failed']
    with open(out, 'a') as file:
        file.write('{"index": "0", "resp')  # killed while writing
    again = run(engine_of(), SiBench(), table, mode='direct', out=out)
    assert all(record.response and not record.error for record in again)
    assert len(out.read_text().splitlines()) == 5
    assert run(engine_of(), SiBench(), table, mode='direct', out=out) == again
    assert len(out.read_text().splitlines()) == 5


def test_other_questions_are_refused(tmp_path: Path) -> None:
    table, out = table_of(tmp_path), tmp_path / 'out.jsonl'
    run(engine_of(), SiBench(), table, mode='direct', out=out)
    (tmp_path / 't.tsv').write_text((tmp_path / 't.tsv').read_text().replace('q1?', 'why?'))
    with pytest.raises(BadOption, match='other questions.*row 1'):
        run(engine_of(), SiBench(), Table(table.path, ()), mode='direct', out=out)


def test_a_model_is_known_by_weights_texts_and_card(tmp_path: Path) -> None:
    engine = engine_of()
    name = model_name(engine)
    assert name == model_name(engine_of()) != model_name(tiny_engine(depth_range_m=(0.2, 8.0)))
    parts = engine.parts
    engine.parts = dataclasses.replace(parts, prompts=dataclasses.replace(parts.prompts, depth=''))
    assert model_name(engine) != name
    engine.parts = parts
    parts.runtime.vae.state_dict()['decoder.conv_out.bias'] += 1e-3
    assert model_name(engine) != name


@pytest.mark.parametrize('how', [Quantisation('int8'), Quantisation('int4', 32)])
def test_quantised_weights_are_looked_at_too(how: Quantisation) -> None:
    weights = torch.randn(2, 64, 128, generator=torch.Generator().manual_seed(0))
    first, second = (restore(*quantise(weight, how), how, torch.float32) for weight in weights)
    found = list(sampled(first))
    assert len(found) == 3 and found == list(sampled(first)) != list(sampled(second))


def test_graphs_are_known_by_the_files_they_came_from(tmp_path: Path) -> None:
    folder = tmp_path / 'model'
    folder.mkdir()
    (folder / 'ema.safetensors').write_bytes(b'one')
    engine = engine_of(model_path=str(folder), engine_cache=str(tmp_path))
    engine.parts = dataclasses.replace(engine.parts, runtime=compiled_runtime_of(
        engine.parts.runtime, backend='eager'))
    name = model_name(engine)
    assert name == model_name(engine)
    (folder / 'ema.safetensors').write_bytes(b'other')
    assert model_name(engine) != name


def test_files_that_cannot_be_written_are_an_error_of_ours(tmp_path: Path) -> None:
    table, full = table_of(tmp_path, 1), tmp_path / 'full.png'
    with pytest.raises(BadOption, match='--out cannot be written; got .*x.jsonl: No such file'):
        run(engine_of(), SiBench(), table, mode='direct', out=tmp_path / 'gone' / 'x.jsonl')
    save(tmp_path / 'a_depth.png', MILLIMETRES)
    full.symlink_to('/dev/full')
    with pytest.raises(OutOfDisk, match='for the file of --sheet; got .*full.png: No space left'):
        run_file_suite(tiny_engine(), 'depth', tmp_path, SuiteOptions(sheet=full))
