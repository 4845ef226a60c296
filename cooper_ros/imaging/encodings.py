"""The table of ROS image encodings this product reads, and how each becomes RGB.

Names and layouts are those of ``sensor_msgs/image_encodings.hpp``. "Equals cv_bridge" below
means: the same pixels as ``cv_bridge.imgmsg_to_cv2(message, 'rgb8')``, which calls the same
OpenCV conversions.

=====================================  =====================================================
encoding                               becomes RGB by
=====================================  =====================================================
rgb8, bgr8, rgba8, bgra8, mono8        reordering; alpha is dropped (equals cv_bridge)
8UC1, 8UC3, 8UC4                       read as mono8, bgr8, bgra8: OpenCV's own order (cv_bridge
                                       refuses to guess)
mono16, rgb16, bgr16, rgba16, bgra16   ``round(value * 255 / 65535)`` (equals cv_bridge)
16UC1, 16UC3, 16UC4                    the same rule, read as mono16, bgr16, bgra16 (node and
                                       recording refuse 16UC1, which is depth: depth_messages.py)
bayer_{rggb,bggr,gbrg,grbg}{8,16}      OpenCV's bilinear demosaicing (equals cv_bridge)
yuv422, uyvy, yuv422_yuy2, yuyv        ``cvtColor`` UYVY / YUY2, BT.601 (equals cv_bridge)
nv12, nv21                             ``cvtColor`` NV12 / NV21; ``data`` holds ``height`` rows
                                       of luma, then ``height / 2`` rows of colour, all with
                                       ``step`` (as V4L2 and Isaac ROS publish it)
=====================================  =====================================================
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Encoding:
    """How one encoding is stored.

    Attributes:
        dtype: number type of one channel value.
        channels: values per pixel in one row of ``data``.
        code: OpenCV colour conversion to RGB, or None when the values are RGB already.
        even_width: two neighbouring pixels share colour.
        even_height: two neighbouring rows share colour; half as many rows of colour follow.
    """

    dtype: type[np.generic]
    channels: int
    code: int | None
    even_width: bool = False
    even_height: bool = False

    @property
    def pixel_bytes(self) -> int:
        """Bytes of one pixel within a row."""
        return np.dtype(self.dtype).itemsize * self.channels

    def rows(self, height: int) -> int:
        """Rows of ``data`` for a picture of this height."""
        return height * 3 // 2 if self.even_height else height


def _plain() -> dict[str, Encoding]:
    layouts = {'rgb': (3, None), 'bgr': (3, cv2.COLOR_BGR2RGB), 'rgba': (4, cv2.COLOR_RGBA2RGB),
               'bgra': (4, cv2.COLOR_BGRA2RGB), 'mono': (1, cv2.COLOR_GRAY2RGB)}
    table = {f'{name}{bits}': Encoding(dtype, channels, code)
             for bits, dtype in ((8, np.uint8), (16, np.uint16))
             for name, (channels, code) in layouts.items()}
    for bits in (8, 16):
        for channels, name in ((1, 'mono'), (3, 'bgr'), (4, 'bgra')):
            table[f'{bits}UC{channels}'] = table[f'{name}{bits}']
    return table


def _bayer() -> dict[str, Encoding]:
    """OpenCV names a pattern by its second row, ROS by its first."""
    codes = {'rggb': cv2.COLOR_BayerBG2RGB, 'bggr': cv2.COLOR_BayerRG2RGB,
             'gbrg': cv2.COLOR_BayerGR2RGB, 'grbg': cv2.COLOR_BayerGB2RGB}
    return {f'bayer_{pattern}{bits}': Encoding(dtype, 1, code)
            for bits, dtype in ((8, np.uint8), (16, np.uint16))
            for pattern, code in codes.items()}


def _luma_chroma() -> dict[str, Encoding]:
    uyvy = Encoding(np.uint8, 2, cv2.COLOR_YUV2RGB_UYVY, even_width=True)
    yuyv = Encoding(np.uint8, 2, cv2.COLOR_YUV2RGB_YUY2, even_width=True)
    nv12 = Encoding(np.uint8, 1, cv2.COLOR_YUV2RGB_NV12, even_width=True, even_height=True)
    nv21 = Encoding(np.uint8, 1, cv2.COLOR_YUV2RGB_NV21, even_width=True, even_height=True)
    return {'yuv422': uyvy, 'uyvy': uyvy, 'yuv422_yuy2': yuyv, 'yuyv': yuyv,
            'nv12': nv12, 'nv21': nv21}


COLOUR_ENCODINGS = {**_plain(), **_bayer(), **_luma_chroma()}
# What can be read as depth. What a message says of itself is in depth_messages.py.
DEPTH_LAYOUTS = {'16UC1': Encoding(np.uint16, 1, None), 'mono16': Encoding(np.uint16, 1, None),
                   '32FC1': Encoding(np.float32, 1, None)}


def mosaic_in(format: str) -> str:
    """Encoding of the Bayer mosaic that a ``sensor_msgs/CompressedImage`` holds; '' for none.

    Args:
        format: its field. In front stands what was compressed, behind the word ``compressed``
            what it was turned into first; ROS 1 turns mosaics into nothing, and says nothing.

    >>> mosaic_in('bayer_rggb8; jpeg compressed '), mosaic_in('bayer_rggb8; jpeg compressed bgr8')
    ('bayer_rggb8', '')
    """
    before, _, behind = format.partition('compressed')
    held = behind.strip() or before.partition(';')[0].strip()
    return held if held.startswith('bayer_') else ''
