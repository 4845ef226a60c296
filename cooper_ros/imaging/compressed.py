"""``sensor_msgs/CompressedImage`` to arrays: JPEG, PNG and the like.

Sizes come from the file header and are checked before anything is decoded.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, UnidentifiedImageError

from cooper_ros.errors import BadImage
from cooper_ros.imaging.buffers import MAX_PIXELS, Buffer, bytes_of, check_size
from cooper_ros.imaging.resize import to_rgb

FORMATS = ('JPEG', 'PNG', 'WEBP', 'BMP', 'TIFF', 'PPM', 'GIF')


def decode_compressed(format: str, data: Buffer, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode the fields of a ``sensor_msgs/CompressedImage`` into a picture.

    The bytes decide what they are; ``format`` is only looked at to tell depth apart.
    EXIF rotation is ignored, as cv_bridge does: calibrations belong to the pixels as stored.
    Transparency and 16-bit grey are those of :func:`cooper_ros.imaging.resize.to_rgb`.

    Args:
        format: as published, for instance ``rgb8; jpeg compressed bgr8``.
        data: one whole encoded picture.
        max_pixels: larger pictures are refused before they are decoded.

    Returns:
        uint8 ``[H, W, 3]`` RGB.

    Raises:
        BadImage: not a picture of a known kind, cut short, damaged, too large, or grey of which
            nobody knows what is white.
    """
    if 'compressedDepth' in format:
        raise BadImage('this is a depth image, not a picture', value=repr(format)[:80],
                       remedy='subscribe to the compressed colour topic')
    return np.array(to_rgb(_load(format, data, max_pixels)))


def compressed_size(data: Buffer) -> tuple[int, int]:
    """Width and height as the file header says, (0, 0) where there is no picture."""
    try:
        return Image.open(io.BytesIO(bytes_of(data)), formats=FORMATS).size
    except Exception:  # as for _load; whoever decodes it will say what is wrong
        return 0, 0


def _load(format: str, data: Buffer, max_pixels: int) -> Image.Image:
    """Open, check the size, decode. Any trouble of the decoder is a bad image.

    Decoders of untrusted bytes fail in many ways (OSError, SyntaxError, struct.error, ...), and
    the list changes with every release; this is the one place that catches them all.
    """
    try:
        picture = Image.open(io.BytesIO(bytes_of(data)), formats=FORMATS)
        check_size(picture.height, picture.width, max_pixels)
        picture.load()
    except BadImage:
        raise
    except Exception as error:
        raise _undecodable(format, error) from error
    return picture


def _undecodable(format: str, error: Exception) -> BadImage:
    reason = ('unknown kind or damaged header' if isinstance(error, UnidentifiedImageError)
              else str(error)[:120])
    return BadImage(f'the compressed image cannot be decoded: {reason}', value=repr(format)[:80],
                    limit='whole ' + ', '.join(FORMATS), remedy='check what is published')
