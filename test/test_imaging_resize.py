"""The resize rule: reference sizes, properties, and pixels that equal the recording's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cooper_ros.errors import BadImage
from cooper_ros.imaging.resize import (
    MAX_PIXELS,
    VAE_TRANSFORM,
    VIT_TRANSFORM,
    ImageTransform,
    denormalise,
    encoder_inputs,
    normalise,
    to_rgb,
)

TABLE = [  # original, VAE size, ViT size of the VAE result, ViT size of the original (section 5.1)
    ((640, 480), (688, 512), (518, 392), (518, 392)),
    ((1024, 768), (1024, 768), (518, 392), (518, 392)),
    ((1920, 1080), (1024, 576), (518, 294), (518, 294)),
    ((1216, 352), (1024, 288), (518, 140), (518, 154)),
    ((333, 500), (512, 768), (350, 518), (336, 504)),
    ((3000, 500), (1024, 176), (518, 84), (518, 84)),
    ((4000, 500), (1024, 128), (518, 70), (518, 70))]


@pytest.mark.parametrize('size,vae,vit_after_vae,vit', TABLE)
def test_reference_sizes(size: tuple, vae: tuple, vit_after_vae: tuple, vit: tuple) -> None:
    assert VAE_TRANSFORM.size(*size) == vae
    assert VAE_TRANSFORM.size(*vae) == vae
    assert VIT_TRANSFORM.size(*vae) == vit_after_vae
    assert VIT_TRANSFORM.size(*size) == vit


@pytest.mark.parametrize('side,rounded', [(24, 32), (40, 32), (56, 64), (72, 64), (504, 512),
                                          (520, 512), (8, 16), (1, 16)])
def test_halves_go_to_even_multiples(side: int, rounded: int) -> None:
    assert ImageTransform(10 ** 6, 1, 16).size(side, side) == (rounded, rounded)


@given(width=st.integers(1, 9000), height=st.integers(1, 9000),
       transform=st.sampled_from([VAE_TRANSFORM, VIT_TRANSFORM, ImageTransform(112, 48, 16)]))
def test_sides_are_multiples_within_the_limit(width: int, height: int,
                                              transform: ImageTransform) -> None:
    sides = transform.size(width, height)
    assert all(side % transform.stride == 0 and side >= transform.stride for side in sides)
    assert max(sides) <= transform.max_size + transform.stride // 2
    assert sides == transform.size(height, width)[::-1]


def test_the_pixel_cap_is_shared_and_linear() -> None:
    wide = ImageTransform(2048, 512, 16)
    assert wide.max_pixels == MAX_PIXELS == 1_806_336
    assert wide.size(2000, 2000) == (896, 896)  # factor 0.45, not its root
    assert VAE_TRANSFORM.size(2000, 2000, pictures=4) == (448, 448)


def test_inference_resamples_twice() -> None:
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (60, 90, 3), dtype=np.uint8)
    vae, vit = ImageTransform(112, 80, 16), ImageTransform(98, 56, 14)
    inputs = encoder_inputs(rgb, vae, vit)
    assert inputs.pixels.shape == (64, 112, 3) and inputs.vae.shape == (3, 64, 112)
    assert inputs.vit.shape == (3, 56, 98) != vit(rgb).shape
    np.testing.assert_array_equal(inputs.vit, vit(inputs.pixels))
    np.testing.assert_array_equal(inputs.vae, normalise(inputs.pixels))


def test_a_fitting_picture_is_left_alone() -> None:
    rgb = np.random.default_rng(1).integers(0, 256, (512, 688, 3), dtype=np.uint8)
    np.testing.assert_array_equal(VAE_TRANSFORM.pixels(rgb), rgb)


def test_normalised_values() -> None:
    pixels = np.array([[[0, 51, 255]]], np.uint8)
    got = normalise(pixels)
    assert got.dtype == np.float32 and got.shape == (3, 1, 1) and got.flags.c_contiguous
    np.testing.assert_allclose(got.ravel(), [-1, -0.6, 1], atol=1e-6)


def test_transparency_is_pasted_on_white_and_plain_alpha_dropped() -> None:
    half = Image.new('RGBA', (1, 1), (100, 0, 0, 128))
    assert to_rgb(half).getpixel((0, 0)) == (177, 127, 127)
    palette = Image.new('P', (1, 1), 0)
    palette.putpalette([10, 20, 30])
    palette.info['transparency'] = 0
    assert to_rgb(palette).getpixel((0, 0)) == (255, 255, 255)
    assert to_rgb(Image.new('LA', (1, 1), (90, 0))).getpixel((0, 0)) == (90, 90, 90)
    assert to_rgb(Image.new('1', (1, 1), 1)).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize('array', [np.zeros((2, 2), np.uint8), np.zeros((2, 2, 4), np.uint8),
                                   np.zeros((2, 2, 3), np.float32), np.zeros((0, 2, 3), np.uint8)])
def test_other_arrays_are_refused(array: np.ndarray) -> None:
    with pytest.raises(BadImage, match='not an RGB picture'):
        to_rgb(array)


def test_empty_pictures_are_refused() -> None:
    with pytest.raises(BadImage, match='the picture is empty'):
        to_rgb(Image.new('RGB', (0, 4)))


def test_normalised_pictures_come_back() -> None:
    pixels = np.arange(256 * 3, dtype=np.uint8).reshape(16, 16, 3)
    np.testing.assert_array_equal(denormalise(normalise(pixels)), pixels)
    assert denormalise(np.array([[[-1.4, 1.4]]] * 3)).tolist() == [[[0] * 3, [255] * 3]]
