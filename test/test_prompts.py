"""Prompt texts keep their bytes, and only the right texts are taken."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cooper_ros.engine.import_prompts import (
    OFFICIAL,
    Fingerprint,
    compare,
    import_prompts,
    read_constants,
)
from cooper_ros.engine.prompts import OFFICIAL_NAMES, Prompts, load_prompts, save_prompts
from cooper_ros.errors import BadCheckpoint, BadPrompts

TEXTS = {
    'interleave_system': 'Think.\n  Answer in \\boxed{{}}.\n',
    'image_system': 'trailing spaces   \nand a tab\t',
    'think_system': '\n\nstarts and ends with newlines\n\n',
    'gen_think_system': 'quotes \' " and # : - ünïcödé 深度 \U0001f916',
    'depth': '<depth-estimation>draw</depth-estimation>',
    'segmentation': 'null',
    'reflection': '\n  indented first line\nyes\n',
}
SOURCE = '''
import os
os.environ['COOPER_TEST_RAN'] = 'this file must never run'
INTERLEAVE_REASON_SYSTEM_PROMPT = """Think.
  Answer in \\\\boxed{{}}.
"""
IMAGE_REASON_SYSTEM_PROMPT = ('trailing spaces   \\n'
                              'and a tab\\t')
VLM_THINK_SYSTEM_PROMPT: str = '\\n\\nstarts and ends with ' 'newlines\\n\\n'
GEN_THINK_SYSTEM_PROMPT = 'quotes \\' " and # : - ünïcödé 深度 \\U0001f916'
DEPTH_PROMPT = 'an older text'
DEPTH_PROMPT = '<depth-estimation>draw</depth-estimation>'
SEGMENTATION_PROMPT = OTHER_NAME = 'null'
REFLECTION_PROMPT = '\\n  indented first line\\nyes\\n'
class Inner:
    NOT_AT_MODULE_LEVEL = 'hidden'
FORMATTED = f'{os.getcwd()}'
raise SystemExit('never executed')
'''
TABLE = {OFFICIAL_NAMES[name]: Fingerprint.of(text) for name, text in TEXTS.items()}

texts = st.text(st.characters(exclude_categories=['Cs']), max_size=60) | st.text(
    st.sampled_from(list(' \n\t\\{}"\'#:-|>%&*!?a\r\x85\u2028\ufeff\x07é')), max_size=30)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / 'official.py'
    path.write_text(SOURCE, encoding='utf-8')
    return path


@settings(max_examples=150, deadline=None)
@given(values=st.lists(texts, min_size=7, max_size=7))
@example(values=list(TEXTS.values()))
@example(values=['', ' ', '\n', '  lead', 'trail  ', '\\boxed{{}}', '\n\n \n'])
def test_yaml_keeps_every_byte(tmp_path_factory: pytest.TempPathFactory,
                               values: list[str]) -> None:
    folder = tmp_path_factory.mktemp('model')
    prompts = Prompts(*values)
    save_prompts(folder, prompts)
    assert load_prompts(folder) == prompts


def test_import_writes_the_texts_of_the_file(source: Path, tmp_path: Path,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv('COOPER_TEST_RAN', raising=False)
    import_prompts(source, tmp_path, TABLE)
    assert load_prompts(tmp_path) == Prompts(**TEXTS)
    assert 'COOPER_TEST_RAN' not in os.environ


def test_only_plain_module_level_strings_are_constants(source: Path) -> None:
    constants = read_constants(source)
    assert constants['OTHER_NAME'] == 'null'
    assert 'FORMATTED' not in constants and 'NOT_AT_MODULE_LEVEL' not in constants


def test_every_mismatch_is_named_and_nothing_is_written(source: Path, tmp_path: Path) -> None:
    text = source.read_text(encoding='utf-8').replace('indented', 'Indented')
    source.write_text(text.replace('SEGMENTATION_PROMPT', 'SEGMENTATION'), encoding='utf-8')
    with pytest.raises(BadPrompts) as caught:
        import_prompts(source, tmp_path, TABLE)
    message = str(caught.value)
    assert '2 of 7' in message
    assert f'REFLECTION_PROMPT: expected {TABLE["REFLECTION_PROMPT"]}, got 27 bytes' in message
    assert 'SEGMENTATION_PROMPT: expected 4 bytes' in message and 'no such constant' in message
    assert not (tmp_path / 'prompts.yaml').exists()


def test_our_texts_are_not_the_official_ones(source: Path, tmp_path: Path) -> None:
    with pytest.raises(BadPrompts, match='7 of 7 prompt texts do not match'):
        import_prompts(source, tmp_path)


def test_the_table_covers_every_prompt() -> None:
    assert set(OFFICIAL) == set(OFFICIAL_NAMES.values())
    assert {finding.got for finding in compare({})} == {None}


@pytest.mark.parametrize('content', [b'def broken(:', b'\x00', b'\xff\xfe', b'(' * 5000])
def test_a_file_that_is_not_python_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / 'x.py').write_bytes(content)
    with pytest.raises(BadPrompts, match='cannot be parsed as Python'):
        import_prompts(tmp_path / 'x.py', tmp_path)


def test_missing_places_are_named(source: Path, tmp_path: Path) -> None:
    with pytest.raises(BadPrompts, match='cannot be read.*nowhere.py'):
        import_prompts(tmp_path / 'nowhere.py', tmp_path)
    with pytest.raises(BadCheckpoint, match='does not exist'):
        import_prompts(source, tmp_path / 'nowhere', TABLE)


@pytest.mark.parametrize('content, reason', [
    (None, 'is missing'), (b'depth: [', 'cannot be read'), (b'\xff', 'cannot be read'),
    (b'- a\n', 'is not a table'), (b'depth: x\n', 'lacks interleave_system'),
])
def test_a_bad_prompts_file_says_what_to_do(tmp_path: Path, content: bytes | None,
                                            reason: str) -> None:
    if content is not None:
        (tmp_path / 'prompts.yaml').write_bytes(content)
    with pytest.raises(BadPrompts, match=reason) as caught:
        load_prompts(tmp_path)
    assert caught.value.remedy == 'cooper import-prompts FILE --model DIR'


def test_unknown_and_non_text_entries_are_refused(tmp_path: Path) -> None:
    save_prompts(tmp_path, Prompts(**TEXTS))
    path = tmp_path / 'prompts.yaml'
    good = path.read_text(encoding='utf-8')
    path.write_text(good + 'depht: oops\n', encoding='utf-8')
    with pytest.raises(BadPrompts, match='unknown depht'):
        load_prompts(tmp_path)
    path.write_text(yaml.safe_dump({**yaml.safe_load(good), 'segmentation': 3}))
    with pytest.raises(BadPrompts, match='something else than text for segmentation'):
        load_prompts(tmp_path)


def test_a_missing_folder_is_not_blamed_on_the_prompts(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match='no such model folder; got .*nowhere'):
        load_prompts(tmp_path / 'nowhere')
