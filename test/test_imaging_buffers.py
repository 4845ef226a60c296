"""ROS image buffers: every encoding, padding and byte order, and every way to be broken."""

from __future__ import annotations

import array

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cooper_ros.errors import BadImage
from cooper_ros.imaging import buffers
from cooper_ros.imaging.encodings import COLOUR_ENCODINGS, DEPTH_LAYOUTS

LAYOUTS = {'rgb': [0, 1, 2], 'bgr': [2, 1, 0], 'rgba': [0, 1, 2, 3], 'bgra': [2, 1, 0, 3]}
PLAIN = ['rgb8', 'bgr8', 'rgba8', 'bgra8', 'rgb16', 'bgr16', 'rgba16', 'bgra16', 'mono8', 'mono16',
         '8UC1', '8UC3', '8UC4', '16UC1', '16UC3', '16UC4']
OPENCV_NAMES = {'UC1': 'mono', 'UC3': 'bgr', 'UC4': 'bgra'}
BAYER = [name for name in COLOUR_ENCODINGS if name.startswith('bayer')]
YUV = ['yuv422', 'uyvy', 'yuv422_yuy2', 'yuyv', 'nv12', 'nv21']


def pad(values: np.ndarray, padding: int, big: bool) -> tuple[bytes, int]:
    """Array of rows -> message bytes with noise between the rows, and the step."""
    stored = values.astype(values.dtype.newbyteorder('>' if big else '<'))
    rows = np.ascontiguousarray(stored).view(np.uint8).reshape(len(values), -1)
    noise = np.full((len(values), padding), 0xA5, np.uint8)
    return np.concatenate([rows, noise], axis=1).tobytes(), rows.shape[1] + padding


def store_plain(encoding: str, rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """RGB ``[H, W, 3]`` (or grey) -> channel values in the layout that the name promises."""
    bits, kind = (16 if '16' in encoding else 8), encoding.replace('16', '').replace('8', '')
    kind = OPENCV_NAMES.get(kind, kind)
    wide = rgb.astype(np.uint16) * 257 if bits == 16 else rgb
    if kind == 'mono':
        return wide[..., 0]
    alpha = rng.integers(0, 2 ** bits, rgb.shape[:2] + (1,)).astype(wide.dtype)
    return np.concatenate([wide, alpha], axis=2)[..., LAYOUTS[kind]]


@pytest.mark.parametrize('encoding', PLAIN)
@settings(max_examples=25, deadline=None)
@given(height=st.integers(1, 9), width=st.integers(1, 9), padding=st.integers(0, 7),
       big=st.booleans(), seed=st.integers(0, 2 ** 16))
def test_plain_encodings_come_back_exactly(encoding: str, height: int, width: int, padding: int,
                                           big: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rgb = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    if 'mono' in encoding or 'UC1' in encoding:
        rgb = np.repeat(rgb[..., :1], 3, axis=2)
    data, step = pad(store_plain(encoding, rgb, rng), padding, big)
    got = buffers.decode_image(encoding, height, width, step, big, data)
    assert got.dtype == np.uint8 and got.flags.c_contiguous
    np.testing.assert_array_equal(got, rgb)


@pytest.mark.parametrize('encoding', BAYER)
@pytest.mark.parametrize('big', [False, True])
def test_bayer_mosaic_of_one_colour_gives_that_colour(encoding: str, big: bool) -> None:
    colour = {'r': 200, 'g': 120, 'b': 40}
    tile = [colour[letter] for letter in encoding.split('_')[1][:4]]
    mosaic = np.tile(np.array(tile, np.uint8).reshape(2, 2), (5, 6))
    if encoding.endswith('16'):
        mosaic = mosaic.astype(np.uint16) * 257
    data, step = pad(mosaic, 3, big)
    got = buffers.decode_image(encoding, 10, 12, step, big, data)
    np.testing.assert_array_equal(got, np.broadcast_to((200, 120, 40), got.shape))


def store_yuv(encoding: str, height: int, width: int, yuv: tuple[int, int, int]) -> np.ndarray:
    """A picture of one colour in a luma-chroma layout, rows of bytes."""
    y, u, v = yuv
    if encoding.startswith('nv'):
        luma = np.full((height, width), y, np.uint8)
        pair = [u, v] if encoding == 'nv12' else [v, u]
        return np.concatenate([luma, np.tile(np.array(pair, np.uint8), (height // 2, width // 2))])
    quad = [y, u, y, v] if encoding in ('yuyv', 'yuv422_yuy2') else [u, y, v, y]
    return np.tile(np.array(quad, np.uint8), (height, width // 2))


@pytest.mark.parametrize('encoding', YUV)
def test_luma_chroma_follows_bt601(encoding: str) -> None:
    """BT.601 limited range: Y 81, U 90, V 240 is pure red; 145, 54, 34 is green."""
    for yuv, rgb in (((81, 90, 240), (255, 0, 0)), ((145, 54, 34), (0, 255, 0)),
                     ((41, 240, 110), (0, 0, 255)), ((235, 128, 128), (255, 255, 255))):
        data, step = pad(store_yuv(encoding, 4, 6, yuv), 5, False)
        got = buffers.decode_image(encoding, 4, 6, step, False, data)
        assert got.shape == (4, 6, 3)
        assert np.abs(got.astype(int) - rgb).max() <= 2


def test_16_bit_grey_is_rounded_not_clipped_or_cut() -> None:
    values = np.array([[0, 128, 129, 257, 4660, 65406, 65407, 65535]], np.uint16)
    data, step = pad(values, 0, False)
    got = buffers.decode_image('mono16', 1, 8, step, 0, data)[0, :, 0]
    assert got.tolist() == [0, 0, 1, 1, 18, 254, 255, 255]


@settings(max_examples=60, deadline=None)
@given(encoding=st.sampled_from(sorted(DEPTH_LAYOUTS)), height=st.integers(1, 6),
       width=st.integers(1, 6), padding=st.integers(0, 5), big=st.booleans(),
       seed=st.integers(0, 999))
def test_depth_comes_back_in_metres(encoding: str, height: int, width: int, padding: int,
                                    big: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    if encoding == '32FC1':
        stored = rng.uniform(-1, 5, (height, width)).astype(np.float32)
        stored.flat[0] = rng.choice([np.nan, np.inf, -np.inf, 0.0, 2.5])
        expected = np.where(np.isfinite(stored) & (stored > 0), stored, np.nan)
    else:
        stored = rng.integers(0, 3, (height, width)).astype(np.uint16) * 1500
        expected = np.where(stored > 0, stored / np.float32(1000), np.nan)
    data, step = pad(stored, padding, big)
    got = buffers.decode_depth(encoding, height, width, step, big, data)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, expected.astype(np.float32))


@pytest.mark.parametrize('encoding', sorted(COLOUR_ENCODINGS))
@settings(max_examples=40, deadline=None)
@given(height=st.integers(-2, 12), width=st.integers(-2, 12), step=st.integers(-5, 60),
       length=st.integers(0, 700), big=st.booleans())
def test_any_sizes_give_a_picture_or_bad_image(encoding: str, height: int, width: int, step: int,
                                               length: int, big: bool) -> None:
    layout = COLOUR_ENCODINGS[encoding]
    fits = (height > 0 and width > 0 and step >= width * layout.pixel_bytes
            and not (layout.even_width and width % 2) and not (layout.even_height and height % 2)
            and length == layout.rows(height) * step
            and not (encoding.startswith('bayer') and min(height, width) < 2))
    try:
        got = buffers.decode_image(encoding, height, width, step, big, bytes(length))
    except BadImage:
        assert not fits
    else:
        assert fits and got.shape == (height, width, 3)


@pytest.mark.parametrize('encoding', sorted(COLOUR_ENCODINGS))
def test_one_byte_too_few_or_too_many_is_refused(encoding: str) -> None:
    layout = COLOUR_ENCODINGS[encoding]
    step = 8 * layout.pixel_bytes + 2
    whole = layout.rows(4) * step
    assert buffers.decode_image(encoding, 4, 8, step, 0, bytes(whole)).shape == (4, 8, 3)
    for length in (0, 1, whole - 1, whole + 1, 2 * whole):
        with pytest.raises(BadImage, match='data does not fit height and step'):
            buffers.decode_image(encoding, 4, 8, step, 0, bytes(length))
    with pytest.raises(BadImage, match='step is too small'):
        buffers.decode_image(encoding, 4, 8, 8 * layout.pixel_bytes - 1, 0, bytes(whole))


def test_absurd_sizes_are_refused_before_any_memory_is_taken() -> None:
    with pytest.raises(BadImage, match='too large.*20000x20000.*40000000 pixels.*max_image_pix'):
        buffers.decode_image('rgb8', 20000, 20000, 60000, 0, b'')
    with pytest.raises(BadImage, match='too large'):
        buffers.decode_image('mono8', 2 ** 32 - 1, 2 ** 32 - 1, 2 ** 32 - 1, 0, b'')
    with pytest.raises(BadImage, match='the image is empty; got 0x0'):
        buffers.decode_image('rgb8', 0, 0, 0, 0, b'')


def test_the_pixel_limit_is_the_callers() -> None:
    data = bytes(4 * 5 * 3)
    assert buffers.decode_image('rgb8', 4, 5, 15, 0, data, max_pixels=20).shape == (4, 5, 3)
    with pytest.raises(BadImage, match='got 5x4; allowed: 19 pixels'):
        buffers.decode_image('rgb8', 4, 5, 15, 0, data, max_pixels=19)


@pytest.mark.parametrize('encoding', ['', 'RGB8', 'rgb', '32FC1', '64FC1', 'h264', 'a' * 10000])
def test_unknown_encodings_are_refused_with_the_list(encoding: str) -> None:
    with pytest.raises(BadImage, match='unsupported encoding') as caught:
        buffers.decode_image(encoding, 1, 1, 3, 0, bytes(3))
    assert all(name in str(caught.value) for name in COLOUR_ENCODINGS)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize('data', [None, 5, [0, 0, 0], 'abc', object()])
def test_what_is_no_buffer_is_refused(data: object) -> None:
    with pytest.raises(BadImage, match='not a buffer of bytes'):
        buffers.decode_image('rgb8', 1, 1, 3, 0, data)


@pytest.mark.parametrize('wrap', [bytes, bytearray, memoryview, lambda b: array.array('B', b),
                                  lambda b: np.frombuffer(b, np.uint8),
                                  lambda b: np.repeat(np.frombuffer(b, np.uint8), 2)[::2]])
def test_every_kind_of_buffer_is_read_and_not_kept(wrap: object) -> None:
    source = bytes(range(12))
    message = wrap(source)
    got = buffers.decode_image('rgb8', 2, 2, 6, 0, message)
    assert got.tobytes() == source
    assert got.flags.writeable
    if not isinstance(message, (bytes, memoryview)) and memoryview(message).readonly is False:
        message[0] = 99
        assert got[0, 0, 0] == 0


@settings(max_examples=30, deadline=None)
@given(height=st.integers(1, 7), width=st.integers(1, 7), seed=st.integers(0, 999))
def test_encoded_buffers_decode_to_themselves(height: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rgb = rng.integers(0, 256, (width, height, 3), dtype=np.uint8).transpose(1, 0, 2)
    depth = rng.uniform(0.1, 9, (height, width)).astype(np.float32)
    depth.flat[0] = np.nan
    made = buffers.encode_rgb8(rgb)
    assert made.data.flags.c_contiguous and made.data.dtype == np.uint8
    assert (made.encoding, made.step, made.data.size) == ('rgb8', 3 * width, 3 * width * height)
    np.testing.assert_array_equal(reread(made, buffers.decode_image), rgb)
    np.testing.assert_array_equal(reread(buffers.encode_depth(depth), buffers.decode_depth), depth)
    mono = buffers.encode_mono8(np.ascontiguousarray(rgb[..., 0]))
    np.testing.assert_array_equal(reread(mono, buffers.decode_image)[..., 2], rgb[..., 0])


def reread(made: buffers.ImageBuffer, decode: object) -> np.ndarray:
    return decode(made.encoding, made.height, made.width, made.step, made.is_bigendian, made.data)


@pytest.mark.parametrize('encode,array_', [
    (buffers.encode_rgb8, np.zeros((2, 2), np.uint8)),
    (buffers.encode_rgb8, np.zeros((2, 2, 4), np.uint8)),
    (buffers.encode_rgb8, np.zeros((2, 2, 3), np.float32)),
    (buffers.encode_rgb8, np.zeros((0, 2, 3), np.uint8)),
    (buffers.encode_mono8, np.zeros((2, 2, 1), np.uint8)),
    (buffers.encode_depth, np.zeros((2, 2), np.float64))])
def test_wrong_arrays_are_not_encoded(encode: object, array_: np.ndarray) -> None:
    with pytest.raises(BadImage, match='the array is not'):
        encode(array_)
