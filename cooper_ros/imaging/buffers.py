"""ROS image buffers to arrays and back, without ROS.

Every check is made on plain integers before the bytes are looked at, so a hostile or broken
message costs nothing and ends as :class:`BadImage`. Returned arrays never share memory with the
message they came from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Mapping

import cv2
import numpy as np

from cooper_ros.config import CooperConfig
from cooper_ros.errors import BadImage
from cooper_ros.imaging.encodings import COLOUR_ENCODINGS, DEPTH_LAYOUTS, Encoding

Buffer = bytes | bytearray | memoryview | np.ndarray  # array.array works too: the buffer protocol
MAX_PIXELS = CooperConfig.max_image_pixels


def decode_image(encoding: str, height: int, width: int, step: int, is_bigendian: bool | int,
                 data: Buffer, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode the fields of a ``sensor_msgs/Image`` into a picture.

    Args:
        encoding: name of the encoding; see :mod:`cooper_ros.imaging.encodings`.
        height: rows of the picture.
        width: columns of the picture.
        step: bytes from one row to the next, padding included.
        is_bigendian: byte order of 16-bit values.
        data: the bytes, as rclpy's ``array.array``, bytes, or any buffer of bytes.
        max_pixels: larger pictures are refused.

    Returns:
        uint8 ``[height, width, 3]`` RGB, its own memory.

    Raises:
        BadImage: unknown encoding, or sizes, step and data do not fit each other.
    """
    layout = _lookup(encoding, COLOUR_ENCODINGS)
    values = _values(encoding, layout, height, width, step, is_bigendian, data, max_pixels)
    if encoding.startswith('bayer') and min(height, width) < 2:
        raise BadImage('a Bayer mosaic needs two rows and two columns', value=f'{width}x{height}')
    rgb = values if layout.code is None else cv2.cvtColor(values, layout.code)
    return to_8_bit(rgb)


def decode_depth(encoding: str, height: int, width: int, step: int, is_bigendian: bool | int,
                 data: Buffer, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode a depth ``sensor_msgs/Image`` (REP-118).

    ``16UC1`` and ``mono16`` hold millimetres with 0 for unknown, ``32FC1`` metres.

    Returns:
        float32 ``[height, width]``, metres along the optical axis; NaN where unknown, which
        includes 0, negative values and the infinities of REP-117.

    Raises:
        BadImage: as :func:`decode_image`.
    """
    layout = _lookup(encoding, DEPTH_LAYOUTS)
    values = _values(encoding, layout, height, width, step, is_bigendian, data, max_pixels)
    metres = values.astype(np.float32)
    if layout.dtype is np.uint16:
        metres /= np.float32(1000)
    return unknown_as_nan(metres)


def unknown_as_nan(metres: np.ndarray) -> np.ndarray:
    """Replace what is not a finite distance above 0 by NaN, in place; returns the array."""
    metres[~(np.isfinite(metres) & (metres > 0))] = np.nan
    return metres


def to_8_bit(values: np.ndarray) -> np.ndarray:
    """uint16 -> uint8 by ``round(value * 255 / 65535)``, as cv_bridge; uint8 as it is."""
    return values if values.dtype == np.uint8 else cv2.convertScaleAbs(values, alpha=255 / 65535)


def _lookup(encoding: str, table: Mapping[str, Encoding]) -> Encoding:
    if not isinstance(encoding, str) or encoding not in table:
        raise BadImage('unsupported encoding', value=repr(encoding)[:80], limit=', '.join(table),
                       remedy='convert the image to rgb8 before it is published')
    return table[encoding]


def _values(encoding: str, layout: Encoding, height: int, width: int, step: int,
            is_bigendian: bool | int, data: Buffer, max_pixels: int) -> np.ndarray:
    """Checked bytes -> array ``[rows, W]`` or ``[rows, W, C]`` in this machine's byte order."""
    check_size(height, width, max_pixels)
    _check_even(encoding, layout, height, width)
    row_bytes, rows = width * layout.pixel_bytes, layout.rows(height)
    flat = bytes_of(data)
    _check_fit(encoding, row_bytes, rows, step, len(flat))
    packed = np.frombuffer(flat, np.uint8).reshape(rows, step)[:, :row_bytes].copy()  # [rows, B]
    stored = np.dtype(layout.dtype).newbyteorder('>' if is_bigendian else '<')
    values = packed.view(stored).astype(layout.dtype, copy=False)  # [rows, W * C]
    return values if layout.channels == 1 else values.reshape(rows, width, layout.channels)


def check_size(height: int, width: int, max_pixels: int) -> None:
    """Refuse empty and absurd sizes.

    Raises:
        BadImage: naming the size and the limit.
    """
    if height < 1 or width < 1:
        raise BadImage('the image is empty', value=f'{width}x{height}', limit='at least 1x1')
    if height * width > max_pixels:
        raise BadImage('the image is too large', value=f'{width}x{height}',
                       limit=f'{max_pixels} pixels', remedy='raise max_image_pixels')


def _check_even(encoding: str, layout: Encoding, height: int, width: int) -> None:
    if (layout.even_width and width % 2) or (layout.even_height and height % 2):
        raise BadImage(f'{encoding} needs even sides', value=f'{width}x{height}')


def _check_fit(encoding: str, row_bytes: int, rows: int, step: int, length: int) -> None:
    if step < row_bytes:
        raise BadImage(f'step is too small for {encoding}', value=step,
                       limit=f'at least {row_bytes} bytes')
    if length != step * rows:
        raise BadImage('data does not fit height and step', value=f'{length} bytes',
                       limit=f'{rows} rows of {step} bytes = {step * rows}')


def bytes_of(data: Buffer) -> memoryview:
    """The data of a message as flat bytes, without a copy where that is possible.

    Raises:
        BadImage: no buffer (a list, a number, None).
    """
    try:
        view = memoryview(data)
        return view.cast('B') if view.c_contiguous else memoryview(view.tobytes())
    except (TypeError, ValueError, BufferError) as error:
        raise BadImage('data is not a buffer of bytes', value=type(data).__name__,
                       limit='bytes, array.array or numpy uint8') from error


@dataclass(frozen=True)
class ImageBuffer:
    """The fields of a ``sensor_msgs/Image``, ready to be copied into a message.

    Attributes:
        encoding: ``rgb8``, ``mono8`` or ``32FC1``.
        height: rows.
        width: columns.
        step: bytes per row, without padding.
        is_bigendian: 0, always little endian.
        data: uint8 ``[height * step]``, contiguous; ``array('B', data.tobytes())`` for rclpy.
    """

    encoding: str
    height: int
    width: int
    step: int
    data: np.ndarray
    is_bigendian: int = 0


def encode_rgb8(picture: np.ndarray) -> ImageBuffer:
    """uint8 ``[H, W, 3]`` RGB -> ``rgb8``.

    Raises:
        BadImage: another shape or number type, or empty.
    """
    return _encode(picture, 'rgb8', np.uint8, 3)


def encode_mono8(labels: np.ndarray) -> ImageBuffer:
    """uint8 ``[H, W]``, label ids or brightness -> ``mono8``.

    Raises:
        BadImage: another shape or number type, or empty.
    """
    return _encode(labels, 'mono8', np.uint8, 1)


def encode_depth(depth: np.ndarray) -> ImageBuffer:
    """float32 ``[H, W]`` -> ``32FC1``: metres with NaN for unknown, or relative 0..1.

    Raises:
        BadImage: another shape or number type, or empty.
    """
    return _encode(depth, '32FC1', np.float32, 1)


def _encode(array: np.ndarray, encoding: str, dtype: type[np.generic],
            channels: int) -> ImageBuffer:
    shape_ok = array.ndim == 2 if channels == 1 else array.shape[2:] == (channels,)
    if array.dtype != dtype or not shape_ok or not array.size:
        raise BadImage(f'the array is not {encoding}', value=f'{array.dtype} {array.shape}',
                       limit=f'{np.dtype(dtype)}, {channels} channels, no side 0')
    little = array.astype(np.dtype(dtype).newbyteorder('<'), copy=False)
    data = np.ascontiguousarray(little).view(np.uint8).reshape(-1)
    height, width = array.shape[:2]
    return ImageBuffer(encoding, height, width, data.size // height, data)
