"""What the node makes of camera messages; a real node, no network between."""

from __future__ import annotations

import io
from typing import Callable, Iterator

import numpy as np
import pytest
import rclpy
from PIL import Image as Picture
from rclpy.node import Node
from rclpy.time import Time
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from support.ros import lone_node, stamped

from cooper_ros.config import CooperConfig
from cooper_ros.errors import BadOption, StaleImage
from cooper_ros.node.camera_names import check_camera_names
from cooper_ros.node.cameras import AHEAD_S, RAW_S, Camera

GREY = np.full((96, 128, 3), 50, np.uint8)


@pytest.fixture
def node() -> Iterator[Node]:
    with lone_node('watcher') as node:
        yield node


def camera(node: Node, clock: Callable[[], float] = lambda: 0.0, **settings: object) -> Camera:
    """A camera whose pictures are never too old, unless the settings say so."""
    config = CooperConfig(**{'max_image_age_s': 0.0, **settings})
    return Camera(node, '', lambda: config, clock)


def now_s(node: Node) -> float:
    return node.get_clock().now().nanoseconds / 1e9


def jpeg(raw: Image) -> CompressedImage:
    """The same picture by the other transport."""
    data = io.BytesIO()
    Picture.fromarray(GREY).save(data, 'JPEG')
    return CompressedImage(header=raw.header, format='jpeg', data=data.getvalue())


def test_a_stamp_in_the_future_does_not_stay_fresh(node: Node) -> None:
    now = [100.0]
    eyes = camera(node, lambda: now[0], max_image_age_s=5.0)
    eyes._on_image(stamped(GREY, seconds=now_s(node) + 3600))
    assert eyes.newest() and eyes.ahead_s() > AHEAD_S and eyes.age_s() == 0
    now[0] = 108.0
    assert eyes.quiet_s() == 8
    with pytest.raises(StaleImage, match='too old; got 8.00 s; allowed: max_image_age_s 5;'):
        eyes.newest()


def test_a_late_copy_of_an_older_picture_is_not_the_newest(node: Node) -> None:
    eyes, now = camera(node), now_s(node)
    first, second = stamped(GREY, seconds=now - 0.2), stamped(GREY, seconds=now - 0.1)
    for message in (first, second, jpeg(first)):
        eyes._on_image(message)
    assert eyes.held() == 2 and eyes.newest().message is second
    eyes.clear()
    for message in (jpeg(first), jpeg(second), first):
        eyes._on_image(message)
    assert eyes.held() == 2 and eyes._frames[0].message is first  # as it was taken


@pytest.mark.parametrize('kind', ['raw', 'jpeg'])
def test_a_camera_that_always_gives_one_stamp_does_not_freeze(node: Node, kind: str) -> None:
    eyes, stamp = camera(node), now_s(node)
    shown = [stamped(GREY, seconds=stamp) for _ in range(2)]
    shown = shown if kind == 'raw' else [jpeg(message) for message in shown]
    for message in shown:
        eyes._on_image(message)
    assert eyes.held() == 1 and eyes.newest().message is shown[1]


@pytest.mark.parametrize('kind', ['raw', 'jpeg', 'both'])
def test_a_clip_that_begins_anew_goes_on(node: Node, kind: str) -> None:
    """A simulator or a player in a loop gives the same stamps again and again."""
    eyes, now = camera(node, buffer_images=4), now_s(node)
    for _ in range(3):
        for number in range(3):
            raw = stamped(GREY, seconds=now + number)
            shown = [raw, jpeg(raw)] if kind == 'both' else [raw if kind == 'raw' else jpeg(raw)]
            for message in shown:
                eyes._on_image(message)
            assert eyes.newest().message is shown[0] and eyes.held() <= 3


def test_jpeg_is_heard_while_no_raw_pictures_arrive(node: Node) -> None:
    """An idle publisher of raw ones, or one of another quality, must not make the node deaf."""
    def look(seconds: float) -> int:
        node.get_clock().set_ros_time_override(Time(seconds=seconds))
        eyes._look()
        return node.count_subscribers('/image/compressed')

    node.get_clock()._set_ros_time_is_active(True)
    eyes = camera(node)
    node.create_publisher(Image, '/image', 1)
    assert eyes.heard == '' and look(100) == 1
    eyes._on_image(stamped(GREY))
    assert eyes.heard == 'raw' and look(100 + RAW_S) == 0
    assert look(100.1 + RAW_S) == 1
    eyes._on_image(jpeg(stamped(GREY)))
    assert eyes.heard == 'compressed' and look(103) == 1
    eyes._on_image(stamped(GREY))
    assert look(103) == 0
    assert look(1) == 1  # the clock jumped back
    eyes.destroy()
    assert not node.count_subscribers('/image') and not node.count_subscribers('/camera_info')


@pytest.mark.parametrize('kind', ['raw', 'jpeg'])
@pytest.mark.parametrize(('size', 'fits'), [
    ((128, 96), True), ((1280, 960), True), ((131, 98), True), ((1280, 720), False),
    ((96, 128), False)])
def test_camera_info_of_other_pictures_gives_no_metres(node: Node, size: tuple[int, int],
                                                       fits: bool, kind: str) -> None:
    eyes = camera(node)
    eyes._on_info(CameraInfo(width=size[0], height=size[1],
                             k=[100., 0., 64., 0., 100., 48., 0., 0., 1.]))
    message = stamped(GREY, seconds=now_s(node))
    eyes._on_image(message if kind == 'raw' else jpeg(message))
    known = eyes.calibration(eyes.newest())
    assert known.has_scale == fits and (known.info is not None) == fits
    wrong = f'camera_info is about pictures of {size[0]}x{size[1]}, the picture has 128x96'
    assert known.error == eyes.lens_trouble() == ('' if fits else wrong)


def test_an_older_picture_keeps_the_lens_of_its_time(node: Node) -> None:
    eyes, now = camera(node), now_s(node)
    for seconds, focal in ((now - 0.2, 100.0), (now - 0.1, 200.0)):
        message = stamped(GREY, seconds=seconds)
        eyes._on_image(message)
        eyes._on_info(CameraInfo(header=message.header, width=128, height=96,
                                 k=[focal, 0., 64., 0., focal, 48., 0., 0., 1.]))
    assert [eyes.calibration(frame).focal for frame in eyes._frames] == [100 / 128, 200 / 128]
    eyes._on_image(stamped(GREY, seconds=now))  # nothing was said with it yet
    assert eyes.calibration(eyes.newest()).focal == 200 / 128
    eyes._on_info(CameraInfo(header=eyes.newest().header, width=128, height=96))  # K is zero
    assert [eyes.calibration(frame).focal for frame in eyes._frames] == [100 / 128, 200 / 128, 0]
    assert 'focal lengths' in eyes.calibration(eyes.newest()).error


def test_a_lens_outlives_a_jump_of_the_clock(node: Node) -> None:
    """Some drivers say it once."""
    eyes, now = camera(node), now_s(node)
    message = stamped(GREY, seconds=now)
    eyes._on_info(CameraInfo(header=message.header, width=128, height=96,
                             k=[100., 0., 64., 0., 100., 48., 0., 0., 1.]))
    eyes.clear()
    eyes._on_image(stamped(GREY, seconds=now - 3600))
    assert eyes.calibration(eyes.newest()).focal == 100 / 128


@pytest.mark.parametrize('fields', [
    {'p': [-200., 0., 64., 0., 0., 100., 48., 0., 0., 0., 1., 0.]}, {'k': [1e-6] * 9}])
def test_a_rectified_topic_with_a_bad_projection_has_no_lens(
        node: Node, fields: dict[str, object]) -> None:
    """Every request would be refused for its focal length otherwise."""
    rectified = rclpy.create_node('rectified', context=node.context,
                                  cli_args=['--ros-args', '-r', 'image:=cam/image_rect'])
    eyes = camera(rectified)
    eyes._on_info(CameraInfo(width=128, height=96, **{
        'k': [100., 0., 64., 0., 100., 48., 0., 0., 1.], **fields}))
    eyes._on_image(stamped(GREY))
    known = eyes.calibration(eyes.newest())
    assert 'focal length' in eyes.info_error and known.error == eyes.info_error
    assert known.focal == 0 and not known.has_scale
    rectified.destroy_node()


@pytest.mark.parametrize('names', [['front/left'], ['1'], ['a', 'a'], ['a', ''], ['f r']])
def test_names_that_ros_would_not_take_are_refused(names: list[str]) -> None:
    with pytest.raises(BadOption, match='cannot be called that.*letters, digits and underscores'):
        check_camera_names(names)
    check_camera_names([''])
    check_camera_names(['front', 'rear_2'])
