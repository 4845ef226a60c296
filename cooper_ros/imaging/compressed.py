"""``sensor_msgs/CompressedImage`` to arrays: JPEG, PNG and the like, and compressed depth.

Sizes come from the file header and are checked before anything is decoded.
"""

from __future__ import annotations

import io
import struct

import numpy as np
from PIL import Image, UnidentifiedImageError

from cooper_ros.errors import BadImage
from cooper_ros.imaging.buffers import (
    MAX_PIXELS,
    Buffer,
    bytes_of,
    check_size,
    to_8_bit,
    unknown_as_nan,
)
from cooper_ros.imaging.resize import to_rgb

FORMATS = ('JPEG', 'PNG', 'WEBP', 'BMP', 'TIFF', 'PPM', 'GIF')
DEPTH_HEADER = struct.Struct('<iff')  # kind, then quantisation A and B of the transport plugin


def decode_compressed(format: str, data: Buffer, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode the fields of a ``sensor_msgs/CompressedImage`` into a picture.

    The bytes decide what they are; ``format`` is only looked at to tell depth apart.
    EXIF rotation is ignored, as cv_bridge does: calibrations belong to the pixels as stored.
    Transparency is pasted on white and 16-bit grey becomes ``round(value * 255 / 65535)``.

    Args:
        format: as published, for instance ``rgb8; jpeg compressed bgr8``.
        data: one whole encoded picture.
        max_pixels: larger pictures are refused before they are decoded.

    Returns:
        uint8 ``[H, W, 3]`` RGB.

    Raises:
        BadImage: not a picture of a known kind, cut short, damaged, or too large.
    """
    if 'compressedDepth' in format:
        raise BadImage('this is a depth image, not a picture', value=repr(format)[:80],
                       remedy='subscribe to the compressed colour topic')
    return _picture(_load(format, data, max_pixels, FORMATS))


def compressed_size(data: Buffer) -> tuple[int, int]:
    """Width and height as the file header says, (0, 0) where there is no picture."""
    try:
        return Image.open(io.BytesIO(bytes_of(data)), formats=FORMATS).size
    except Exception:  # as for _load; whoever decodes it will say what is wrong
        return 0, 0


def decode_compressed_depth(format: str, data: Buffer,
                            max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode a ``compressedDepth`` message (compressed_depth_image_transport, PNG kind).

    Returns:
        float32 ``[H, W]``, metres along the optical axis, NaN where unknown.

    Raises:
        BadImage: another format, cut short, damaged, or too large.
    """
    encoding = format.split(';')[0].strip()
    if 'compressedDepth' not in format or encoding not in ('16UC1', '32FC1') or 'rvl' in format:
        raise BadImage('unsupported compressed depth', value=repr(format)[:80],
                       limit='16UC1; compressedDepth png, 32FC1; compressedDepth png')
    payload = bytes_of(data)
    if len(payload) <= DEPTH_HEADER.size:
        raise BadImage('the depth image is cut short', value=f'{len(payload)} bytes')
    _, quant_a, quant_b = DEPTH_HEADER.unpack_from(payload)
    stored = np.array(_load(format, payload[DEPTH_HEADER.size:], max_pixels, ('PNG',)))
    if stored.ndim != 2 or stored.dtype.kind not in 'iu':
        raise BadImage('compressed depth is not 16-bit grey', value=f'{stored.dtype}')
    return _dequantised(stored.astype(np.float32), encoding, quant_a, quant_b)


def _dequantised(stored: np.ndarray, encoding: str, quant_a: float,
                 quant_b: float) -> np.ndarray:
    """Millimetres, or inverse depth ``A / (value - B)``; 0 is unknown in both."""
    if encoding == '16UC1':
        return unknown_as_nan(stored / np.float32(1000))
    with np.errstate(divide='ignore', invalid='ignore', over='ignore'):
        metres = np.float32(quant_a) / (stored - np.float32(quant_b))
    metres[stored == 0] = np.nan
    return unknown_as_nan(metres.astype(np.float32))


def _load(format: str, data: Buffer, max_pixels: int, kinds: tuple[str, ...]) -> Image.Image:
    """Open, check the size, decode. Any trouble of the decoder is a bad image.

    Decoders of untrusted bytes fail in many ways (OSError, SyntaxError, struct.error, ...), and
    the list changes with every release; this is the one place that catches them all.
    """
    try:
        picture = Image.open(io.BytesIO(bytes_of(data)), formats=kinds)
        check_size(picture.height, picture.width, max_pixels)
        picture.load()
    except BadImage:
        raise
    except Exception as error:
        raise _undecodable(format, kinds, error) from error
    return picture


def _undecodable(format: str, kinds: tuple[str, ...], error: Exception) -> BadImage:
    reason = ('unknown kind or damaged header' if isinstance(error, UnidentifiedImageError)
              else str(error)[:120])
    return BadImage(f'the compressed image cannot be decoded: {reason}', value=repr(format)[:80],
                    limit='whole ' + ', '.join(kinds), remedy='check what is published')


def _picture(picture: Image.Image) -> np.ndarray:
    """Any Pillow mode -> uint8 RGB; Pillow itself would clip 16-bit grey instead of scaling."""
    if picture.mode == 'F':
        raise BadImage('pictures of floating point numbers are not supported', value='mode F')
    if not picture.mode.startswith('I'):
        return np.array(to_rgb(picture))
    grey = np.clip(np.asarray(picture), 0, 65535).astype(np.uint16)  # [H, W]
    return np.repeat(to_8_bit(grey)[..., None], 3, axis=2)
