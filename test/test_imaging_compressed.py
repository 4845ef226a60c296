"""Compressed images: whole ones decode, everything else is BadImage, and nothing blows up."""

from __future__ import annotations

import array
import io
import struct
import tracemalloc
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cooper_ros.errors import BadImage
from cooper_ros.imaging.buffers import decode_image
from cooper_ros.imaging.compressed import compressed_size, decode_compressed
from cooper_ros.imaging.resize import to_rgb


def scene(height: int = 40, width: int = 56) -> np.ndarray:
    """A smooth picture with an edge, uint8 RGB."""
    y, x = np.mgrid[:height, :width]
    rgb = np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], axis=2).astype(np.uint8)
    rgb[height // 4:height // 2, width // 4:width // 2] = (250, 20, 30)
    return rgb


def packed(picture: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize('kind,options,mean_error', [
    ('PNG', {}, 0), ('BMP', {}, 0), ('TIFF', {}, 0), ('PPM', {}, 0),
    ('WEBP', {'lossless': True}, 0), ('JPEG', {'quality': 95, 'subsampling': 0}, 2)])
def test_pictures_of_every_kind_decode(kind: str, options: dict,
                                       mean_error: float) -> None:
    rgb = scene()
    data = array.array('B', packed(Image.fromarray(rgb), kind, **options))
    got = decode_compressed(f'rgb8; {kind.lower()} compressed bgr8', data)
    assert got.dtype == np.uint8 and got.shape == rgb.shape
    assert np.abs(got.astype(int) - rgb).mean() <= mean_error


def test_jpeg_agrees_with_opencv_as_cv_bridge_reads_it() -> None:
    data = packed(Image.fromarray(scene()), 'JPEG', quality=90)
    theirs = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(decode_compressed('jpeg', data).astype(int) - theirs).max() <= 2


def test_exif_rotation_is_ignored() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = packed(Image.fromarray(scene(40, 56)), 'JPEG', exif=exif)
    assert decode_compressed('jpeg', data).shape == (40, 56, 3)


def test_16_bit_grey_is_scaled_and_transparency_is_white() -> None:
    grey = np.array([[0, 4660, 65535]], np.uint16)
    got = decode_compressed('png', packed(Image.fromarray(grey), 'PNG'))
    assert got[0].tolist() == [[0] * 3, [18] * 3, [255] * 3]
    clear = packed(Image.new('RGBA', (2, 2), (9, 9, 9, 0)), 'PNG')
    assert (decode_compressed('png', clear) == 255).all()


def test_transparent_16_bit_grey_is_white() -> None:
    """By the one rule of all pictures, in a file or on a topic."""
    grey = Image.fromarray(np.array([[0, 1000, 65535]], np.uint16))
    data = packed(grey, 'PNG', transparency=1000)
    assert decode_compressed('png', data)[0].tolist() == [[0] * 3, [255] * 3, [255] * 3]
    assert np.array(to_rgb(Image.open(io.BytesIO(data))))[0, 1].tolist() == [255] * 3


def test_every_truncation_is_refused() -> None:
    for kind in ('JPEG', 'PNG'):
        whole = packed(Image.fromarray(scene()), kind)
        for length in [0, 1, 2, 10, 33, 60, len(whole) // 2, len(whole) * 3 // 4]:
            with pytest.raises(BadImage, match='cannot be decoded'):
                decode_compressed(kind, whole[:length])


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=300), head=st.sampled_from(
    [b'', b'\xff\xd8\xff\xe0', b'\x89PNG\r\n\x1a\n', b'BM', b'II*\x00', b'MM\x00*', b'GIF89a',
     b'P5 ', b'P6 9 9 255\n', b'RIFF\x00\x00\x00\x00WEBP']))
def test_noise_is_a_picture_or_bad_image(data: bytes, head: bytes) -> None:
    try:
        got = decode_compressed('jpeg', head + data, max_pixels=10_000)
    except BadImage:
        return
    assert got.ndim == 3 and got.shape[2] == 3 and got.shape[0] * got.shape[1] <= 10_000


@settings(max_examples=80, deadline=None)
@given(place=st.floats(0, 0.999), value=st.integers(0, 255), kind=st.sampled_from(['PNG', 'JPEG']))
def test_a_flipped_byte_is_a_picture_or_bad_image(place: float, value: int, kind: str) -> None:
    data = bytearray(packed(Image.fromarray(scene()), kind))
    data[int(place * len(data))] = value
    try:
        got = decode_compressed(kind, data, max_pixels=100_000)
    except BadImage:
        return
    assert got.ndim == 3


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that declares a huge canvas."""
    def chunk(name: bytes, body: bytes) -> bytes:
        check = struct.pack('>I', zlib.crc32(name + body))
        return struct.pack('>I', len(body)) + name + body + check
    header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(b'0' * 99))


@pytest.mark.parametrize('size', [(7000, 7000), (50000, 50000), (2 ** 31 - 1, 2 ** 31 - 1)])
def test_bombs_are_refused_before_they_are_decoded(size: tuple[int, int]) -> None:
    tracemalloc.start()
    with pytest.raises(BadImage, match='too large|bomb'):
        decode_compressed('png', bomb(*size))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000


def test_what_is_no_picture_is_refused() -> None:
    for data in (None, 10 ** 12, 'text', [1, 2]):
        with pytest.raises(BadImage):
            decode_compressed('jpeg', data)
    with pytest.raises(BadImage, match='depth image'):
        decode_compressed('16UC1; compressedDepth png', b'')
    floats = packed(Image.fromarray(np.ones((3, 3), np.float32)), 'TIFF')
    with pytest.raises(BadImage, match='no known value is white.*mode F'):
        decode_compressed('tiff', floats)


KINDS = ('JPEG', 'PNG', 'BMP', 'PPM', 'GIF')


@pytest.mark.parametrize('kind', KINDS)
def test_our_limit_of_size_is_the_one_that_counts(kind: str, monkeypatch: pytest.MonkeyPatch
                                                  ) -> None:
    """Pillow has one for the whole process, below what max_image_pixels allows."""
    data = packed(Image.fromarray(scene()), kind)
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
    assert decode_compressed('', data, 40 * 56).shape == (40, 56, 3)
    assert compressed_size(data) == (56, 40)
    with pytest.raises(BadImage, match='got 56x40; allowed: 2239 pixels; remedy: raise max_im'):
        decode_compressed('', data, 40 * 56 - 1)
    assert Image.MAX_IMAGE_PIXELS == 100  # it guards others


@pytest.mark.parametrize('kind', ['TIFF', 'WEBP'])
def test_kinds_that_keep_to_the_limit_of_pillow_say_so(kind: str, monkeypatch: pytest.MonkeyPatch
                                                       ) -> None:
    data = packed(Image.fromarray(scene()), kind)
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
    with pytest.raises(BadImage, match='too large for its kind.*smaller, or a JPEG or PNG'):
        decode_compressed('', data)


def test_a_huge_picture_that_is_allowed_is_decoded_as_far_as_it_goes() -> None:
    """A canvas beyond the limit of Pillow: refused for what it lacks, not for its size."""
    with pytest.raises(BadImage, match='cannot be decoded') as caught:
        decode_compressed('png', bomb(20_000, 10_000), 400_000_000)
    assert 'pixels' not in str(caught.value)


def mosaic(pattern: str, deep: bool = False) -> np.ndarray:
    """Red ground with a blue field as a sensor behind a Bayer filter sees it."""
    rgb = np.full((32, 48, 3), (200, 60, 20), np.uint8)
    rgb[8:24, 12:36] = (30, 60, 220)
    seen = np.empty((32, 48), np.uint8)
    for place, colour in enumerate(pattern):
        row, column = divmod(place, 2)
        seen[row::2, column::2] = rgb[row::2, column::2, 'rgb'.index(colour)]
    return seen.astype(np.uint16) * 257 if deep else seen


@pytest.mark.parametrize('pattern', ['rggb', 'bggr', 'gbrg', 'grbg'])
@pytest.mark.parametrize(('bits', 'form'), [
    (8, 'bayer_{}8; jpeg compressed '), (8, 'bayer_{0}8; jpeg compressed bayer_{0}8'),
    (8, 'bayer_{}8; png compressed '), (16, 'bayer_{}16; png compressed ')])
def test_an_encoded_mosaic_is_as_colourful_as_a_raw_one(pattern: str, bits: int, form: str
                                                        ) -> None:
    """ROS 1 encodes it as it is, ROS 2 where `jpeg_compress_bayer` is set."""
    seen = mosaic(pattern, bits == 16)
    raw = decode_image(f'bayer_{pattern}{bits}', *seen.shape, seen.strides[0], False,
                       seen.tobytes())
    options = {'quality': 100} if 'jpeg' in form else {}
    data = packed(Image.fromarray(seen), 'JPEG' if 'jpeg' in form else 'PNG', **options)
    got = decode_compressed(form.format(pattern), data)
    assert np.abs(got.astype(int) - raw).max() <= (4 if 'jpeg' in form else 0)
    assert got[16, 4].tolist()[0] > 190 and got[16, 24].tolist()[2] > 210


@pytest.mark.parametrize('form', ['bayer_rggb8; jpeg compressed mono8', 'mono8; jpeg compressed ',
                                  'jpeg', 'bayer_rggb8; png compressed mono16'])
def test_grey_that_is_no_mosaic_stays_grey(form: str) -> None:
    got = decode_compressed(form, packed(Image.fromarray(mosaic('rggb')), 'PNG'))
    assert (got == got[..., :1]).all()


def test_colour_made_of_a_mosaic_stays_as_it_is() -> None:
    data = packed(Image.fromarray(scene()), 'PNG')
    for form in ('bayer_rggb8; png compressed bgr8', 'bayer_rggb8; png compressed '):
        assert np.array_equal(decode_compressed(form, data), scene())


@pytest.mark.parametrize(('form', 'size'), [
    ('bayer_rgbw8; jpeg compressed ', (8, 8)), ('bayer_rggb8; jpeg compressed ', (1, 8))])
def test_mosaics_that_nobody_can_read_are_refused(form: str, size: tuple[int, int]) -> None:
    data = packed(Image.new('L', size, 80), 'JPEG')
    with pytest.raises(BadImage, match='no known Bayer mosaic.*; got .bayer_.*bayer_grbg16'):
        decode_compressed(form, data)
