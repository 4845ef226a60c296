"""The demo with the tiny network of the tests: three real processes, pictures and a bag."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from model_folder import write_model_folder
from PIL import Image
from support.signals import sigint

from cooper_ros.node.demo import client as demo_client
from cooper_ros.node.demo import report
from cooper_ros.node.demo.report import Asked
from cooper_ros.node.demo.views import TrueQuestion
from cooper_ros.replay.bag import Bag

PATIENCE_S = 120
LATE_RECORDER = """
import sys
from pathlib import Path
import rclpy
from rich.console import Console
from std_msgs.msg import String
from cooper_ros.errors import NotReady
from cooper_ros.node.demo import client as demo_client
from cooper_ros.node.demo.record import Recorder

rclpy.init()
client = demo_client.DemoClient(Console(quiet=True))
client._question.publish(String(data='asked before anybody listens'))
with Recorder(client, Path(sys.argv[1]), ('/demo/',)) as recorder:
    client.wait(lambda: recorder.counts.get(demo_client.QUESTIONS), 60, NotReady('nothing came'))
rclpy.shutdown()
"""


@pytest.fixture(scope='module')
def model(tmp_path_factory) -> Path:
    return write_model_folder(tmp_path_factory.mktemp('model'))


def start(model: Path, out: Path, *words: str, before: tuple[str, ...] = (),
          hears_ctrl_c: bool = True) -> subprocess.Popen:
    program = [sys.executable, '-m', 'cooper_ros.node.demo', '--model', model, '--out', out]
    with sigint(handled=hears_ctrl_c):
        return subprocess.Popen(
            [*before, *program, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, env={name: value for name, value in os.environ.items()
                            if name != 'ROS_DOMAIN_ID'})


def in_the_middle(demo: subprocess.Popen, out: Path) -> None:
    end = time.monotonic() + PATIENCE_S
    while not list(out.glob('1_*.png')):
        assert demo.poll() is None and time.monotonic() < end
        time.sleep(0.1)
    assert len(running(out)) >= 4  # camera, node, its worker, questions


def running(out: Path) -> list[int]:
    """Processes that have something to do with this demo, found by its log folder."""
    found = []
    for entry in Path('/proc').glob('[0-9]*'):
        try:
            if str(out).encode() in (entry / 'environ').read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue  # it has just ended, or is not ours
    return found


def test_questions_are_asked_and_pictures_and_bag_are_left(model, tmp_path) -> None:
    demo = start(model, tmp_path, '--questions', '2')
    said = demo.communicate(timeout=PATIENCE_S)[0]
    assert demo.returncode == 0, said
    assert 'of 2 answers are right; guessing would get' in said
    sheets = sorted(tmp_path.glob('*.png'))
    assert [path.name for path in sheets] == ['1_relative_distance.png', '2_camera_distance.png']
    assert all(np.asarray(Image.open(path)).std() > 10 for path in sheets)
    assert 'float32, seed 0' in (tmp_path / 'summary.md').read_text()
    with Bag(tmp_path / 'bag') as bag:
        counts = {name: topic.count for name, topic in bag.recording.topics.items()}
    assert counts['/cooper/answer'] == 2 and counts['/demo/question'] == 2
    assert {'/camera/image_raw', '/camera/camera_info', '/camera/truth/depth',
            '/cooper/relative_depth', '/cooper/segmentation/mask'} <= set(counts)
    assert running(tmp_path) == []


def test_ctrl_c_leaves_no_process_behind(model, tmp_path) -> None:
    demo = start(model, tmp_path, '--questions', '500')
    in_the_middle(demo, tmp_path)
    demo.send_signal(signal.SIGINT)
    said = demo.communicate(timeout=PATIENCE_S)[0]
    assert demo.returncode == 130, said
    assert said.endswith('demo: stopped\n')
    assert running(tmp_path) == []


def test_a_background_job_ends_on_sigterm_alone(model, tmp_path) -> None:
    """As `nohup cooper demo &` in a script starts it: SIGINT and SIGHUP are ignored."""
    demo = start(model, tmp_path, '--questions', '500', before=('nohup',), hears_ctrl_c=False)
    in_the_middle(demo, tmp_path)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):  # heard in this order
        demo.send_signal(number)
    said = demo.communicate(timeout=PATIENCE_S)[0]
    assert demo.returncode == 128 + signal.SIGTERM, said
    with Bag(tmp_path / 'bag') as bag:  # closed by its writer, which was not killed
        assert '/demo/question' in bag.recording.topics and not bag.warnings
    assert running(tmp_path) == []


def test_a_model_that_cannot_be_loaded_ends_it(tmp_path) -> None:
    (tmp_path / 'empty').mkdir()
    demo = start(tmp_path / 'empty', tmp_path)
    said = demo.communicate(timeout=PATIENCE_S)[0]
    assert demo.returncode == 1
    assert 'the node cannot load its model' in said
    assert running(tmp_path) == []


@pytest.mark.parametrize(('kind', 'truth', 'said', 'right'), [
    ('mcq', 'b', 'b', True), ('mcq', 'b', '(b) red ball', True), ('mcq', 'b', 'a', False),
    ('mcq', 'b', '', False), ('yes_no', 'yes', 'Yes.', True), ('yes_no', 'yes', 'no', False),
    ('number', '2.00', '2.4 m', True), ('number', '2.00', '1.4', False),
    ('number', '2.00', 'far', False), ('number_int', '3', '3', True),
    ('number_int', '3', '4', False)])
def test_answers_are_judged(kind: str, truth: str, said: str, right: bool) -> None:
    asked = TrueQuestion('c', kind, 'q? (a) x (b) y', truth, '', [])
    assert asked.judge(said) is right


@pytest.mark.parametrize(('kind', 'truth', 'said', 'code', 'verdict'), [
    ('number', '0.75', '0.91 m', '', 'right, 21% off where 25% is allowed'),
    ('number', '0.75', '1.0', '', 'wrong, 33% off where 25% is allowed'),
    ('number', '0.75', 'far', '', 'wrong'), ('number', '0.75', '0.75', 'E', 'wrong'),
    ('number_int', '2', '3', '', 'wrong'), ('yes_no', 'yes', 'Yes', '', 'right')])
def test_the_verdict_says_how_far_off_a_length_is(kind: str, truth: str, said: str, code: str,
                                                  verdict: str) -> None:
    question = TrueQuestion('c', kind, 'q?', truth, 'm', [])
    result = SimpleNamespace(short_answer=said, error_code=code)
    assert Asked(SimpleNamespace(), question, 'text', result, 1.0).verdict() == verdict


@pytest.mark.parametrize(('asked', 'answered', 'complete'), [
    (2, 2, True), (1, 2, False), (2, 1, False), (0, 0, False)])
def test_the_bag_is_complete_with_every_question_and_answer(
        asked: int, answered: int, complete: bool) -> None:
    counts = {demo_client.QUESTIONS: asked, demo_client.ANSWERS: answered}
    bag = SimpleNamespace(counts={name: count for name, count in counts.items() if count})
    assert demo_client.is_complete(bag, 2) is complete


def depth_image(metres: np.ndarray) -> SimpleNamespace:
    height, width = metres.shape
    return SimpleNamespace(encoding='32FC1', height=height, width=width, step=4 * width,
                           is_bigendian=0, data=metres.astype('<f4').tobytes())


@pytest.mark.parametrize('factor', [1.0, 1.5])
def test_drawn_and_true_depth_have_the_same_colours_for_the_same_metres(factor: float) -> None:
    true = np.linspace(0.6, 2.6, 48, dtype=np.float32).reshape(6, 8)
    drawn = depth_image(factor * true)
    asked = Asked(SimpleNamespace(depth_m=true), SimpleNamespace(), 'maps',
                  SimpleNamespace(depth=drawn, relative_depth=drawn), 1.0)
    first, second = report._depth_panels(asked)
    assert first.bar == second.bar == ('0.6 m', '2.6 m')
    assert np.array_equal(first.picture, second.picture) is (factor == 1.0)
    assert first.caption == f'depth, drawn; AbsRel {factor - 1:.2f}'


def test_without_metres_drawn_depth_is_near_and_far() -> None:
    true = np.ones((6, 8), np.float32)
    asked = Asked(SimpleNamespace(depth_m=true), SimpleNamespace(), 'maps', SimpleNamespace(
        depth=SimpleNamespace(data=b''), relative_depth=depth_image(0 * true)), 1.0)
    first, _ = report._depth_panels(asked)
    assert first.bar == ('near', 'far') and first.picture.any()


def test_guessing_is_worth_what_it_is_worth() -> None:
    def one(kind: str) -> float:
        return TrueQuestion('c', kind, 'q? (a) x (b) y (c) z (d) v', 'a', '', []).chance()

    assert (one('mcq'), one('yes_no'), one('number'), one('number_int')) == (0.25, 0.5, 0.0, 0.0)


def test_a_question_asked_before_the_recorder_listens_is_in_the_bag(tmp_path: Path) -> None:
    subprocess.run([sys.executable, '-c', LATE_RECORDER, tmp_path / 'bag'], check=True,
                   timeout=PATIENCE_S)
    with Bag(tmp_path / 'bag') as bag:
        assert bag.recording.topics['/demo/question'].count == 1
