"""The door: help that teaches, clean errors, one real process from picture to files."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from bag_maker import camera, picture, write_ros2
from model_folder import write_model_folder
from PIL import Image
from support.signals import sigint
from typer.testing import CliRunner

import cooper_ros
from cooper_ros.cli.app import app, main
from cooper_ros.cli.doctor import MISSING, OK, examine
from cooper_ros.cli.files import read_picture
from cooper_ros.cli.flags import parse_setting, settings_from_file
from cooper_ros.cli.settings import settings_markdown, settings_yaml
from cooper_ros.config import CooperConfig, options
from cooper_ros.errors import BadData, BadImage, BadOption

COMMANDS = ('ask', 'replay', 'demo', 'doctor', 'config', 'import-prompts', 'conformance', 'train',
            'evaluate', 'scenes')
PART = 'b_vit'
runner = CliRunner()


@pytest.fixture(scope='module')
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model_folder(tmp_path_factory.mktemp('tiny'))


def cooper(*words: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the door in a process of its own."""
    root = Path(cooper_ros.__file__).parents[1]
    place = {'PYTHONPATH': f'{root}{os.pathsep}{os.environ.get("PYTHONPATH", "")}',
             'OMP_NUM_THREADS': '1', 'COLUMNS': '200'}
    return subprocess.run([sys.executable, '-m', 'cooper_ros.cli', *map(str, words)], cwd=folder,
                          env={**os.environ, **place}, capture_output=True, text=True, timeout=120)


def failing(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    with pytest.raises(SystemExit) as caught:
        main(words)
    return int(str(caught.value.code)), capsys.readouterr().err


def test_help_names_every_command_and_shows_how_to_start() -> None:
    result = runner.invoke(app, ['--help'])
    assert result.exit_code == 0
    for name in COMMANDS:
        assert f'\n  {name} ' in result.output
    assert 'cooper ask room.jpg "What is closest?"' in result.output


@pytest.mark.parametrize('name', ['ask', 'replay', 'config', 'doctor', 'import-prompts',
                                  'conformance', 'scenes preview'])
def test_every_command_explains_itself_with_an_example(name: str) -> None:
    result = runner.invoke(app, [*name.split(), '--help'])
    assert result.exit_code == 0
    assert f'cooper {name}' in ' '.join(result.output.split())
    assert 'Example' in result.output


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    code = ('import sys; from cooper_ros.cli import main\ntry: main(["replay", "--help"])\n'
            'except SystemExit: pass\n'
            'heavy = ("torch", "cv2", "rclpy", "rosbags")\n'
            'print([name for name in heavy if name in sys.modules])')
    root = Path(cooper_ros.__file__).parents[1]
    result = subprocess.run([sys.executable, '-c', code], cwd=root, capture_output=True, text=True,
                            timeout=60)
    assert result.stdout.splitlines()[-1] == '[]', result.stderr


def test_an_error_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str],
                                           tmp_path: Path) -> None:
    status, said = failing(['replay', str(tmp_path / 'none.mcap'), '--topics'], capsys)
    assert status == 2 and said.count('\n') == 1 and said.startswith('cooper: BAD_BAG: ')
    assert 'none.mcap' in said and 'Traceback' not in said


STOPPED = """
import os, signal
from cooper_ros.cli import app, settings
settings.settings_yaml = lambda: os.kill(os.getpid(), signal.SIGINT)
app.main(['config', '--format', 'yaml'])
"""


def test_ctrl_c_ends_a_command_with_a_word_and_status_130() -> None:
    with sigint(handled=True):
        done = subprocess.run([sys.executable, '-c', STOPPED], capture_output=True, text=True,
                              cwd=Path(cooper_ros.__file__).parents[1], timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, '', 'cooper: stopped\n')


def test_debug_shows_where_an_error_came_from(tmp_path: Path) -> None:
    quiet = cooper('replay', 'none.mcap', '--topics', folder=tmp_path)
    loud = cooper('replay', 'none.mcap', '--topics', '--debug', folder=tmp_path)
    assert quiet.returncode == 2 and 'Traceback' not in quiet.stderr
    assert loud.returncode == 1 and 'Traceback' in loud.stderr and 'BAD_BAG' in loud.stderr


@pytest.mark.parametrize('words, reason', [
    (['ask', 'only.png'], 'give at least one picture and a question'),
    (['ask', 'none.png', 'What?'], 'the picture file cannot be read'),
    (['ask', 'none.png', 'What'], 'check the path, and put the question in quotes'),
    (['ask', 'room.png', 'notes.txt'], 'the last word is a file, not a question; got notes.txt'),
    (['scenes', 'preview', 'noext'], 'does not say its format; got noext; allowed: .png'),
    (['replay', 'x', '--rate', '-1'], '--rate is out of range'),
    (['replay', 'x', '--live', '--out', 'y', '--mode', 'text'],
     'options that do nothing with --live; got --mode, --out; remedy: leave them out, or set th'),
    (['replay', 'x', '--loop'], 'options that do nothing without --live; got --loop'),
    (['replay', 'x', '--questions', 'none.txt'], 'the question file cannot be read'),
    (['replay', 'x', '--mode', 'loud'], "mode is not a choice; got 'loud'"),
    (['replay', 'x', '--set', 'speed=3'], '--set needs name=value of a known setting'),
    (['replay', 'x', '--set', 'max_turns=many'], 'max_turns has the wrong type'),
    (['replay', 'x', '--set', 'max_turns=99'], 'max_turns is out of range; got 99'),
    (['replay', 'x', '--config', 'none.yaml'], 'the settings file cannot be read'),
    (['import-prompts', 'none.py', '--model', '.'], 'the file cannot be read; got none.py: No'),
    (['replay', 'x', '--model', 'none'], 'BAD_BAG: no such recording'),
    (['ask', 'notes.txt', 'What?'], 'damaged header; got notes.txt; allowed: whole JPEG, PNG'),
    (['ask', 'room.png', 'What?', '--model', 'none'], 'BAD_CHECKPOINT: there is no such model'),
])
def test_mistakes_are_named(words: list[str], reason: str, capsys: pytest.CaptureFixture[str],
                            tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(picture(0)).save('room.png')
    Path('notes.txt').write_text('no picture')
    status, said = failing(words, capsys)
    assert status == 2 and reason in said


def test_flags_files_and_pairs_make_the_settings(tmp_path: Path) -> None:
    assert parse_setting('max_turns=5') == ('max_turns', 5)
    assert parse_setting('sample=yes') == ('sample', True)
    assert parse_setting('temperature=1') == ('temperature', 1.0)
    (tmp_path / 'plain.yaml').write_text('max_turns: 2\n')
    (tmp_path / 'ros.yaml').write_text(settings_yaml())
    assert settings_from_file(tmp_path / 'plain.yaml') == {'max_turns': 2}
    values = settings_from_file(tmp_path / 'ros.yaml')
    assert CooperConfig.from_mapping(values) == CooperConfig()
    (tmp_path / 'list.yaml').write_text('- 1\n')
    with pytest.raises(BadOption, match='is no table'):
        settings_from_file(tmp_path / 'list.yaml')


def test_every_setting_is_documented() -> None:
    table, parameters = settings_markdown(), yaml.safe_load(settings_yaml())
    for entry in options():
        assert f'| `{entry.name}` |' in table and entry.metadata['help'] in table
    names = [entry.name for entry in options()]
    assert list(parameters['/**']['ros__parameters']) == names
    shown = runner.invoke(app, ['config'], env={'COLUMNS': '200'})
    assert all(name in shown.output for name in names)
    for format, text in (('yaml', settings_yaml()), ('markdown', table)):
        assert runner.invoke(app, ['config', '--format', format]).output == text


def test_ask_answers_and_leaves_pictures(model: Path, tmp_path: Path) -> None:
    Image.fromarray(picture(1)).save(tmp_path / 'room.png')
    done = cooper('ask', 'room.png', 'What is closest?', '--model', model, '--mode', 'maps',
                  '--out', 'out', folder=tmp_path)
    assert 'drawing depth' in done.stdout, done.stderr and 'drawing segmentation' in done.stdout
    assert 'float32' in done.stdout and 'seed 0' in done.stdout and 'tiny' in done.stdout
    record = json.loads((tmp_path / 'out' / 'answer.json').read_text())
    assert record['question'] == 'What is closest?'
    assert done.returncode == (not record['complete'])  # its random words may know no end
    assert np.asarray(Image.open(tmp_path / 'out' / 'overlay.png')).shape == (24, 32, 3)
    quiet = runner.invoke(app, ['ask', str(tmp_path / 'room.png'), 'What is closest?', '--model',
                                str(model), '--mode', 'maps', '-q'])
    assert quiet.stdout.strip() == record['answer'].strip()


def test_an_answer_cut_short_is_printed_and_is_no_success(model: Path, tmp_path: Path) -> None:
    Image.fromarray(picture(1)).save(tmp_path / 'room.png')
    words = ['ask', str(tmp_path / 'room.png'), 'What is closest?', '--model', str(model),
             '--mode', 'text', '--time-budget-s', '0.001', '-q']
    cut = runner.invoke(app, words)
    assert cut.exit_code == 1 and 'time budget' in cut.stderr


def test_questions_of_a_live_replay_have_no_mode(tmp_path: Path) -> None:
    (tmp_path / 'asked.yaml').write_text('- {question: Way, mode: text}\n')
    write_ros2(tmp_path / 'drive', camera(1))
    said = runner.invoke(app, ['replay', str(tmp_path / 'drive'), '--live', '--questions',
                               str(tmp_path / 'asked.yaml')])
    assert 'no mode of their own with --live; got text: Way;' in str(said.exception)


def test_replay_writes_bag_summary_and_sheets(model: Path, tmp_path: Path) -> None:
    messages = camera(3)
    messages[1][3].step = 1
    write_ros2(tmp_path / 'drive', messages)
    words = ['replay', 'drive', '-q', 'Way free?', '-q', 'What [is] near?', '--rate', '0',
             '--model', model, '--mode', 'direct', '--set', 'max_turn_tokens=4', '--out', 'out']
    done = cooper(*words, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    flat = ' '.join(done.stdout.split())
    assert 'picture 1 skipped' in flat and re.search(
        '4 questions(, . cut short)?, 1 skipped', flat)  # random words may know no end
    assert 'What [is] near?' in flat
    made = sorted(str(file.relative_to(tmp_path / 'out')) for file in
                  (tmp_path / 'out').rglob('*') if file.is_file())
    assert made == ['answers/.cooper_answers', 'answers/answers.mcap', 'answers/metadata.yaml',
                    'sheets/0000.png', 'sheets/0001.png', 'sheets/0002.png', 'sheets/0003.png',
                    'summary.json', 'summary.md']
    again = runner.invoke(app, ['replay', str(tmp_path / 'drive'), '--model', str(model), '--out',
                                str(tmp_path / 'out')])
    assert isinstance(again.exception, BadOption) and 'the output exists' in str(again.exception)


@pytest.mark.parametrize('columns', ['160', '60'])
def test_topics_are_listed(tmp_path: Path, columns: str) -> None:
    """With names that can be copied, however narrow the terminal is."""
    bag = write_ros2(tmp_path / 'drive', camera(3))
    result = runner.invoke(app, ['replay', str(bag), '--topics'], env={'COLUMNS': columns})
    assert result.exit_code == 0 and '…' not in result.output
    row = next(line for line in result.output.splitlines() if '/camera/' in line)
    assert ' 3 ' in row and 'pictures' in row


@pytest.mark.parametrize('words', [['build', '--arch', 'SM86'], ['export']])
def test_quantised_weights_are_not_compiled(words: list[str], tmp_path: Path,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    card = {'quantization': {'format': 'int8', 'group': 0}}
    (tmp_path / 'cooper.json').write_text(json.dumps(card))
    status, said = failing(['engine', words[0], str(tmp_path), *words[1:]], capsys)
    assert status == 2 and 'quantised weights run in torch only' in said and 'made from' in said


def test_photos_are_turned_upright(tmp_path: Path) -> None:
    rgb = picture(3)
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ('png', 'tiff'):  # a TIFF is turned by its decoder already
        Image.fromarray(rgb).save(tmp_path / f'turned.{kind}', exif=exif)
    Image.fromarray(rgb).save(tmp_path / 'plain.png')
    np.testing.assert_array_equal(read_picture(tmp_path / 'plain.png', 10**6), rgb)
    for kind in ('png', 'tiff'):
        np.testing.assert_array_equal(read_picture(tmp_path / f'turned.{kind}', 10**6),
                                      np.rot90(rgb, -1))
    (tmp_path / 'no.png').write_bytes(b'not a picture')
    with pytest.raises(BadImage):
        read_picture(tmp_path / 'no.png', 10**6)


def test_doctor_finds_what_is_there_and_what_is_not(model: Path, tmp_path: Path) -> None:
    good = {row.what: row for row in examine(CooperConfig(model_path=str(model)))}
    assert good['model'].state == OK and good['torch'].state == OK
    bad = {row.what: row for row in examine(CooperConfig(model_path=str(tmp_path / 'none')))}
    assert bad['model'].state == MISSING and 'is no folder' in bad['model'].detail
    half = Path(shutil.copytree(model, tmp_path / 'half'))
    (half / 'prompts.yaml').unlink()
    sizes = json.loads((half / 'vit_config.json').read_text())
    (half / 'vit_config.json').write_text(json.dumps({**sizes, 'intermediate_size': 7}))
    found = {row.what: row for row in examine(CooperConfig(model_path=str(half)))}
    assert 'vit_model' in found['model'].detail and found['model'].state == MISSING
    assert found['prompts'].state == MISSING and 'import-prompts' in found['prompts'].next
    result = runner.invoke(app, ['doctor', '--model', str(tmp_path / 'none')])
    assert result.exit_code == 1 and 'missing' in result.output
    assert runner.invoke(app, ['doctor', '--model', str(model)]).exit_code == 0


def test_doctor_weighs_the_runtimes_and_the_memory(model: Path, tmp_path: Path,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('COLUMNS', '200')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    said = runner.invoke(app, ['doctor', str(model)]).output
    for name in ('tensorrt', 'torch_tensorrt', 'compile', 'onnx', 'torch'):
        assert f'runtime {name} ' in said
    assert said.count('passed over') == 4 and 'chosen: it runs everywhere' in said
    assert 'COOPER 7B, ' in said and f'{model}, ' in said
    assert '30.7 GiB' in said and 'no fp8 kernels on this device' in said and 'int4' in said
    asked = runner.invoke(app, ['doctor', str(model), '--runtime', 'torch']).output
    assert 'the setting runtime asks for it' in asked and 'passed over' not in asked


def test_import_prompts_shows_every_text_that_differs(tmp_path: Path) -> None:
    (tmp_path / 'inferencer.py').write_text("DEPTH_PROMPT = 'mine'\n")
    done = cooper('import-prompts', 'inferencer.py', '--model', '.', folder=tmp_path)
    assert done.returncode == 2 and '7 of 7 prompt texts do not match' in done.stderr
    assert done.stdout.count('NO') == 7 and not (tmp_path / 'prompts.yaml').exists()


def test_conformance_passes_on_the_carried_set_and_fails_on_a_changed_one(
        tmp_path: Path) -> None:
    golden = Path(__file__).parent / 'data' / 'golden_small'
    words = ['conformance', '--part', PART]
    good = runner.invoke(app, [*words, str(golden)])
    assert good.exit_code == 0, good.output
    shutil.copytree(golden, tmp_path / 'changed')
    for file in (tmp_path / 'changed').glob(f'{PART}*.safetensors'):
        content = bytearray(file.read_bytes())
        content[-4096:] = bytes(4096)
        file.write_bytes(content)
    assert runner.invoke(app, [*words, str(tmp_path / 'changed')]).exit_code == 1
    missing = runner.invoke(app, ['conformance', str(tmp_path / 'none')])
    assert isinstance(missing.exception, BadData)


@pytest.mark.parametrize('group', ['train', 'evaluate', 'engine', 'demo'])
def test_groups_answer_for_themselves(group: str) -> None:
    result = runner.invoke(app, [group, '--help'])
    assert result.exit_code == 0


@pytest.mark.parametrize(('group', 'example'), [
    ('train', 'cooper train '), ('evaluate', 'cooper evaluate --suite depth FOLDER'),
    ('engine', 'cooper engine build models/COOPER'), ('data', 'cooper data check hypersim')])
def test_groups_show_how_they_are_called(group: str, example: str,
                                         capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([group, '--help'])
    assert f'  {example}' in capfd.readouterr().out


def test_a_scene_sheet_is_drawn(tmp_path: Path) -> None:
    result = runner.invoke(app, ['scenes', 'preview', str(tmp_path / 'rooms.png'), '--count', '1'])
    assert result.exit_code == 0, result.output
    assert np.asarray(Image.open(tmp_path / 'rooms.png')).std() > 5


def test_the_version_is_printed() -> None:
    assert runner.invoke(app, ['--version']).output.strip() == f'cooper {cooper_ros.__version__}'
