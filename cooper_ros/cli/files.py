"""Picture files as people see them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from cooper_ros.errors import BadImage
from cooper_ros.imaging.compressed import decode_compressed, open_picture

_EXIF_ORIENTATION = 0x0112
_TURNS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
          4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
          6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
          8: Image.Transpose.ROTATE_90}


def read_picture(path: Path, max_pixels: int) -> np.ndarray:
    """Read a picture file and turn it upright as its EXIF says.

    Unlike pictures of a camera topic, a photo has no calibration that the turn would break.

    Returns:
        uint8 ``[H, W, 3]`` RGB.

    Raises:
        BadImage: no such file, not a picture, damaged, or too large.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadImage('the picture file cannot be read', value=f'{path}: {error.strerror}',
                       remedy='check the path, and put the question in quotes') from error
    try:
        rgb = decode_compressed('', data, max_pixels)
    except BadImage as error:
        raise BadImage(error.what, value=path, limit=error.limit,
                       remedy='give a whole picture (JPEG or PNG if it is very large), or raise '
                              'max_image_pixels') from error
    picture = open_picture(data)
    picture.load()  # some kinds of files are turned by that, and then say so no more
    turn = _TURNS.get(picture.getexif().get(_EXIF_ORIENTATION, 1))
    return rgb if turn is None else np.array(Image.fromarray(rgb).transpose(turn))
