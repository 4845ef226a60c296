"""Which image messages are depth by convention (REP-118) and no pictures to ask about.

Of the grey ones of 16 bits ``mono16`` is a picture and ``16UC1`` is depth, for node and recording
alike. Without ROS, and without anything that reads recordings.
"""

from __future__ import annotations

from typing import Any

from cooper_ros.errors import BadImage

DEPTH_ENCODINGS = ('16UC1', '32FC1', '64FC1')


def is_depth(message: Any) -> bool:
    """Whether an Image or a CompressedImage says of itself that it holds depth."""
    return _encoding_of(message) in DEPTH_ENCODINGS


def check_no_depth(message: Any) -> None:
    """Refuse depth where a picture is wanted: decoded as grey, it would be answered about.

    Raises:
        BadImage: naming the encoding.
    """
    if is_depth(message):
        raise BadImage('this is a depth image, not a picture', value=_encoding_of(message),
                       limit='pictures; grey ones of 16 bits are mono16',
                       remedy='take the colour topic of the camera')


def _encoding_of(message: Any) -> str:
    """Encoding; of a compressed one that of what was compressed, where its format names it."""
    if hasattr(message, 'encoding'):
        return str(message.encoding)
    return str(message.format).partition(';')[0].strip()
