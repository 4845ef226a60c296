"""What readers raise over damaged files, in one place: each becomes an error with its place."""

from __future__ import annotations

import struct
from contextlib import contextmanager
from typing import Iterator

from PIL import Image

from cooper_ros.errors import BadData, BadImage

# Pillow's decoders raise all of these, and our own conversion to RGB the last one.
PICTURE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, OverflowError, struct.error,
                  Image.DecompressionBombError, BadImage)
JSON_ERRORS = (ValueError, RecursionError)  # the second: brackets in brackets, by the thousand


@contextmanager
def decoding(where: object, what: str = 'the picture cannot be read',
             remedy: str = 'download the file again') -> Iterator[None]:
    """Context in which a picture is decoded.

    Raises:
        BadData: it is missing, truncated, too large or no picture.
    """
    try:
        yield
    except PICTURE_ERRORS as error:
        raise BadData(what, value=f'{where}: {error}', remedy=remedy) from error


@contextmanager
def listed_at(where: str) -> Iterator[None]:
    """Context in which a file is read that a row of a list names; ``''``: no list names it.

    Raises:
        BadData: the one that was raised, with the file and line of the list before its value.
    """
    try:
        yield
    except BadData as error:
        if not where:
            raise
        raise BadData(error.what, value=f'{where}: {error.value}', limit=error.limit,
                      remedy=error.remedy) from error
