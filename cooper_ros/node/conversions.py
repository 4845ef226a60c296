"""ROS messages to arrays and back.

Where the distribution has cv_bridge, it converts; all checks are ours and come first, since a
wrong ``step`` must not reach C++. Everywhere else, and for what cv_bridge does not know,
:mod:`cooper_ros.imaging` converts, with the same results.
"""

from __future__ import annotations

from array import array
from typing import Sequence

import numpy as np
from builtin_interfaces.msg import Time
from rclpy.logging import get_logger
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from cooper_interfaces.msg import Label as LabelMsg
from cooper_interfaces.msg import Legend
from cooper_interfaces.msg import Timings as TimingsMsg
from cooper_ros.engine.events import DepthMap, Map, SegmentationMap, Timings
from cooper_ros.imaging.buffers import (
    ImageBuffer,
    decode_image,
    encode_depth,
    encode_mono8,
    encode_rgb8,
)
from cooper_ros.imaging.compressed import compressed_size, decode_compressed
from cooper_ros.imaging.depth_messages import check_no_depth
from cooper_ros.imaging.lens import scaled_matrices
from cooper_ros.replay.topics import NODE

try:
    from cv_bridge import CvBridge, CvBridgeError
    _BRIDGE: CvBridge | None = CvBridge()
except ImportError:  # the bare-machine set has none
    _BRIDGE = None

_BRIDGED = ('rgb8', 'bgr8', 'rgba8', 'bgra8', 'mono8')  # the common ones, same pixels from both


def nanoseconds_of(stamp: Time) -> int:
    """A stamp as one number; negative where the message says so, which ``rclpy.time`` refuses."""
    return stamp.sec * 10**9 + stamp.nanosec


def picture_of(message: Image | CompressedImage, max_pixels: int) -> np.ndarray:
    """Decode a camera message into uint8 RGB ``[H, W, 3]``.

    Raises:
        BadImage: depth, unknown encoding, sizes that contradict each other, damaged or too large.
    """
    check_no_depth(message)
    if isinstance(message, CompressedImage):
        return decode_compressed(message.format, message.data, max_pixels)
    if _BRIDGE is not None and _plain(message, max_pixels):
        try:
            return np.ascontiguousarray(_BRIDGE.imgmsg_to_cv2(message, 'rgb8'))
        except CvBridgeError as error:  # a sound message all the same, by the checks above
            get_logger(NODE).debug(f'cv_bridge refuses {message.encoding}: {error}; decoded '
                                       'without it', once=True)
    return decode_image(message.encoding, message.height, message.width, message.step,
                        message.is_bigendian, message.data, max_pixels)


def size_of(message: Image | CompressedImage) -> tuple[int, int]:
    """Width and height of a camera message, (0, 0) where it is no picture."""
    if isinstance(message, CompressedImage):
        return compressed_size(message.data)
    return message.width, message.height


def _plain(message: Image, max_pixels: int) -> bool:
    channels = {'mono8': 1, 'rgb8': 3, 'bgr8': 3}.get(message.encoding, 4)
    return (message.encoding in _BRIDGED and 0 < message.width * message.height <= max_pixels
            and message.step >= message.width * channels
            and len(message.data) == message.step * message.height)


def image_message(header: Header, buffer: ImageBuffer) -> Image:
    """An Image message; ``array.array`` is the fast way into ``data`` (0.7 ms at 1080p)."""
    data = array('B')
    data.frombytes(memoryview(buffer.data))
    return Image(header=header, height=buffer.height, width=buffer.width,
                 encoding=buffer.encoding, is_bigendian=buffer.is_bigendian, step=buffer.step,
                 data=data)


def depth_message(header: Header, depth: np.ndarray) -> Image:
    """float32 ``[H, W]`` -> 32FC1."""
    return image_message(header, encode_depth(depth))


def mask_message(header: Header, labels: np.ndarray) -> Image:
    """uint8 ``[H, W]`` label ids -> mono8."""
    return image_message(header, encode_mono8(labels))


def colour_message(header: Header, rgb: np.ndarray) -> Image:
    """uint8 ``[H, W, 3]`` -> rgb8."""
    return image_message(header, encode_rgb8(rgb))


def map_message(header: Header, drawn: Map) -> Image:
    """Relative depth as 32FC1, a segmentation as its mono8 mask."""
    if isinstance(drawn, DepthMap):
        return depth_message(header, drawn.relative)
    return mask_message(header, drawn.labels)


def legend_message(header: Header, drawn: SegmentationMap) -> Legend:
    """What the ids of a mask mean."""
    labels = [LabelMsg(id=int(label.id), name=label.name, red=int(label.rgb[0]),
                       green=int(label.rgb[1]), blue=int(label.rgb[2]), pixels=int(label.pixels))
              for label in drawn.legend]
    return Legend(header=header, labels=labels, named=bool(drawn.named))


def timings_message(timings: Timings, queued_s: float) -> TimingsMsg:
    """Seconds and counts of one request."""
    return TimingsMsg(queued_s=float(queued_s), total_s=float(timings.total_s),
                      read_s=float(timings.read_s), text_s=float(timings.text_s),
                      draw_s=float(timings.draw_s), read_tokens=int(timings.read_tokens),
                      reused_tokens=int(timings.reused_tokens),
                      text_tokens=int(timings.text_tokens), flow_steps=int(timings.flow_steps))


def scaled_camera_info(info: CameraInfo, header: Header, shape: Sequence[int]) -> CameraInfo:
    """Camera info for a map of shape ``(rows, columns)``.

    K and P are scaled by the ratio of the sides; distortion belongs to the lens and stays.
    """
    k, p = scaled_matrices(info, shape)
    return CameraInfo(header=header, height=int(shape[0]), width=int(shape[1]),
                      distortion_model=info.distortion_model, d=info.d, k=k, r=info.r, p=p)
