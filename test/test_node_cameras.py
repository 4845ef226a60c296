"""What the node makes of camera messages; a real node, no network between."""

from __future__ import annotations

import io
import time
from typing import Iterator

import numpy as np
import pytest
import rclpy
from PIL import Image as Picture
from rclpy.context import Context
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from support.ros import stamped

from cooper_ros.config import CooperConfig
from cooper_ros.errors import BadOption, StaleImage
from cooper_ros.node.camera_names import check_camera_names
from cooper_ros.node.cameras import Camera

GREY = np.full((96, 128, 3), 50, np.uint8)


@pytest.fixture
def node() -> Iterator[Node]:
    context = Context()
    rclpy.init(context=context)
    node = rclpy.create_node('watcher', context=context)
    yield node
    node.destroy_node()
    context.try_shutdown()


def camera(node: Node, **settings: object) -> Camera:
    config = CooperConfig(**settings)
    return Camera(node, '', lambda: config)


def now_s(node: Node) -> float:
    return node.get_clock().now().nanoseconds / 1e9


def jpeg(raw: Image) -> CompressedImage:
    """The same picture by the other transport."""
    data = io.BytesIO()
    Picture.fromarray(GREY).save(data, 'JPEG')
    return CompressedImage(header=raw.header, format='jpeg', data=data.getvalue())


def test_a_stamp_in_the_future_does_not_stay_fresh(node: Node) -> None:
    eyes = camera(node, max_image_age_s=5.0)
    eyes._on_image(stamped(GREY, seconds=now_s(node) + 3600))
    assert eyes.newest() and eyes.ahead_s() > 3599
    eyes.last_arrival = time.monotonic() - 8
    with pytest.raises(StaleImage, match='too old; got 8'):
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


def test_jpeg_is_heard_only_while_nobody_publishes_raw(node: Node) -> None:
    eyes = camera(node)
    assert node.count_subscribers('/image/compressed') == 1
    raw = node.create_publisher(Image, '/image', 1)
    eyes._look()
    assert node.count_subscribers('/image/compressed') == 0
    node.destroy_publisher(raw)
    eyes._look()
    assert node.count_subscribers('/image/compressed') == 1
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


@pytest.mark.parametrize('names', [['front/left'], ['1'], ['a', 'a'], ['a', ''], ['f r']])
def test_names_that_ros_would_not_take_are_refused(names: list[str]) -> None:
    with pytest.raises(BadOption, match='cannot be called that.*letters, digits and underscores'):
        check_camera_names(names)
    check_camera_names([''])
    check_camera_names(['front', 'rear_2'])
