"""The node with a real (tiny, random) network, asked over real ROS 2 from another process."""

from __future__ import annotations

import io
import json
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator

import numpy as np
import pytest
from model_folder import write_model_folder
from PIL import Image as Picture
from rcl_interfaces.msg import Log
from rcl_interfaces.srv import DescribeParameters, GetParameters, ListParameters
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from safetensors.torch import load_file, save_file
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import String
from support.brief import LENGTH, LONG
from support.ros import ABORTED, BRIEF, CANCELED, SUCCEEDED, Client, NodeProcess, stamped
from support.tiny import SPECIALS

from cooper_interfaces.action import SpatialReason
from cooper_interfaces.msg import Legend, SpatialAnswer
from cooper_interfaces.srv import EstimateDepth, Segment, SpatialQuery
from cooper_ros.config import options
from cooper_ros.errors import ErrorCode

LENS = 0.5  # it draws for, in longest sides of the picture


def _folder(place: Path) -> Path:
    """A tiny model that knows its depth range and never stops talking by itself."""
    folder = write_model_folder(place)
    weights = load_file(folder / 'ema.safetensors')
    head = next(name for name in weights if name.endswith('lm_head.weight'))
    weights[head][SPECIALS.eos] = 0  # never the likeliest token
    save_file(weights, folder / 'ema.safetensors')
    card = json.loads((folder / 'cooper.json').read_text())
    card.update(depth={'min_m': 0.5, 'max_m': 4.5}, max_turn_tokens=100_000)
    card['drawing']['canonical_focal'] = LENS
    (folder / 'cooper.json').write_text(json.dumps(card))
    return folder


@pytest.fixture(scope='module')
def robot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    place = tmp_path_factory.mktemp('node')
    node = NodeProcess(BRIEF, _folder(place / 'model'), place / 'log', max_turn_tokens=LENGTH,
                       max_image_age_s=0.0, threads=1, diagnostics_rate_hz=5.0)
    client = Client()
    try:
        client.engine_values(lambda values: values.get('state') == 'ready')
        show(client, 200)
        hear_feedback(client)
        yield client
    finally:
        client.close()
        code = node.end()
        print(node.log.read_text())
    assert code == 0, 'Ctrl-C is not an error'


def hear_feedback(client: Client) -> None:
    """Ask until feedback comes: the two ends find each other some time after the goal service,
    and what is said before that is lost."""
    client.until(lambda: [handle := client.send(mode='direct'), client.result(handle)]
                 and handle.feedback)


def picture(level: int) -> np.ndarray:
    """A picture with a gradient, brighter with the level."""
    ramp = np.linspace(0, level, 64, dtype=np.uint8)
    return np.repeat(np.repeat(ramp[None, :, None], 48, axis=0), 3, axis=2)


def show(client: Client, level: int, seconds: float | None = None) -> Image:
    """Publish an image and wait until the node reasons from it."""
    message = stamped(picture(level), seconds)
    client.until(lambda: client.camera.get_subscription_count())
    client.until(lambda: client.call(SpatialQuery, '/cooper/query', question='seen?').header
                 == message.header, again=lambda: client.camera.publish(message))
    return message


def array_of(message: Image) -> np.ndarray:
    """The pixels of a map message."""
    kind = {'32FC1': np.float32, 'mono8': np.uint8, 'rgb8': np.uint8}[message.encoding]
    assert message.step * message.height == len(message.data)
    return np.frombuffer(message.data, kind).reshape(message.height, message.width, -1).squeeze()


def test_action_gives_the_answer_with_the_maps_it_was_reasoned_from(robot: Client) -> None:
    shown = show(robot, 180)
    with lens_known(robot):
        handle = robot.send(mode='maps', map_feedback=True, seed=3)
        status, result = robot.result(handle)
    assert (status, result.error_code, result.complete) == (SUCCEEDED, ErrorCode.NONE, True)
    assert result.header == shown.header and result.answer and result.request_id
    assert 0 < result.confidence <= 1 and result.timings.flow_steps == 2 * 3
    relative, metres = array_of(result.relative_depth), array_of(result.depth)
    assert 0 <= relative.min() <= relative.max() <= 1
    np.testing.assert_allclose(metres, 0.5 + 4 * relative, rtol=1e-5)
    assert (result.range_min_m, result.range_max_m) == (0.5, 4.5)
    mask, legend = array_of(result.segmentation), result.legend
    assert set(np.unique(mask)) - {255} == {label.id for label in legend.labels}
    assert sum(label.pixels for label in legend.labels) == (mask != 255).sum()
    assert result.relative_depth.header == legend.header == shown.header
    finished = SpatialReason.Feedback.MAP_FINISHED  # the result may overtake the last feedback
    robot.until(lambda: [item.kind for item in handle.feedback].count(finished) == 2
                and any(item.text for item in handle.feedback))
    check_feedback(handle.feedback, result)


@contextmanager
def lens_known(robot: Client) -> Iterator[None]:
    """Say, where no camera info does, what lens the pictures come through."""
    assert robot.set_parameter('focal', LENS).successful
    yield
    assert robot.set_parameter('focal', 0.0).successful


def check_feedback(feedback: list[SpatialReason.Feedback], result: SpatialReason.Result) -> None:
    """Every event came, in order, with its map."""
    kinds = SpatialReason.Feedback
    order = [item.kind for item in feedback if item.kind != kinds.TEXT]
    one_map = [kinds.MAP_STARTED, *[kinds.MAP_STEP] * 3, kinds.MAP_FINISHED]
    assert order == [kinds.ACCEPTED, *one_map, *one_map]
    finished = [item for item in feedback if item.kind == kinds.MAP_FINISHED]
    assert [item.map_kind for item in finished] == ['depth', 'segmentation']
    assert finished[0].map == result.relative_depth and finished[1].map == result.segmentation
    steps = [(item.step, item.steps) for item in feedback if item.kind == kinds.MAP_STEP]
    assert steps == [(1, 3), (2, 3), (3, 3)] * 2
    text = ''.join(item.text for item in feedback if item.kind == kinds.TEXT)
    assert text and text in ''.join(result.reasoning)


def test_the_same_seed_gives_the_same_maps_and_another_picture_others(robot: Client) -> None:
    one, two = (robot.reason(mode='maps', seed=5)[1] for _ in range(2))
    assert one.relative_depth.data == two.relative_depth.data and one.answer == two.answer
    assert two.timings.reused_tokens > 0, 'a second question on one frame reuses its context'
    show(robot, 40)
    other = robot.reason(mode='maps', seed=5)[1]
    assert other.relative_depth.data != one.relative_depth.data


def test_an_unfinished_answer_aborts_with_its_code_and_the_words_so_far(robot: Client) -> None:
    status, result = robot.reason(mode='auto')
    assert (status, result.error_code) == (ABORTED, ErrorCode.NO_ANSWER)
    assert result.reasoning and not result.complete and 'max_turns' in result.error_msg


def test_an_answer_that_was_cut_off_is_told_from_a_whole_one(robot: Client) -> None:
    for mode in ('text', 'direct', 'maps'):
        status, result = robot.reason(LONG, mode=mode)
        assert (status, result.error_code) == (ABORTED, ErrorCode.NO_ANSWER)
        assert result.answer and not result.complete and result.timings.text_tokens == LENGTH
        assert 'the answer was cut off at max_turn_tokens; got' in result.error_msg
    said = robot.call(SpatialQuery, '/cooper/query', question=LONG)
    assert (said.error_code, said.complete) == (ErrorCode.NO_ANSWER, False) and said.answer


def test_deadline_gives_the_best_so_far(robot: Client) -> None:
    assert robot.set_parameter('max_turn_tokens', 5000).successful
    status, result = robot.reason(LONG, mode='text', time_budget_s=1.0)
    assert robot.set_parameter('max_turn_tokens', LENGTH).successful
    assert (status, result.error_code) == (ABORTED, ErrorCode.DEADLINE)
    assert result.reasoning[0] and 'time_budget_s' in result.error_msg


def test_cancel_in_the_middle_of_text(robot: Client) -> None:
    assert robot.set_parameter('max_turn_tokens', 5000).successful
    handle = robot.send(LONG, mode='text')
    robot.until(lambda: any(item.text for item in handle.feedback))
    robot.done(handle.cancel_goal_async())
    status, result = robot.result(handle)
    assert robot.set_parameter('max_turn_tokens', LENGTH).successful
    assert (status, result.error_code) == (CANCELED, ErrorCode.CANCELED)
    assert 0 < result.timings.text_tokens < 5000 and result.reasoning[0]


def test_cancel_in_the_middle_of_a_map(robot: Client) -> None:
    handle = robot.send(mode='maps', flow_points=1000)
    robot.until(lambda: any(item.kind == 'map_step' for item in handle.feedback))
    robot.done(handle.cancel_goal_async())
    status, result = robot.result(handle)
    assert (status, result.error_code) == (CANCELED, ErrorCode.CANCELED)
    assert 0 < max(item.step for item in handle.feedback) < 999
    assert robot.reason(mode='maps')[0] == SUCCEEDED


def test_question_about_a_past_image(robot: Client) -> None:
    past = show(robot, 90, seconds=1000.25)
    show(robot, 220, seconds=2000.5)
    then = robot.call(EstimateDepth, '/cooper/estimate_depth', stamp=past.header.stamp)
    now = robot.call(EstimateDepth, '/cooper/estimate_depth')
    assert then.header.stamp.sec == 1000 and now.header.stamp.sec == 2000
    assert then.relative_depth.data != now.relative_depth.data
    past.header.stamp.sec = 1500
    none = robot.call(SpatialQuery, '/cooper/query', question='and then?', stamp=past.header.stamp)
    assert none.error_code == ErrorCode.NO_IMAGE and '1500.250 s' in none.error_msg


def test_an_image_may_come_with_the_question(robot: Client) -> None:
    file = io.BytesIO()
    Picture.fromarray(picture(150)).save(file, 'PNG')
    image = CompressedImage(format='png', data=file.getvalue())
    image.header.frame_id = 'snapshot'
    status, result = robot.reason(mode='maps', use_image=True, image=image)
    assert status == SUCCEEDED and result.header.frame_id == 'snapshot'
    image.data = b'not a picture'
    status, result = robot.reason(mode='maps', use_image=True, image=image)
    assert (status, result.error_code) == (ABORTED, ErrorCode.BAD_IMAGE)


@pytest.mark.parametrize(('fields', 'code'), [
    ({'question': '  '}, ErrorCode.BAD_QUESTION),
    ({'question': 'x' * 2001}, ErrorCode.BAD_QUESTION),
    ({'mode': 'fast'}, ErrorCode.BAD_OPTION),
    ({'max_turns': 1000}, ErrorCode.BAD_OPTION),
    ({'time_budget_s': -1.0}, ErrorCode.BAD_OPTION),
    ({'time_budget_s': float('nan')}, ErrorCode.BAD_OPTION),
    ({'seed': -2}, ErrorCode.BAD_OPTION),
    ({'camera': 'left'}, ErrorCode.BAD_OPTION),
    ({'flow_points': 1}, ErrorCode.BAD_OPTION)])
def test_bad_goals_are_answered_with_their_code(robot: Client, fields: dict[str, Any],
                                                code: ErrorCode) -> None:
    status, result = robot.reason(**{'mode': 'maps', **fields})
    assert (status, result.error_code) == (ABORTED, code)
    assert result.error_msg.startswith(code.name)


def test_services_query_depth_and_segmentation(robot: Client) -> None:
    shown = show(robot, 120)
    query = robot.call(SpatialQuery, '/cooper/query', question='what is nearest?')
    assert query.error_code == 0 and query.complete and query.answer
    assert query.header == shown.header and query.timings.flow_steps == 0
    depth = robot.call(EstimateDepth, '/cooper/estimate_depth', require_metres=True)
    assert depth.error_code == ErrorCode.NO_SCALE and not depth.depth.data
    assert 'without the lens; got no camera_info' in depth.error_msg
    assert array_of(depth.relative_depth).max() <= 1
    with lens_known(robot):
        depth = robot.call(EstimateDepth, '/cooper/estimate_depth', require_metres=True)
    assert depth.error_code == 0 and array_of(depth.depth).min() >= 0.5 and depth.elapsed_s > 0
    segments = robot.call(Segment, '/cooper/segment')
    assert segments.error_code == 0 and segments.segmentation.encoding == 'mono8'
    assert array_of(segments.colored).shape == (*array_of(segments.segmentation).shape, 3)


def test_who_waits_for_metres_is_told_why_there_are_none(robot: Client) -> None:
    heard, said = (robot.listen(kind, topic) for kind, topic in (
        (Image, '/cooper/depth/image'), (Log, '/rosout')))
    show(robot, 121)
    robot.until(lambda: any('depth/image stays silent: NO_SCALE: no scale is known without the '
                            'lens' in line.msg for line in said),
                again=lambda: robot.call(EstimateDepth, '/cooper/estimate_depth'))
    assert not heard


def test_metres_are_withheld_when_the_camera_info_is_broken(robot: Client) -> None:
    publisher = robot.node.create_publisher(CameraInfo, '/camera_info', qos_profile_sensor_data)
    good = CameraInfo(width=128, height=96, k=[100., 0., 64., 0., 100., 48., 0., 0., 1.],
                      p=[100., 0., 64., 0., 0., 100., 48., 0., 0., 0., 1., 0.])
    broken = CameraInfo(width=128, height=96)  # K is all zero

    def depth() -> EstimateDepth.Response:
        return robot.call(EstimateDepth, '/cooper/estimate_depth', require_metres=True)
    robot.until(lambda: depth().error_code == ErrorCode.BAD_CAMERA_INFO,
                again=lambda: publisher.publish(broken))
    robot.until(lambda: depth().camera_info.width, again=lambda: publisher.publish(good))
    answer = depth()
    ratio = answer.depth.width / 128
    assert answer.error_code == 0 and answer.camera_info.header == answer.header
    assert (answer.camera_info.width, answer.camera_info.k[0], answer.camera_info.k[2]) == (
        answer.depth.width, 100 * ratio, 64 * ratio)
    check_lens(answer, 100 / 128)


def test_metres_follow_the_lens_of_the_camera(robot: Client) -> None:
    """And what is relative does not; a request with its own picture says nothing of a lens."""
    publisher = robot.node.create_publisher(CameraInfo, '/camera_info', qos_profile_sensor_data)
    longer = CameraInfo(width=128, height=96, k=[256., 0., 64., 0., 256., 48., 0., 0., 1.])

    def depth(**spec: Any) -> EstimateDepth.Response:
        return robot.call(EstimateDepth, '/cooper/estimate_depth', require_metres=True, **spec)
    robot.until(lambda: depth().camera_info.k[0] > 100, again=lambda: publisher.publish(longer))
    answer = depth()
    check_lens(answer, 2.0)
    assert robot.set_parameter('focal', 1.0).successful  # for those without camera info
    check_lens(depth(), 2.0)
    shown = io.BytesIO()
    Picture.fromarray(picture(90)).save(shown, 'PNG')
    own = depth(use_image=True, image=CompressedImage(format='png', data=shown.getvalue()))
    check_lens(own, 1.0)
    robot.until(lambda: not depth().camera_info.width,
                again=lambda: publisher.publish(CameraInfo(width=128, height=96)))  # K is zero
    check_lens(depth(), 1.0)
    assert robot.set_parameter('focal', 0.0).successful
    assert 'focal lengths' in depth().error_msg
    robot.until(lambda: depth().camera_info.width, again=lambda: publisher.publish(longer))


def check_lens(answer: EstimateDepth.Response, focal: float) -> None:
    """Metres are those of relative depth, as much farther as the lens is longer."""
    assert answer.range_min_m == pytest.approx(0.5 * focal / LENS, rel=1e-5)
    np.testing.assert_allclose(array_of(answer.depth), (
        0.5 + 4 * array_of(answer.relative_depth)) * focal / LENS, rtol=1e-4)


def test_text_topics(robot: Client) -> None:
    texts = robot.listen(String, '/cooper/answer_text')
    answers = robot.listen(SpatialAnswer, '/cooper/answer')
    publisher = robot.node.create_publisher(String, '/cooper/question', 10)
    robot.until(lambda: publisher.get_subscription_count()
                and robot.node.count_publishers('/cooper/answer'))
    assert robot.set_parameter('mode', 'direct').successful
    robot.until(lambda: {item.answer for item in answers if item.complete
                         and item.question == 'what is nearest?'} & {item.data for item in texts},
                again=lambda: publisher.publish(String(data='what is nearest?')))
    assert robot.set_parameter('mode', 'auto').successful
    robot.until(lambda: any(item.data.startswith('BAD_QUESTION') for item in texts),
                again=lambda: publisher.publish(String(data='')))


def test_maps_are_published_with_the_stamp_of_their_image(robot: Client) -> None:
    shown = show(robot, 160)
    names = ('relative_depth', 'relative_depth/colored', 'depth/image', 'segmentation/mask',
             'segmentation/colored', 'overlay')
    heard = {name: robot.listen(Image, f'/cooper/{name}') for name in names}
    robot.until(lambda: all(heard.values()), again=lambda: robot.reason(mode='maps'))
    latched = robot.listen(Legend, '/cooper/segmentation/legend', QoSProfile(
        depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL))
    robot.until(lambda: latched)  # a late listener still gets it
    assert all(items[-1].header == shown.header for items in heard.values())
    encodings = [heard[name][-1].encoding for name in names]
    assert encodings == ['32FC1', 'rgb8', '32FC1', 'mono8', 'rgb8', 'rgb8']
    assert array_of(heard['relative_depth'][-1]).max() <= 1
    assert array_of(heard['depth/image'][-1]).min() >= 0.5
    assert heard['overlay'][-1].width == shown.width


def test_live_maps_follow_the_camera_at_the_set_rate(robot: Client) -> None:
    heard = robot.listen(Image, '/cooper/relative_depth')
    legends = robot.listen(Legend, '/cooper/segmentation/legend')
    assert robot.set_parameter('map_rate_hz', 20.0).successful
    level = iter(range(100, 10_000))
    robot.until(lambda: len(heard) >= 3 and legends, again=lambda: robot.camera.publish(
        stamped(picture(next(level) % 255))))
    assert robot.set_parameter('map_rate_hz', 0.0).successful
    stamps = [(item.header.stamp.sec, item.header.stamp.nanosec) for item in heard]
    assert len(set(stamps)) >= 3


def test_every_setting_is_a_described_parameter(robot: Client) -> None:
    settings = list(options())
    names = [entry.name for entry in settings]
    listed = robot.call(ListParameters, '/cooper/list_parameters').result.names
    assert set(names) | {'cameras'} <= set(listed)
    described = robot.call(DescribeParameters, '/cooper/describe_parameters', names=names)
    for entry, made in zip(settings, described.descriptors):
        assert made.description.startswith(entry.metadata['help'])
        assert made.read_only == entry.metadata['read_only']
        ranges = [*made.integer_range, *made.floating_point_range]
        if entry.metadata['low'] is not None:
            assert (ranges[0].from_value, ranges[0].to_value) == (entry.metadata['low'],
                                                                  entry.metadata['high'])


@pytest.mark.parametrize(('name', 'value'), [
    ('max_turns', 0), ('max_turns', 17), ('mode', 'fast'), ('temperature', 11.0),
    ('time_budget_s', float('nan')), ('device', 'cpu'), ('max_turns', 2.5)])
def test_parameters_refuse_what_is_not_allowed(robot: Client, name: str, value: Any) -> None:
    verdict = robot.set_parameter(name, value)
    assert not verdict.successful and verdict.reason


def test_parameters_count_from_the_next_request(robot: Client) -> None:
    for points in (3, 6):
        assert robot.set_parameter('flow_points', points).successful
        got = robot.call(GetParameters, '/cooper/get_parameters', names=['flow_points'])
        assert got.values[0].integer_value == points
        assert robot.reason(mode='maps')[1].timings.flow_steps == 2 * (points - 1)
    assert robot.set_parameter('flow_points', -1).successful


def test_stale_images_are_refused_with_their_age(robot: Client) -> None:
    show(robot, 77, seconds=time.time() - 3600)
    assert robot.set_parameter('max_image_age_s', 5.0).successful
    stale = robot.call(SpatialQuery, '/cooper/query', question='what is nearest?')
    assert robot.set_parameter('max_image_age_s', 0.0).successful
    assert stale.error_code == ErrorCode.STALE_IMAGE and 'use_sim_time' in stale.error_msg
