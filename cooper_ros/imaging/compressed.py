"""``sensor_msgs/CompressedImage`` to arrays: JPEG, PNG and the like.

Sizes come from the file header and are checked before anything is decoded.
"""

from __future__ import annotations

import io
import struct

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from cooper_ros.errors import BadImage
from cooper_ros.imaging.buffers import MAX_PIXELS, Buffer, bytes_of, check_size, to_8_bit
from cooper_ros.imaging.encodings import COLOUR_ENCODINGS, mosaic_in
from cooper_ros.imaging.resize import to_rgb

FORMATS = ('JPEG', 'PNG', 'WEBP', 'BMP', 'TIFF', 'PPM', 'GIF')
_HEAD = 16  # bytes that tell the kinds apart
_GREY = {'L': np.uint8, 'I;16': np.uint16, 'I;16B': np.uint16}


def decode_compressed(format: str, data: Buffer, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode the fields of a ``sensor_msgs/CompressedImage`` into a picture.

    The bytes decide what they are; ``format`` is only looked at to tell depth apart, and for the
    pattern of a Bayer mosaic that was encoded as it is (always by ROS 1, on demand by ROS 2).
    EXIF rotation is ignored, as cv_bridge does: calibrations belong to the pixels as stored.
    Transparency and 16-bit grey are those of :func:`cooper_ros.imaging.resize.to_rgb`.

    Args:
        format: as published, for instance ``rgb8; jpeg compressed bgr8``.
        data: one whole encoded picture.
        max_pixels: larger pictures are refused before they are decoded.

    Returns:
        uint8 ``[H, W, 3]`` RGB.

    Raises:
        BadImage: not a picture of a known kind, cut short, damaged, too large, grey of which
            nobody knows what is white, or a mosaic of an unknown pattern.
    """
    if 'compressedDepth' in format:
        raise BadImage('this is a depth image, not a picture', value=repr(format)[:80],
                       remedy='subscribe to the compressed colour topic')
    picture = _load(format, data, max_pixels)
    mosaic = mosaic_in(format) if picture.mode in _GREY else ''
    return _demosaiced(picture, mosaic) if mosaic else np.array(to_rgb(picture))


def compressed_size(data: Buffer) -> tuple[int, int]:
    """Width and height as the file header says, (0, 0) where there is no picture."""
    try:
        return open_picture(data).size
    except Exception:  # as for _load; whoever decodes it will say what is wrong
        return 0, 0


def open_picture(data: Buffer) -> Image.Image:
    """Read the header of an encoded picture; its pixels wait, so whoever calls checks the size.

    As ``PIL.Image.open``, without Pillow's limit of size: that one belongs to the whole process,
    and would refuse what ``max_image_pixels`` allows. WebP and TIFF keep to it all the same.

    Raises:
        UnidentifiedImageError: of no known kind, or with a damaged header.
        Exception: what else decoders raise over damaged headers.
    """
    stream = io.BytesIO(bytes_of(data))
    head = stream.read(_HEAD)
    stream.seek(0)
    for kind in FORMATS:
        if kind not in Image.OPEN:
            Image.init()  # some kinds are loaded late
        make, accepts = Image.OPEN[kind]
        if accepts(head) is True:  # a text says why this kind cannot be read here
            try:
                return make(stream, '')
            except (SyntaxError, IndexError, TypeError, struct.error) as error:
                raise UnidentifiedImageError(f'damaged header of {kind}') from error
    raise UnidentifiedImageError('unknown kind')


def _demosaiced(picture: Image.Image, encoding: str) -> np.ndarray:
    """Grey values of a Bayer mosaic to uint8 RGB, as raw images of this encoding."""
    layout = COLOUR_ENCODINGS.get(encoding)
    if layout is None or min(picture.size) < 2:
        raise BadImage('no known Bayer mosaic of two rows and columns at least',
                       value=f'{encoding[:40]!r}, {picture.width}x{picture.height}',
                       limit=', '.join(name for name in COLOUR_ENCODINGS if 'bayer' in name),
                       remedy='convert the image to rgb8 before it is compressed')
    values = np.asarray(picture).astype(_GREY[picture.mode])
    return to_8_bit(cv2.cvtColor(values, layout.code))


def _load(format: str, data: Buffer, max_pixels: int) -> Image.Image:
    """Open, check the size, decode. Any trouble of the decoder is a bad image.

    Decoders of untrusted bytes fail in many ways (OSError, SyntaxError, struct.error, ...), and
    the list changes with every release; this is the one place that catches them all.
    """
    try:
        picture = open_picture(data)
        check_size(picture.height, picture.width, max_pixels)
        picture.load()
    except BadImage:
        raise
    except Image.DecompressionBombError as error:
        raise BadImage('the image is too large for its kind of file', limit='that of Pillow',
                       value=str(error).partition(',')[0],
                       remedy='make it smaller, or a JPEG or PNG') from error
    except Exception as error:
        raise _undecodable(format, error) from error
    return picture


def _undecodable(format: str, error: Exception) -> BadImage:
    reason = ('unknown kind or damaged header' if isinstance(error, UnidentifiedImageError)
              else str(error)[:120])
    return BadImage(f'the compressed image cannot be decoded: {reason}', value=repr(format)[:80],
                    limit='whole ' + ', '.join(FORMATS), remedy='check what is published')
