"""ROS messages to arrays and back."""

from __future__ import annotations

from array import array
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, RegionOfInterest
from std_msgs.msg import Header

from cooper_ros.engine.events import Label, SegmentationMap, Timings
from cooper_ros.errors import BadCameraInfo, BadImage
from cooper_ros.imaging.lens import check_camera_info
from cooper_ros.node import conversions
from cooper_ros.node.conversions import (
    colour_message,
    depth_message,
    legend_message,
    mask_message,
    picture_of,
    scaled_camera_info,
    timings_message,
)

HEADER = Header(frame_id='camera_optical_frame')
LIMIT = 10_000
SIDES = st.integers(1, 9)


def camera_info(**fields: object) -> CameraInfo:
    """A plausible pinhole camera, 640x480."""
    values = dict(width=640, height=480, d=[0.1, 0.0, 0.0, 0.0, 0.0],
                  distortion_model='plumb_bob', k=[500., 0., 320., 0., 510., 240., 0., 0., 1.],
                  r=[1., 0., 0., 0., 1., 0., 0., 0., 1.],
                  p=[490., 0., 318., -49., 0., 505., 238., 0., 0., 0., 1., 0.])
    return CameraInfo(**{**values, **fields})


@settings(deadline=None, max_examples=25)
@given(st.data(), SIDES, SIDES)
def test_pictures_survive_the_wire(data: st.DataObject, height: int, width: int) -> None:
    rgb = data.draw(arrays.arrays(np.uint8, (height, width, 3)))
    sent = colour_message(HEADER, rgb)
    received = deserialize_message(serialize_message(sent), Image)
    assert received == sent and received.header.frame_id == 'camera_optical_frame'
    np.testing.assert_array_equal(picture_of(received, LIMIT), rgb)


def test_depth_keeps_its_unknowns_and_masks_their_ids() -> None:
    depth = np.array([[1.5, np.nan], [np.inf, 0.25]], np.float32)
    sent = depth_message(HEADER, depth)
    assert (sent.encoding, sent.step, sent.is_bigendian) == ('32FC1', 8, 0)
    np.testing.assert_array_equal(np.frombuffer(sent.data, '<f4').reshape(2, 2), depth)
    mask = mask_message(HEADER, np.array([[0, 255]], np.uint8))
    assert (mask.encoding, list(mask.data)) == ('mono8', [0, 255])


@settings(deadline=None, max_examples=60)
@given(height=st.integers(0, 2**32 - 1), width=st.integers(0, 2**32 - 1),
       step=st.integers(0, 2**32 - 1), encoding=st.sampled_from(['rgb8', 'mono8', 'x', '']),
       data=st.binary(max_size=64))
def test_lying_messages_end_as_bad_image(height: int, width: int, step: int, encoding: str,
                                         data: bytes) -> None:
    message = Image(height=height, width=width, step=step, encoding=encoding,
                    data=array('B', data))
    try:
        assert picture_of(message, LIMIT).shape == (height, width, 3)
    except BadImage as error:
        assert 'BAD_IMAGE' in str(error)


def test_what_cv_bridge_refuses_is_decoded_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusal(TypeError):
        pass

    def refuse(message: Image, encoding: str) -> None:
        raise Refusal('no such conversion')

    said: list[str] = []
    monkeypatch.setattr(conversions, '_BRIDGE', SimpleNamespace(imgmsg_to_cv2=refuse))
    monkeypatch.setattr(conversions, 'CvBridgeError', Refusal, raising=False)
    monkeypatch.setattr(conversions, 'get_logger', lambda name: SimpleNamespace(
        debug=lambda text, once: said.append(text)))
    rgb = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    np.testing.assert_array_equal(picture_of(colour_message(HEADER, rgb), LIMIT), rgb)
    assert said == ['cv_bridge refuses rgb8: no such conversion; decoded without it']


def test_compressed_images_are_recognised_by_their_type() -> None:
    with pytest.raises(BadImage):
        picture_of(CompressedImage(format='jpeg', data=b'no'), LIMIT)


def test_camera_info_is_scaled_like_the_picture() -> None:
    scaled = scaled_camera_info(camera_info(), HEADER, (120, 320))
    assert (scaled.width, scaled.height, scaled.header) == (320, 120, HEADER)
    np.testing.assert_allclose(scaled.k, [250, 0, 160, 0, 127.5, 60, 0, 0, 1])
    np.testing.assert_allclose(scaled.p, [245, 0, 159, -24.5, 0, 126.25, 59.5, 0, 0, 0, 1, 0])
    assert list(scaled.d) == [0.1, 0, 0, 0, 0] and scaled.distortion_model == 'plumb_bob'
    blank = scaled_camera_info(camera_info(p=[0.0] * 10 + [1.0, 0.0]), HEADER, (120, 320))
    np.testing.assert_allclose(blank.p, [250, 0, 160, 0, 0, 127.5, 60, 0, 0, 0, 1, 0])


def test_a_region_of_interest_is_cut_off_before_scaling() -> None:
    roi = RegionOfInterest(x_offset=100, y_offset=40, width=200, height=100)
    scaled = scaled_camera_info(camera_info(roi=roi), HEADER, (50, 100))
    assert (scaled.k[0], scaled.k[2], scaled.k[5]) == (250, 110, 100)
    assert scaled.roi == RegionOfInterest()


@pytest.mark.parametrize('fields', [
    {'width': 0}, {'k': [0.0] * 9}, {'k': [float('nan')] * 9}, {'p': [float('inf')] * 12},
    {'k': [-500., 0., 320., 0., 510., 240., 0., 0., 1.]}, {'p': [-490.] + [505.] * 11},
    {'p': [490.] * 5 + [-505.] + [0.] * 6}, {'p': [490.] + [0.] * 11}, {'k': [1e-6] * 9}])
def test_unusable_camera_info_is_refused(fields: dict[str, object]) -> None:
    check_camera_info(camera_info())
    with pytest.raises(BadCameraInfo, match='calibrate'):
        check_camera_info(camera_info(**fields))


@pytest.mark.parametrize(('fields', 'times'), [
    ({'p': [100_000.] * 12}, '156.25'), ({'k': [6.] * 9}, '0.009375'),
    ({'k': [500., 0., 320., 0., 1e-6, 240., 0., 0., 1.]}, '1.5625e-09')])
def test_a_lens_that_cannot_be_is_refused(fields: dict[str, object], times: str) -> None:
    with pytest.raises(BadCameraInfo, match=f'no lens has; got {times} times .*: 0.01 .. 100 t'):
        check_camera_info(camera_info(**fields))


def test_depth_is_no_picture_and_grey_of_16_bits_is_one() -> None:
    def grey(encoding: str) -> Image:
        data = array('B', [0, 0, 255, 255])
        return Image(encoding=encoding, height=1, width=2, step=4, data=data)

    np.testing.assert_array_equal(picture_of(grey('mono16'), LIMIT)[0, :, 0], [0, 255])
    for message in (grey('16UC1'), Image(encoding='32FC1'),
                    CompressedImage(format='16UC1; png compressed ')):
        with pytest.raises(BadImage, match='depth image.*16 bits are mono16.*colour topic'):
            picture_of(message, LIMIT)


def test_legends_and_timings_keep_their_numbers() -> None:
    labels = np.zeros((2, 3), np.uint8)
    drawn = SegmentationMap(np.zeros((2, 3, 3), np.uint8), labels,
                            (Label(4, 'chair', (1, 2, 3), 6),), named=True)
    legend = legend_message(HEADER, drawn)
    entry = legend.labels[0]
    assert (entry.id, entry.name, entry.red, entry.green, entry.blue, entry.pixels) == (
        4, 'chair', 1, 2, 3, 6)
    assert legend.named and legend.header == HEADER
    timings = timings_message(Timings(4.0, 1.0, 2.0, 0.5, 10, 5, 20, 6), queued_s=0.25)
    assert (timings.queued_s, timings.total_s, timings.draw_s, timings.flow_steps) == (
        0.25, 4.0, 0.5, 6)
