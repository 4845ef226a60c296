"""`make engines`: what has passed is not done again, what fails is said, builds are real."""

from __future__ import annotations

import importlib.util
import re
import signal
import sys
from pathlib import Path
from types import ModuleType
from typing import Iterator

import pytest
from support.exported import tiny_bundle

SCRIPT = Path(__file__).parents[1] / 'benchmarks' / 'build_engines.py'
TRIED: list[str] = []
BAD: set[str] = set()


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, with steps that only note that they were asked for."""
    spec = importlib.util.spec_from_file_location('build_engines', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, 'build_engines', module)
    spec.loader.exec_module(module)
    TRIED.clear()
    BAD.clear()

    def steps(asked: list, words: object, told: object) -> Iterator:
        for step in asked:
            TRIED.append(step.name)
            bad = step.name in BAD
            yield step, {'verdict': 'FAIL' if bad else 'ok', 'seconds': 1.0, 'peak': 1 << 30,
                         **({'note': 'said why'} if bad else {}),
                         **({} if step.graph else {'errors': {'flow': 1e-6, 'latents': 1e-6}})}

    monkeypatch.setattr(module, 'run_steps', steps)
    return module


def run(script: ModuleType, out: Path, *more: str) -> int:
    return script.main(['--case', 'odd', '--graph', 'flow', '--graph', 'latents', '--out',
                        str(out), *more])


EXPORT = 'odd fp32 export'
ENGINES = [f'odd fp32 {graph} {arch}' for arch in ('SM86', 'SM89') for graph in ('flow',
                                                                                'latents')]


def test_what_has_passed_is_shown_and_not_done_again(
        script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    assert run(script, tmp_path) == 0 and TRIED == [EXPORT, *ENGINES]
    TRIED.clear()
    assert run(script, tmp_path) == 0 and TRIED == []
    assert capsys.readouterr().out.count('| odd | fp32 | flow | SM89 | 1.0 |') == 2
    monkeypatch.setattr(script, 'fingerprint', lambda case, precision: 'other code')
    assert run(script, tmp_path) == 0 and TRIED == [EXPORT, *ENGINES]


def test_only_what_failed_is_tried_again(script: ModuleType, tmp_path: Path,
                                         capsys: pytest.CaptureFixture[str]) -> None:
    BAD.add(ENGINES[2])
    assert run(script, tmp_path) == 1
    said = capsys.readouterr().out
    assert f'1 of 5 failed\n  {ENGINES[2]}' in said and 'FAIL said why' in said
    folder = script.folder_of(tmp_path, script.Step('odd', 'fp32'))
    folder.mkdir(parents=True)
    (folder / script.DESCRIPTION).write_text('{}')
    TRIED.clear(), BAD.clear()
    assert run(script, tmp_path) == 0 and TRIED == [ENGINES[2]]
    assert not folder.exists()  # all has passed: 7B widths take gigabytes


def test_without_graphs_nothing_is_built(script: ModuleType, tmp_path: Path) -> None:
    BAD.add(EXPORT)
    assert run(script, tmp_path) == 1 and TRIED == [EXPORT]
    assert run(script, tmp_path, '--arch', 'SM87') == 2


def test_a_real_engine_is_built_proved_and_removed(script: ModuleType, tmp_path: Path) -> None:
    step, told = script.Step('odd', 'fp32', 'latents', 'SM89'), []
    folder = script.folder_of(tmp_path, step)
    folder.parent.mkdir()
    folder.symlink_to(tiny_bundle().folder)
    words = script.parsed(['--out', str(tmp_path)])
    row = script.done(step, words, lambda at, what: told.append(at))
    assert row['verdict'] == 'ok' and row['engine'] > row['weights'] / 2 and told[-1] == 1.0
    assert not list(tmp_path.glob('*.engine'))
    refused = script.done(script.Step('odd', 'fp32', 'latents', 'SM1'), words, print)
    assert refused['verdict'] == 'FAIL' and 'SM1' in refused['note']


def test_too_little_memory_is_said_beforehand(script: ModuleType, tmp_path: Path,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, 'memory_of', lambda file, entry: 3 << 30)
    row = script.done(script.Step('official', 'fp16'), script.parsed(['--out', str(tmp_path)]),
                      print)
    assert row['verdict'] == 'FAIL'
    assert re.fullmatch(r'needs about 9\.\d GiB of memory, 3\.0 are free', row['note']), row


def test_a_process_that_dies_costs_one_step(tmp_path: Path) -> None:
    """Of the real runner: the second step kills its process, the third is done by another."""
    spec = importlib.util.spec_from_file_location('plain_build_engines', SCRIPT)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    child = tmp_path / 'child.py'
    child.write_text(f"""
import json, os, sys
for step in json.loads(sys.argv[sys.argv.index('--steps') + 1]):
    print('a package that prints')
    print(json.dumps({{'at': 0.5, 'what': step['graph']}}), flush=True)
    if step['graph'] == 'flow':
        sys.stderr.write('last words\\n')
        sys.stderr.flush()
        os.kill(os.getpid(), {int(signal.SIGKILL)})
    print(json.dumps({{'row': {{'verdict': 'ok'}}}}), flush=True)
""")
    module.__file__ = str(child)
    steps = [module.Step('odd', 'fp32', graph, 'SM86') for graph in ('vision', 'flow', 'latents')]
    told: list[str] = []
    rows = dict(module.run_steps(steps, module.parsed(['--out', str(tmp_path)]),
                                 lambda at, what: told.append(what)))
    assert [rows[step]['verdict'] for step in steps] == ['ok', 'FAIL', 'ok']
    assert rows[steps[1]]['note'] == 'its process ended with -9 and said: last words'
    assert told == ['vision', 'flow', 'latents']
