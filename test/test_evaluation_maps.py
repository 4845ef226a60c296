"""``cooper evaluate --suite depth`` and ``segmentation`` on folders as people have them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.map_files import HEIGHT, MASK, METRES, MILLIMETRES, WIDTH, photo, save
from support.tiny import tiny_engine

from cooper_ros.config import CooperConfig
from cooper_ros.engine.events import SegmentationMap
from cooper_ros.errors import BadData, BadImage
from cooper_ros.evaluation.map_pairs import (
    DEPTH,
    SEGMENTATION,
    check_shapes,
    find_pairs,
    read_depth,
    read_ids,
    read_rgb,
    without_truth,
)
from cooper_ros.evaluation.map_suites import (
    Skipped,
    class_counts,
    measure_depth,
    measure_segmentation,
)
from cooper_ros.evaluation.suites import SuiteOptions, run_file_suite
from cooper_ros.imaging.resize import to_rgb
from cooper_ros.imaging.segmentation import Label

# ---- pictures of all kinds


@pytest.mark.parametrize('kind', ['<u2', '>u2', '<i4'])
def test_16_bit_grey_is_scaled_not_cut_off(kind: str) -> None:
    deep = Image.fromarray(np.array([[0, 257, 30000, 65535]]).astype(kind))
    assert deep.mode.startswith('I')
    assert np.asarray(to_rgb(deep)).tolist() == [[[grey] * 3 for grey in (0, 1, 117, 255)]]


def test_a_transparent_16_bit_grey_is_white(tmp_path: Path) -> None:
    path = save(tmp_path / 'g.png', np.array([[0, 257, 30000]], np.uint16), transparency=257)
    assert read_rgb(path)[0, :, 0].tolist() == [0, 255, 117]


@pytest.mark.parametrize('values', [np.array([[0.0, 0.5]], np.float32),
                                    np.array([[-1, 5]], np.int32),
                                    np.array([[0, 65536]], np.int32)])
def test_grey_without_a_known_range_is_refused(values: np.ndarray) -> None:
    with pytest.raises(BadImage, match='no known value is white.*0 .. 65535.*8 or 16 bits'):
        to_rgb(Image.fromarray(values))


def test_photos_are_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = photo(tmp_path / 'a.png', exif=exif)
    stored = np.asarray(Image.open(path))
    assert np.array_equal(read_rgb(path), np.rot90(stored, -1))


def test_a_truth_is_never_stretched() -> None:
    rgb = np.zeros((375, 1242, 3), np.uint8)
    for height, width in ((375, 1242), (47, 155), (750, 2484)):
        check_shapes(rgb, np.zeros((height, width)))
    with pytest.raises(BadData, match='1242x375 and 1216x352; .* within 2%.*crop or turn'):
        check_shapes(rgb, np.zeros((352, 1216)))
    with pytest.raises(BadData, match='differ in shape'):
        check_shapes(rgb, np.zeros((1242, 375)))


# ---- units


@pytest.mark.parametrize('name', ['d.npy', 'd.NPY', 'd.tif', 'd.TIFF'])
def test_floating_point_truth_is_metres_unless_told_otherwise(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / 'tum' / name, METRES)
    metres, known = read_depth(path)
    assert np.array_equal(metres, METRES) and known == (1.0, 'floating point')
    metres, known = read_depth(path, 10.0)
    np.testing.assert_allclose(metres, METRES / 10, rtol=1e-6)
    assert known == (10.0, 'given')


def test_integers_in_an_array_are_no_metres(tmp_path: Path) -> None:
    path = save(tmp_path / 'd.npy', MILLIMETRES)
    metres, known = read_depth(path)
    np.testing.assert_allclose(metres, METRES, atol=1e-3)
    assert known == (1000.0, 'assumed millimetres')


def test_unknown_depth_is_0(tmp_path: Path) -> None:
    path = save(tmp_path / 'd.npy', np.array([[np.nan, np.inf, 2.0]]))
    assert read_depth(path)[0].tolist() == [[0.0, 0.0, 2.0]]


@pytest.mark.parametrize('values', [np.zeros((2, 2), np.uint8), np.zeros((2, 2), bool),
                                    np.zeros((2, 2, 2), np.float32), np.zeros((0, 2))])
def test_what_is_no_depth_is_refused(tmp_path: Path, values: np.ndarray) -> None:
    with pytest.raises(BadData, match='not a depth map.*16-bit or float'):
        read_depth(save(tmp_path / 'd.npy', values))


@pytest.mark.parametrize('shape', [(HEIGHT, WIDTH, 1), (1, HEIGHT, WIDTH), (1, HEIGHT, WIDTH, 1)])
def test_axes_of_length_1_are_left_out(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = save(tmp_path / 'd.npy', METRES.reshape(shape))
    assert np.array_equal(read_depth(path)[0], METRES)


@pytest.mark.parametrize('shape', [(1, WIDTH), (HEIGHT, 1), (1, WIDTH, 1)])
def test_a_truth_of_one_row_or_column_is_one(tmp_path: Path, shape: tuple[int, ...]) -> None:
    assert read_depth(save(tmp_path / 'd.npy', np.ones(shape)))[0].shape == shape[:2]


# ---- masks


def masked(folder: Path, *masks: np.ndarray) -> Path:
    for number, mask in enumerate(masks):
        photo(folder / 'images' / f'{number}.png')
        save(folder / 'masks' / f'{number}.npy', mask)
    return folder


def segments(folder: Path, **options: Any) -> list[int]:
    rows, _ = measure_segmentation(tiny_engine(), folder, **options)
    return [row.segments for row in rows]


FIVE = np.array([[-1, 0, 3, 7, 255]] * HEIGHT).repeat((12, 12, 12, 12, 16), axis=1)


def test_void_ids_are_no_segments_unless_told_otherwise(tmp_path: Path) -> None:
    folder = masked(tmp_path, FIVE, np.where(FIVE == 7, 256, FIVE))
    assert segments(folder) == [2, 3]  # beside larger ids, 255 is a segment like others
    assert segments(folder, ignore=(3, 255)) == [3, 3]
    assert segments(folder, ignore=()) == [5, 5]
    found, text = run_file_suite(tiny_engine(), 'segmentation', folder)
    assert found['ignored'] == [0, 255, -1] and found['rows'][0]['segments'] == 2
    assert text[0] == 'segmentation: 2 pictures, not counted: ids 0, 255, -1 of the masks'
    found, text = run_file_suite(tiny_engine(), 'segmentation', folder, SuiteOptions(ignore=()))
    assert found['ignored'] == [] and found['rows'][0]['segments'] == 5
    assert text[0] == 'segmentation: 2 pictures, all ids of the masks count'


def test_class_0_of_a_palette_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = np.repeat(np.array([[0, 1, 2, 1]] * HEIGHT, np.uint8), WIDTH // 4, axis=1)
    truth = np.where(drawn == 2, 0, drawn)
    folder, engine = masked(tmp_path, truth), tiny_engine()
    engine.parts = dataclasses.replace(engine.parts, card=dataclasses.replace(
        engine.parts.card, palette=tuple(Label(number, str(number), (number, 0, 0))
                                         for number in range(3))))
    monkeypatch.setattr(engine, 'segment', lambda rgb, seed: SegmentationMap(rgb, drawn, (), True))
    found, text = run_file_suite(engine, 'segmentation', folder, SuiteOptions(palette=True))
    assert found['class_miou'] == pytest.approx((0.5 + 1 + 0) / 3) and found['ignored'] == []
    assert text[-1] == '  classes of the palette: mIoU 0.5000'
    told = SuiteOptions(palette=True, ignore=(0,))
    assert run_file_suite(engine, 'segmentation', folder, told)[0]['class_miou'] == 1.0


def test_masks_of_all_modes(tmp_path: Path) -> None:
    with_alpha = np.stack([MASK, np.full_like(MASK, 255)], axis=-1)
    colours = np.stack([MASK, MASK * 0, MASK * 0, MASK + 9], axis=-1)
    for name, values in (('l', MASK), ('la', with_alpha), ('rgba', colours),
                         ('deep', MASK.astype(np.uint16)), ('p', MASK)):
        path = save(tmp_path / f'{name}.png', values)
        if name == 'p':
            Image.open(path).convert('P').save(path)
        assert np.array_equal(read_ids(path), MASK), name
    for values in (np.zeros((2, 2, 5)), np.zeros(4), np.zeros((0, 2))):
        with pytest.raises(BadData, match='not a mask'):
            read_ids(save(tmp_path / 'm.npy', values))


def test_classes_are_counted_as_union_and_intersection() -> None:
    inside, union = class_counts(np.array([1, 1, 2, 255], np.uint8), np.array([1, 2, 2, 300]))
    assert inside[:4].tolist() == [0, 1, 1, 0] and union[:4].tolist() == [0, 2, 2, 0]
    assert len(union) == 255 and union.sum() == 4


# ---- layouts


@pytest.mark.parametrize('rgb, target', [
    ('RGB/1.PNG', 'Depth/1.PNG'), ('Images/1.JPG', 'DEPTH/1.png'),
    ('rgb/a/1.png', 'depth/a/1.png'), ('rgb/a/B/1.png', 'Depth/A/b/1.TIF'),
    ('1_rgb.png', '1_depth.png'), ('1_RGB.jpg', '1_Depth.Png'), ('RGB_1.jpeg', 'sync_depth_1.png'),
    ('rgb/rgb_1.jpg', 'depth/sync_depth_1.png'), ('color/1_color.jpg', 'depth/1_depth.png'),
    ('1_rgb.png', '1_rgb_depth.png')])
def test_depth_layouts(tmp_path: Path, rgb: str, target: str) -> None:
    photo(tmp_path / rgb)
    save(tmp_path / target, MILLIMETRES)
    assert [(pair.rgb, pair.target) for pair in find_pairs(tmp_path, DEPTH)] == [
        (tmp_path / rgb, tmp_path / target)]
    below = (tmp_path / rgb).parent
    if below != tmp_path:  # the truth lies beside what was named
        assert find_pairs(below, DEPTH)[0].target == tmp_path / target


def test_the_layout_of_ade_challenge(tmp_path: Path) -> None:
    for part in ('training', 'validation'):
        photo(tmp_path / 'images' / part / 'ADE_1.jpg')
        save(tmp_path / 'annotations' / part / 'ADE_1.png', MASK)
    pairs = find_pairs(tmp_path, SEGMENTATION)
    assert [pair.name for pair in pairs] == ['images/training/ADE_1', 'images/validation/ADE_1']
    assert [pair.target.parent.name for pair in pairs] == ['training', 'validation']
    assert without_truth(tmp_path, pairs) == 0


def test_the_same_case_wins(tmp_path: Path) -> None:
    for name in ('a', 'A'):
        photo(tmp_path / f'{name}.png')
        save(tmp_path / f'{name}_depth.png', MILLIMETRES)
    assert [pair.target.stem for pair in find_pairs(tmp_path, DEPTH)] == ['A_depth', 'a_depth']


def test_pictures_without_truth_are_counted_and_truths_are_not(tmp_path: Path) -> None:
    for name in ('rgb/1.png', 'rgb/2.png', 'seg/rgb/3.png', 'other/4.jpg', 'depth/a/9_preview.png',
                 'semantic/1.png', '5_mask.png'):
        photo(tmp_path / name)
    save(tmp_path / 'depth/1.png', MILLIMETRES)
    assert without_truth(tmp_path, find_pairs(tmp_path, DEPTH)) == 3  # 2, 3 and 4
    listing = tmp_path / 'list.jsonl'
    listing.write_text('{"rgb_image": "rgb/1.png", "depth_image": "depth/1.png"}\n')
    assert without_truth(listing, find_pairs(listing, DEPTH)) == 0
    with pytest.raises(BadData, match='list cannot be read'):
        find_pairs(tmp_path / 'rgb' / '1.png', DEPTH)


@pytest.mark.parametrize('suffix', ['webp', 'bmp', 'tif', 'TIFF', 'ppm', 'gif'])
def test_pictures_of_all_formats_are_paired(tmp_path: Path, suffix: str) -> None:
    path = photo(tmp_path / 'rgb' / f'1.{suffix}')
    save(tmp_path / 'depth' / '1.png', MILLIMETRES)
    save(tmp_path / 'masks' / '1.png', MASK)
    photo(tmp_path / 'rgb' / f'2.{suffix}')
    for kind in (DEPTH, SEGMENTATION):
        pairs = find_pairs(tmp_path, kind)
        assert [pair.rgb for pair in pairs] == [path] and without_truth(tmp_path, pairs) == 1
    assert read_rgb(path).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize('suffix', ['tif', 'bmp', 'pgm'])
def test_masks_of_more_formats(tmp_path: Path, suffix: str) -> None:
    photo(tmp_path / '1.jpg')
    path = save(tmp_path / f'1_mask.{suffix}', MASK)
    assert [pair.target for pair in find_pairs(tmp_path, SEGMENTATION)] == [path]
    assert np.array_equal(read_ids(path), MASK)


def test_links_to_nowhere_are_counted(tmp_path: Path) -> None:
    for name in ('good', 'gone'):
        save(tmp_path / 'depth' / f'{name}.png', MILLIMETRES)
    photo(tmp_path / 'rgb' / 'good.png')
    for name in ('gone', 'lonely'):
        (tmp_path / 'rgb' / f'{name}.png').symlink_to(tmp_path / 'nowhere')
    found = run_file_suite(tiny_engine(), 'depth', tmp_path)[0]
    assert found['pictures'] == found['without_truth'] == 1
    assert [entry['name'] for entry in found['skipped']] == ['rgb/gone']
    assert 'the picture cannot be read' in found['skipped'][0]['reason']


def test_pictures_and_truth_may_lie_behind_links(tmp_path: Path) -> None:
    far, place = tmp_path / 'disk', tmp_path / 'set'
    for name in ('1', '2'):
        photo(far / 'rgb' / f'{name}.png')
    save(far / 'depth' / '1.png', MILLIMETRES)
    place.mkdir()
    for name in ('rgb', 'depth'):
        (place / name).symlink_to(far / name)
    (place / 'depth' / 'again').symlink_to(place)
    pairs = find_pairs(place, DEPTH)
    assert [(pair.rgb, pair.target) for pair in pairs] == [
        (place / 'rgb' / '1.png', place / 'depth' / '1.png')]
    assert without_truth(place, pairs) == 1


# ---- bad files


def bad_files(folder: Path) -> None:
    """One good pair and every kind of bad one."""
    for name in ('good', 'byte', 'shape', 'broken', 'lost', 'empty', 'float', 'unread'):
        photo(folder / 'rgb' / f'{name}.png')
        save(folder / 'depth' / f'{name}.png', MILLIMETRES)
    save(folder / 'depth' / 'byte.png', (METRES * 10).astype(np.uint8))
    save(folder / 'depth' / 'shape.png', MILLIMETRES[:, :40])
    (folder / 'depth' / 'broken.png').write_bytes(b'no picture')
    whole = (folder / 'rgb' / 'lost.png').read_bytes()
    (folder / 'rgb' / 'lost.png').write_bytes(whole[:len(whole) // 2])
    save(folder / 'depth' / 'empty.png', MILLIMETRES * 0)
    for name in ('float', 'unread'):
        (folder / 'depth' / f'{name}.png').unlink()
    save(folder / 'depth' / 'float.tif', METRES)
    (folder / 'depth' / 'unread.npy').write_bytes(b'')


def test_bad_files_are_passed_over_and_named(tmp_path: Path) -> None:
    bad_files(tmp_path)
    photo(tmp_path / 'rgb' / 'lonely.png')
    found, text = run_file_suite(tiny_engine(), 'depth', tmp_path,
                                 SuiteOptions(sheet=tmp_path / 'sheet.png'))
    found = json.loads(json.dumps(found))
    assert [row['name'] for row in found['rows']] == ['rgb/float', 'rgb/good']
    assert found['pictures'] == 2 and found['without_truth'] == 1
    reasons = {entry['name']: entry['reason'] for entry in found['skipped']}
    assert {name: words for name, words in (
        ('rgb/broken', 'cannot be read'), ('rgb/byte', 'not a depth map'),
        ('rgb/empty', 'no valid depth'), ('rgb/lost', 'cannot be read'),
        ('rgb/shape', 'differ in shape'), ('rgb/unread', 'array cannot be read'))
        if words not in reasons.pop(name)} == reasons == {}
    said = '\n'.join(text)
    assert 'pictures without a truth: 1' in said and 'skipped, not counted above: 6' in said
    assert '    rgb/byte: BAD_DATA: not a depth map' in said and 'and 1 more' in said
    assert 'rgb/unread' not in said


def test_pictures_that_are_too_large_are_passed_over(tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    for name, scale in (('a', 1), ('b', 2), ('c', 4)):
        photo(tmp_path / f'{name}.png', HEIGHT * scale, WIDTH * scale)
        save(tmp_path / f'{name}_depth.png', MILLIMETRES)
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', HEIGHT * WIDTH * 5)  # refused beyond twice that
    skipped = Skipped()
    engine = tiny_engine(0, CooperConfig(max_image_pixels=HEIGHT * WIDTH * 2))
    assert [row.name for row in measure_depth(engine, tmp_path, skipped=skipped)] == ['a']
    large, bomb = (reason for _, reason in skipped.files)
    assert 'too large' in large and '128x96' in large and '6144 pixels' in large
    assert 'decompression bomb' in bomb


@pytest.mark.parametrize('shape', [(1_000_000, 1_000_000), (-1, 10**30), (600, 600)])
def test_arrays_whose_header_promises_too_much_are_passed_over(tmp_path: Path, shape: tuple
                                                               ) -> None:
    for name in ('good', 'vast'):
        photo(tmp_path / f'{name}.png', HEIGHT, WIDTH)
        save(tmp_path / f'{name}_depth.png', MILLIMETRES)
    (tmp_path / 'vast_depth.png').unlink()
    header = {'descr': '<f4', 'fortran_order': False, 'shape': shape}
    with open(tmp_path / 'vast_depth.npy', 'wb') as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(600 * 600 * 4 + 128)
    skipped = Skipped()
    engine = tiny_engine(0, CooperConfig(max_image_pixels=HEIGHT * WIDTH * 2))
    rows = measure_depth(engine, tmp_path, skipped=skipped)
    assert [row.name for row in rows] == ['good'] and 'the array' in skipped.files[0][1]


def test_bad_masks_are_passed_over(tmp_path: Path) -> None:
    for name in ('good', 'black', 'shape', 'broken'):
        photo(tmp_path / 'images' / f'{name}.png')
        save(tmp_path / 'masks' / f'{name}.png', MASK)
    save(tmp_path / 'masks' / 'black.png', MASK * 0)
    save(tmp_path / 'masks' / 'shape.png', MASK[:, :20])
    (tmp_path / 'masks' / 'broken.png').write_bytes(b'')
    found, text = run_file_suite(tiny_engine(), 'segmentation', tmp_path)
    assert [row['name'] for row in found['rows']] == ['images/good']
    assert len(found['skipped']) == 3 and 'skipped, not counted above: 3' in '\n'.join(text)


def test_nothing_is_said_where_all_is_well(tmp_path: Path) -> None:
    photo(tmp_path / '1.png')
    save(tmp_path / '1_depth.png', MILLIMETRES)
    found, text = run_file_suite(tiny_engine(), 'depth', tmp_path)
    assert found['skipped'] == [] and found['without_truth'] == 0 and len(text) == 4


@pytest.mark.parametrize('measure', [measure_depth, measure_segmentation])
def test_nothing_measured_is_an_error(tmp_path: Path, measure: Any) -> None:
    for name in ('1', '2'):
        photo(tmp_path / f'{name}.png')
        for kind in ('depth', 'mask'):
            (tmp_path / f'{name}_{kind}.png').write_bytes(b'')
    with pytest.raises(BadData, match='nothing could be measured; got 2 bad files, the first is '
                                      '1: BAD_DATA: the picture cannot be read'):
        measure(tiny_engine(), tmp_path)
