"""What can go wrong around the node: floods, deaths, bad messages, clocks, wrong transitions."""

from __future__ import annotations

import io
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Iterator

import numpy as np
import pytest
from builtin_interfaces.msg import Time as Stamp
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from PIL import Image as Picture
from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String
from support.ros import ABORTED, CANCELED, SCRIPTED, SUCCEEDED, Client, NodeProcess, stamped

from cooper_interfaces.action import SpatialReason
from cooper_interfaces.msg import SpatialAnswer
from cooper_interfaces.srv import EstimateDepth, SpatialQuery
from cooper_ros.errors import ErrorCode
from cooper_ros.node import cooper_node

GREY = np.full((6, 8, 3), 50, np.uint8)
Start = Callable[..., NodeProcess]
LOOKS = 10  # reports of diagnostics in the time a camera takes to look around


@pytest.fixture
def client() -> Iterator[Client]:
    client = Client()
    yield client
    client.close()


@pytest.fixture
def start(tmp_path: Path, client: Client) -> Iterator[Start]:
    """Starts nodes with the scripted engine, ends them after the test and shows their log."""
    nodes: list[NodeProcess] = []

    def begin(**parameters: Any) -> NodeProcess:
        settings = {'max_image_age_s': 0.0, 'diagnostics_rate_hz': 10.0, **parameters}
        nodes.append(NodeProcess(SCRIPTED, tmp_path, tmp_path / 'log', **settings))
        return nodes[-1]
    yield begin
    for node in nodes:
        node.end()
    print((tmp_path / 'log').read_text() if nodes else '')


def see(client: Client, message: Image | None = None) -> Image:
    """Publish an image until the node answers about it."""
    message = message or stamped(GREY)
    client.until(lambda: client.camera.get_subscription_count())
    client.until(lambda: client.call(SpatialQuery, '/cooper/query', question='seen?').header
                 == message.header, again=lambda: client.camera.publish(message))
    return message


def by_topic(client: Client) -> tuple[Any, list[str]]:
    """A publisher of questions and the replies to them, once both ends have met."""
    replies: list[str] = []
    client.node.create_subscription(String, '/cooper/answer_text',
                                    lambda message: replies.append(message.data), 10)
    publisher = client.node.create_publisher(String, '/cooper/question', 10)
    client.until(lambda: replies, again=lambda: publisher.publish(String(data='')))
    return publisher, replies


def at_work(client: Client) -> Any:
    """A goal that has begun and would go on for ever."""
    handle = client.send('slow')
    client.until(lambda: any(item.text for item in handle.feedback))
    return handle


def test_a_flood_of_goals_is_refused_and_costs_no_memory(start: Start, client: Client) -> None:
    node = start(queue_size=2)
    see(client)
    running = at_work(client)
    waiting = [client.send('what colour?') for _ in range(2)]
    before = node.memory_kib()
    futures = [client.action.send_goal_async(
        SpatialReason.Goal(question='what colour?')) for _ in range(200)]
    client.until(lambda: all(future.done() for future in futures))
    assert not any(future.result().accepted for future in futures)
    assert client.call(SpatialQuery, '/cooper/query',
                       question='one more').error_code == ErrorCode.BUSY
    assert node.memory_kib() - before < 20_000
    assert 'BUSY: the queue is full' in node.log.read_text()
    client.done(running.cancel_goal_async())
    assert client.result(running)[0] == CANCELED
    assert [client.result(handle)[0] for handle in waiting] == [SUCCEEDED] * 2
    client.engine_values(lambda values: int(values.get('refused_busy', 0)) >= 201)


def test_worker_deaths_and_defects_cost_one_request_each(start: Start, client: Client) -> None:
    start()
    see(client)
    for question, code in (('crash', ErrorCode.ENGINE_LOST), ('memory', ErrorCode.OUT_OF_MEMORY),
                           ('bug', ErrorCode.INTERNAL)):
        status, result = client.reason(question)
        assert (status, result.error_code) == (ABORTED, code), question
        assert client.reason('and now?')[0] == SUCCEEDED
    drawn = client.call(EstimateDepth, '/cooper/estimate_depth')
    assert drawn.error_code == ErrorCode.OUT_OF_MEMORY


def test_worker_killed_from_outside_while_it_works(start: Start, client: Client) -> None:
    start()
    see(client)
    handle = at_work(client)
    values = client.engine_values(lambda values: values.get('running') == '1')
    os.kill(int(values['worker_pid']), signal.SIGKILL)
    status, result = client.result(handle)
    assert (status, result.error_code) == (ABORTED, ErrorCode.ENGINE_LOST)
    assert client.reason('and now?')[0] == SUCCEEDED
    client.engine_values(lambda values: values.get('restarts') == '1')


def test_node_killed_and_started_again(start: Start, client: Client) -> None:
    node = start()
    see(client)
    worker = int(client.engine_values(lambda v: v.get('state') == 'ready')['worker_pid'])
    at_work(client)
    node.end(signal.SIGKILL)
    client.until(lambda: not Path(f'/proc/{worker}').exists())  # no orphan keeps the device
    start()
    late = Client()  # one that has not met the dead node, whose services linger for seconds
    see(late)
    assert late.reason('and now?')[0] == SUCCEEDED
    late.close()


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_leaving_on_a_signal_is_clean(start: Start, client: Client, number: int) -> None:
    """The signal reaches the whole group (Ctrl-C, `timeout`, systemd), here the worker first."""
    node = start()
    see(client)
    questions, replies = by_topic(client)
    goal = at_work(client)
    query = client.call_async(SpatialQuery, '/cooper/query', question='and now?')  # waits
    client.engine_values(lambda v: v.get('waiting') == '1')
    questions.publish(String(data='and now?'))
    worker = int(client.engine_values(lambda v: v.get('waiting') == '2')['worker_pid'])
    for process in (worker, node.process.pid):
        os.kill(process, number)
    status, result = client.result(goal)  # whoever waits hears of it
    assert (status, result.error_code) == (ABORTED, ErrorCode.NOT_READY)
    assert 'shut down' in result.error_msg
    assert client.done(query).error_code == ErrorCode.NOT_READY
    client.until(lambda: replies[-1].startswith('NOT_READY: the node was shut down'))
    assert node.process.wait(timeout=60) == 0
    assert not Path(f'/proc/{worker}').exists()
    log = node.log.read_text()
    assert 'Traceback' not in log and '[ERROR]' not in log


def test_a_question_by_topic_is_answered_in_every_state(start: Start, client: Client) -> None:
    node = start(autostart=False)
    full = client.listen(SpatialAnswer, '/cooper/answer')
    questions, replies = by_topic(client)

    def refused(question: str) -> None:
        questions.publish(String(data=question))
        client.until(lambda: any(said.question == question for said in full))
        assert full[-1].error_code == ErrorCode.NOT_READY
        client.until(lambda: full[-1].error_msg in replies)
        assert full[-1].error_msg.startswith('NOT_READY: the node is not active')

    def taken_back(transition: int, reason: str) -> None:
        """Both the one that runs and the one that waits."""
        client.engine_values(lambda v: v.get('running') == '0' and v.get('waiting') == '0')
        replies.clear()
        for _ in range(2):
            questions.publish(String(data='slow'))
        client.engine_values(lambda v: v.get('running') == '1' and v.get('waiting') == '1')
        assert client.change_state(transition)
        client.until(lambda: replies.count(f'NOT_READY: the node was {reason}') == 2)

    client.until(lambda: full, again=lambda: questions.publish(String(data='')))
    refused('before it is configured')
    assert client.change_state(Transition.TRANSITION_CONFIGURE)
    refused('while it is inactive')
    assert client.change_state(Transition.TRANSITION_ACTIVATE)
    see(client)
    taken_back(Transition.TRANSITION_DEACTIVATE, 'deactivated')
    refused('after it was deactivated')
    assert client.change_state(Transition.TRANSITION_ACTIVATE)
    taken_back(Transition.TRANSITION_ACTIVE_SHUTDOWN, 'shut down')
    refused('after it was shut down')
    assert 'InvalidHandle' not in node.log.read_text()


def test_an_idle_raw_publisher_does_not_hide_the_jpegs(start: Start, client: Client) -> None:
    start()
    reports = client.listen(DiagnosticArray, '/diagnostics')
    data = io.BytesIO()
    Picture.fromarray(GREY).save(data, 'PNG')
    message = CompressedImage(format='png', data=data.getvalue())
    message.header.frame_id = 'by JPEG'
    camera = client.node.create_publisher(CompressedImage, '/image/compressed',
                                          qos_profile_sensor_data)
    client.until(lambda: client.camera.get_subscription_count())  # raw, and says nothing

    def transport() -> str:
        values = reports[-1].status[1].values if reports else ()
        return next((item.value for item in values if item.key == 'transport'), '')

    def heard() -> Any:
        return client.call(SpatialQuery, '/cooper/query', question='seen?').header.frame_id
    client.until(lambda: transport() == 'none')
    looks = len(reports) + 2 * LOOKS  # diagnostics come ten times a second, and looks once
    client.until(lambda: len(reports) > looks)
    client.until(lambda: heard() == 'by JPEG', again=lambda: camera.publish(message))
    client.until(lambda: transport() == 'compressed')


def test_an_impatient_ctrl_c_does_not_spoil_the_leaving(start: Start, client: Client) -> None:
    node = start()
    see(client)
    at_work(client)
    while node.process.poll() is None:
        node.process.send_signal(signal.SIGINT)
        time.sleep(0.03)
    assert node.process.returncode == 0
    assert 'Traceback' not in node.log.read_text()


def test_a_callback_that_fails_costs_a_line_in_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    alive = iter([True, True, True, False])  # shut down between two waits: no failure
    executor = SimpleNamespace(spin_once=lambda timeout_sec: 1 / 0)
    monkeypatch.setattr('rclpy.ok', lambda: next(alive))
    node = SimpleNamespace(get_logger=lambda: SimpleNamespace(error=said.append))
    cooper_node._serve(node, executor, lambda: False)
    assert len(said) == 1 and 'a callback failed:' in said[0] and 'ZeroDivisionError' in said[0]


def test_bad_images_are_answered_and_good_ones_still_work(start: Start, client: Client) -> None:
    start()
    see(client)
    bad = {'step is too small': {'step': 3}, 'unsupported encoding': {'encoding': 'rgb7'},
           'data does not fit': {'height': 7}, 'is empty': {'width': 0},
           'too large': {'height': 2**31, 'width': 2**31}}
    for reason, fields in bad.items():
        assert refusal(client, reason, stamped(GREY, **fields)).error_code == ErrorCode.BAD_IMAGE
        see(client)
    assert client.reason('what colour?')[1].answer == '50 50 50 seed 0'


def test_stamps_before_1970_are_answered(start: Start, client: Client) -> None:
    start()
    see(client)
    early = Stamp(sec=-5)
    status, result = client.reason('what colour?', stamp=early)
    assert (status, result.error_code) == (ABORTED, ErrorCode.BAD_OPTION)
    for kind, name, fields in ((SpatialQuery, 'query', {'question': 'what colour?'}),
                               (EstimateDepth, 'estimate_depth', {})):
        answer = client.call(kind, f'/cooper/{name}', stamp=early, **fields)
        assert answer.error_code == ErrorCode.BAD_OPTION and '-5 s' in answer.error_msg
    message = stamped(GREY)
    message.header.stamp = early
    see(client, message)  # a driver without a clock: the time of arrival counts


def refusal(client: Client, reason: str, message: Image) -> Any:
    """Show an image until an answer names the reason why it is refused."""
    def said() -> Any:
        answer = client.call(SpatialQuery, '/cooper/query', question='what colour?')
        return answer if reason in answer.error_msg else None
    return client.until(said, again=lambda: client.camera.publish(message))


def test_lifecycle(start: Start, client: Client) -> None:
    start(autostart=False)
    ask = {'kind': SpatialQuery, 'name': '/cooper/query', 'question': 'what colour?'}
    assert client.state() == 'unconfigured'
    assert client.call(**ask).error_code == ErrorCode.NOT_READY
    assert not client.send().accepted
    for _ in range(2):
        assert client.change_state(Transition.TRANSITION_CONFIGURE)
        assert client.state() == 'inactive'
        assert client.call(**ask).error_code == ErrorCode.NOT_READY
        assert client.change_state(Transition.TRANSITION_ACTIVATE)
        see(client)
        handle = at_work(client)
        assert client.change_state(Transition.TRANSITION_DEACTIVATE)
        status, result = client.result(handle)
        assert (status, result.error_code) == (ABORTED, ErrorCode.NOT_READY)
        assert client.change_state(Transition.TRANSITION_CLEANUP)
    assert client.state() == 'unconfigured'
    assert client.change_state(Transition.TRANSITION_UNCONFIGURED_SHUTDOWN)
    assert client.state() == 'finalized'


def test_a_transition_that_is_not_allowed_is_answered_with_no(start: Start,
                                                                client: Client) -> None:
    start()
    see(client)
    for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_CLEANUP, 99):
        assert not client.change_state(transition)
        assert client.state() == 'active'
    assert client.reason('what colour?')[0] == SUCCEEDED


def test_a_missing_model_folder_fails_configure_and_names_it(start: Start, client: Client,
                                                             tmp_path: Path) -> None:
    node = start(model_path=str(tmp_path / 'nowhere'))
    assert client.state() == 'unconfigured'
    assert f'BAD_CHECKPOINT: there is no such model folder; got {tmp_path / "nowhere"}' in (
        node.log.read_text())
    answer = client.call(SpatialQuery, '/cooper/query', question='what colour?')
    assert answer.error_code == ErrorCode.NOT_READY and 'no such model folder' in answer.error_msg
    (tmp_path / 'nowhere').mkdir()
    assert client.change_state(Transition.TRANSITION_CONFIGURE)


def test_a_broken_model_is_named_by_every_request(start: Start, client: Client,
                                                  tmp_path: Path) -> None:
    (tmp_path / 'broken').touch()
    start()
    client.engine_values(lambda values: values.get('state') == 'failed')
    answer = client.call(SpatialQuery, '/cooper/query', question='what colour?')
    assert answer.error_code == ErrorCode.BAD_CHECKPOINT and 'a.weight' in answer.error_msg


def test_a_start_value_out_of_range_is_refused_with_its_name(start: Start) -> None:
    node = start(max_turns=99)
    assert node.process.wait(timeout=60) == 2
    assert 'max_turns' in node.log.read_text()


def test_a_clock_that_jumps_back_clears_the_images(start: Start, client: Client) -> None:
    start(use_sim_time=True)
    clock = client.node.create_publisher(Clock, '/clock', 10)
    reports = client.listen(DiagnosticArray, '/diagnostics')
    time = Clock()
    time.clock.sec = 500
    client.until(lambda: reports and reports[-1].header.stamp.sec == 500,
                 again=lambda: clock.publish(time))
    message = see(client, stamped(GREY, seconds=499.5))
    time.clock.sec = 100

    def query() -> Any:
        return client.call(SpatialQuery, '/cooper/query', question='what colour?',
                           stamp=message.header.stamp)
    client.until(lambda: query().error_code == ErrorCode.NO_IMAGE,
                 again=lambda: clock.publish(time))
    see(client, stamped(GREY, seconds=99.5))


def test_an_empty_list_of_cameras_is_one_without_a_name(start: Start, client: Client) -> None:
    node = start(cameras=[])
    see(client)
    assert 'Traceback' not in node.log.read_text()


def test_several_cameras_share_one_engine(start: Start, client: Client) -> None:
    start(cameras=['left', 'right'])
    for level, name in ((60, 'left'), (90, 'right')):
        answer = answer_of(client, name, stamped(np.full((6, 8, 3), level, np.uint8)))
        assert answer.answer == f'{level} {level} {level} seed 0'
    unknown = client.call(SpatialQuery, '/cooper/query', question='what?', camera='rear')
    assert unknown.error_code == ErrorCode.BAD_OPTION and 'left, right' in unknown.error_msg
    topics = dict(client.node.get_topic_names_and_types())
    assert {'/cooper/left/relative_depth', '/cooper/right/segmentation/mask'} <= set(topics)


def answer_of(client: Client, camera: str, message: Image) -> Any:
    """Show one camera an image until it is answered about."""
    publisher = client.node.create_publisher(Image, f'/{camera}/image', 5)

    def answered() -> Any:
        answer = client.call(SpatialQuery, '/cooper/query', question='what?', camera=camera)
        return answer if answer.complete else None
    return client.until(answered, again=lambda: publisher.publish(message))


def test_a_publisher_that_does_not_fit_is_reported(start: Start, client: Client) -> None:
    node = start(image_reliable=True)
    client.node.create_publisher(Image, '/image', QoSProfile(
        depth=1, reliability=ReliabilityPolicy.BEST_EFFORT))
    reports = client.listen(DiagnosticArray, '/diagnostics')
    client.until(lambda: 'quality of service that does not fit ours: reliability best effort, '
                 'where reliable is asked for' in node.log.read_text())
    client.until(lambda: reports and 'unfitting' in reports[-1].status[1].message)
    assert reports[-1].status[1].message.startswith('no image yet: a publisher')
