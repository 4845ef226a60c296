"""The resize rule and normalisation in front of both image encoders (reference section 5)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from cooper_ros.errors import BadImage
from cooper_ros.imaging.buffers import to_8_bit

MAX_PIXELS = 14 * 14 * 9 * 1024  # the published cap; reached by extreme aspect ratios only
MOST_16_BIT = 65535
Picture = Image.Image | np.ndarray


def to_rgb(picture: Picture) -> Image.Image:
    """Turn any Pillow mode or an array into an RGB picture.

    What RGBA and palettes leave out becomes white; transparent grey (``LA``) only loses its
    transparency, as the published rule has it. 16-bit grey becomes ``round(value / 257)``.

    Args:
        picture: a Pillow picture, or uint8 ``[H, W, 3]`` RGB.

    Raises:
        BadImage: an array has another shape or number type, a side is 0, or nobody knows which
            value is white (floating point numbers, or integers beyond 16 bits).
    """
    if isinstance(picture, np.ndarray):
        return _from_array(picture)
    if min(picture.size) < 1:
        raise BadImage('the picture is empty', value=picture.size, limit='at least 1x1')
    if picture.mode.startswith(('I', 'F')):
        return _from_deep_grey(picture)
    if picture.mode != 'RGBA' and 'transparency' not in picture.info:
        return picture.convert('RGB')
    layered = picture.convert('RGBA')
    paper = Image.new('RGB', layered.size, (255, 255, 255))
    paper.paste(layered, mask=layered.getchannel('A'))
    return paper


def _from_deep_grey(picture: Image.Image) -> Image.Image:
    """Modes ``I;16`` and ``I`` (16-bit PGM); Pillow itself would cut them off at 255."""
    values = np.asarray(picture)
    low, high = values.min(), values.max()
    if picture.mode == 'F' or low < 0 or high > MOST_16_BIT:
        raise BadImage('no known value is white in this grey picture',
                       value=f'mode {picture.mode}, {low} .. {high}',
                       limit=f'integers 0 .. {MOST_16_BIT}',
                       remedy='save it with 8 or 16 bits per pixel')
    grey = to_8_bit(values.astype(np.uint16))
    grey[values == picture.info.get('transparency', -1)] = 255
    return Image.fromarray(grey).convert('RGB')


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8 or not array.size:
        raise BadImage('the array is not an RGB picture', value=f'{array.dtype} {array.shape}',
                       limit='uint8 [height, width, 3], no side 0')
    return Image.fromarray(np.ascontiguousarray(array))


def _scaled(width: int, height: int, factor: float, stride: int) -> tuple[int, int]:
    """Scale both sides, then round each to the stride; halves go to even, as published."""
    sides = (round(width * factor), round(height * factor))
    first, second = (max(stride, round(side / stride) * stride) for side in sides)
    return first, second


@dataclass(frozen=True)
class ImageTransform:
    """Longest side at most ``max_size``, shortest at least ``min_size``, multiples of ``stride``.

    Attributes:
        max_size: limit of the longer side in pixels; it wins over ``min_size``.
        min_size: what the shorter side is enlarged to.
        stride: both sides become multiples of it, never less than one of it.
        max_pixels: cap on width times height, shared by all pictures of one request.
    """

    max_size: int
    min_size: int
    stride: int
    max_pixels: int = MAX_PIXELS

    def size(self, width: int, height: int, pictures: int = 1) -> tuple[int, int]:
        """Return the (width, height) a picture of this size is resized to.

        Args:
            pictures: how many pictures share the pixel cap.
        """
        factor = max(min(self.max_size / max(width, height), 1.0),
                     self.min_size / min(width, height))
        width, height = _scaled(width, height, factor, self.stride)
        cap = self.max_pixels / pictures
        if width * height > cap:  # the factor is linear, not its square root: kept (quirk Q31)
            width, height = _scaled(width, height, cap / (width * height), self.stride)
        if max(width, height) > self.max_size:
            factor = self.max_size / max(width, height)
            width, height = _scaled(width, height, factor, self.stride)
        return width, height

    def resize(self, picture: Image.Image) -> Image.Image:
        """Resize with Pillow's antialiased bicubic; integer depth pictures work too."""
        size = self.size(*picture.size)
        return picture if size == picture.size else picture.resize(size, Image.Resampling.BICUBIC)

    def pixels(self, picture: Picture) -> np.ndarray:
        """Return the resized picture as uint8 ``[H, W, 3]`` RGB."""
        return np.array(self.resize(to_rgb(picture)))

    def __call__(self, picture: Picture) -> np.ndarray:
        """Return what an encoder reads: float32 ``[3, H, W]`` in -1..1."""
        return normalise(self.pixels(picture))


VAE_TRANSFORM = ImageTransform(1024, 512, 16)
VIT_TRANSFORM = ImageTransform(518, 224, 14)


def normalise(pixels: np.ndarray) -> np.ndarray:
    """uint8 ``[H, W, 3]`` -> contiguous float32 ``[3, H, W]`` in -1..1."""
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))  # [3, H, W]
    half = np.float32(0.5)
    return (planes.astype(np.float32) / np.float32(255) - half) / half


def denormalise(planes: np.ndarray) -> np.ndarray:
    """Undo :func:`normalise`: float ``[3, H, W]`` in about -1..1 -> uint8 ``[H, W, 3]``, rounded.

    What is published from a decoder is truncated instead, see ``picture_from_decoded``.
    """
    return np.rint((np.clip(planes.transpose(1, 2, 0), -1, 1) + 1) * 127.5).astype(np.uint8)


@dataclass(frozen=True)
class EncoderInputs:
    """One picture as both encoders see it.

    Attributes:
        pixels: uint8 ``[H, W, 3]``, after the VAE resize; drawn maps get this size.
        vae: float32 ``[3, H, W]`` in -1..1, sides multiples of the VAE stride.
        vit: float32 ``[3, h, w]`` in -1..1, sides multiples of the patch.
    """

    pixels: np.ndarray
    vae: np.ndarray
    vit: np.ndarray


def encoder_inputs(picture: Picture, vae: ImageTransform = VAE_TRANSFORM,
                   vit: ImageTransform = VIT_TRANSFORM) -> EncoderInputs:
    """Prepare a picture the way every inference mode does (section 5.2).

    The picture is resized for the VAE first; *that* result is resized for the vision encoder,
    so its pixels are resampled twice. The VAE rule is applied again to its own result, as
    published; where the rule is not idempotent this matters.
    """
    first = vae.resize(to_rgb(picture))
    pixels = vae.pixels(first)
    return EncoderInputs(np.array(first), normalise(pixels), vit(first))
