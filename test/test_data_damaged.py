"""Damaged data are named with their place: never a traceback, never the end of a check."""

from __future__ import annotations

import base64
import io
import json
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_data_readers import (
    HEAD,
    PARTS,
    cooper_tree,
    hypersim_tree,
    open_tiny,
    png,
    ramp,
    rgb,
    save,
    talk_row,
)

from cooper_ros.errors import BadData
from cooper_ros.training.datasets import cooper_set, find, layouts
from cooper_ros.training.datasets.catalogue import draw_kind
from cooper_ros.training.datasets.check import check
from cooper_ros.training.datasets.cooper_set import RlSet, TalkSet, decode_image
from cooper_ros.training.datasets.json_lines import JsonLines

BOM = b'\xef\xbb\xbf'
DEEP = '[' * 100_000
LONG = 'x' * 300 + '.png'  # longer than any file system takes


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))


def bomb() -> bytes:
    """A PNG that claims 900 million pixels."""
    head = struct.pack('>IIBBBBB', 30_000, 30_000, 8, 2, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', head) + chunk(b'IDAT', zlib.compress(b'\0'))


def floating() -> bytes:
    """A TIFF of floating point numbers, of which nobody knows which one is white."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(buffer, 'TIFF')
    return buffer.getvalue()


@pytest.mark.parametrize('data, words', [(bomb(), 'exceeds limit'), (floating(), 'mode F'),
                                         (bomb()[:20], 'Truncated'),
                                         (b'', 'cannot identify')])
def test_a_damaged_base64_picture_is_named(data: bytes, words: str) -> None:
    with pytest.raises(BadData, match=f'not a base64 picture; got line 7: .*({words})'):
        decode_image(base64.b64encode(data).decode(), 'line 7')


def test_the_check_of_the_cooper_set_goes_on_past_everything(tmp_path: Path) -> None:
    good = {'question': 'q', 'answer': 'a', 'image': 'p.png'}
    pictures = {'bomb.png': bomb(), 'float.tif': floating(), 'p.png': base64.b64decode(png(rgb()))}
    rows = [dict(good, image=LONG), dict(good, image='nul\0.png'), dict(good, image='bomb.png'),
            dict(good, image='float.tif'), good]
    huge = talk_row(rgb())
    huge['interleaved_reason'][0]['value'] = base64.b64encode(bomb()).decode()
    folder = cooper_tree(tmp_path, [huge, talk_row(rgb())], rows)
    for name, data in pictures.items():
        (folder / name).write_bytes(data)
    for name in ('Interleaved_SFT.jsonl', 'RL_data.jsonl'):
        with open(folder / name, 'a') as file:
            file.write(DEEP + '\n')
    report = check('cooper', tmp_path, workers=1)
    assert {what: [place.split()[0].rstrip(':') for place in places]
            for what, places in report.problems.items()} == {
        'not a base64 picture': ['Interleaved_SFT.jsonl:1'],
        'not a JSON line': ['Interleaved_SFT.jsonl:3', 'RL_data.jsonl:6'],
        'the picture of a question is missing': ['RL_data.jsonl:1', 'RL_data.jsonl:2'],
        'the picture cannot be read': ['RL_data.jsonl:3', 'RL_data.jsonl:4']}
    assert f'RL_data.jsonl:3: {folder / "bomb.png"}: ' in '\n'.join(report.lines())
    assert report.counts['readable of RL_data.jsonl'] == 1
    assert report.counts['readable of Interleaved_SFT.jsonl'] == 1
    assert max(map(len, report.lines())) < 500


def test_half_a_character_is_named(tmp_path: Path) -> None:
    """JSON can write it, no tokenizer can read it."""
    half = {'question': 'where \ud800?', 'answer': 'a', 'image': 'p.png'}
    talk = talk_row(rgb())
    for item in talk['interleaved_reason']:
        if item['type'] == 'text':
            item['value'] += '\udc00'
    cooper_tree(tmp_path, [talk], [half])
    with pytest.raises(BadData, match='half a character in a text; got .*SFT.jsonl:1'):
        TalkSet(tmp_path).sample(0)
    with pytest.raises(BadData, match='question of a row has the wrong form; got .*jsonl:1'):
        RlSet(tmp_path).sample(0)


def test_base64_may_be_broken_into_lines() -> None:
    assert decode_image(base64.encodebytes(base64.b64decode(png(rgb()))).decode(), 'x').any()


def test_a_link_to_a_folder_above_brings_no_picture_twice(tmp_path: Path) -> None:
    tree = hypersim_tree(tmp_path / 'set')
    before = list(find.files(tree))
    (tree / 'again').symlink_to(tree)
    next(path for path in tree.iterdir() if path.is_dir()).joinpath('up').symlink_to(tree.parent)
    assert list(find.files(tree)) == before
    (tmp_path / 'elsewhere').mkdir()
    (tmp_path / 'elsewhere' / 'x.png').touch()
    (tree / 'more').symlink_to(tmp_path / 'elsewhere')  # large sets lie so
    assert tree / 'more' / 'x.png' in list(find.files(tree))


def test_links_in_a_circle_bring_no_picture_twice(tmp_path: Path) -> None:
    """None of the two lies in a folder that it leads to, but both do by way of the other."""
    for here, there in (('a', 'b'), ('b', 'a')):
        (tmp_path / here).mkdir()
        (tmp_path / here / f'{here}.png').touch()
        (tmp_path / here / f'to_{there}').symlink_to(tmp_path / there)
    found = [path.relative_to(tmp_path).as_posix() for path in find.files(tmp_path / 'a')]
    assert found == ['a/a.png', 'a/to_b/b.png']


def test_files_of_a_set_may_lie_behind_links(tmp_path: Path,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    for number, name in enumerate((cooper_set.RL_FILE, cooper_set.SFT_FILE, layouts.NYU_MAT)):
        far, place = tmp_path / f'disk{number}', tmp_path / f'set{number}'
        far.mkdir()
        place.mkdir()
        (far / name).touch()
        (place / 'link').symlink_to(far)
        assert cooper_set.find_file(place, name) == place / 'link' / name
    monkeypatch.setattr(layouts.hdf5, 'nyu_count', lambda path: 2)
    assert len(layouts.nyu(tmp_path / 'set2').pairs) == 2
    (tmp_path / 'disk0' / cooper_set.RL_FILE).rename(
        tmp_path / 'disk0' / cooper_set.PARTS.replace('*', 'aa'))
    with pytest.raises(BadData, match='RL_data.jsonl is missing.*tar xz'):
        cooper_set.find_file(tmp_path / 'set0', cooper_set.RL_FILE)


def test_what_a_set_lacks_is_said_when_it_is_opened(tmp_path: Path,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    tree = hypersim_tree(tmp_path)
    assert len(open_tiny('hypersim', tree)) == 1 and capsys.readouterr().err == ''
    for name in ('rgb_cam_00_fr0001', 'rgb_cam_00_fr0002', 'depth_plane_cam_00_fr0003'):
        (tree / 'ai_001_001' / f'{name}.png').touch()
    assert len(open_tiny('hypersim', tree)) == 1
    assert capsys.readouterr().err == (
        f'hypersim: 1 pairs of {tree} are used; left out: picture without target (2), target '
        f'without picture (1); to see which: cooper data check hypersim {tree}\n')


def test_a_list_that_names_what_is_not_there_is_refused(tmp_path: Path) -> None:
    tree = hypersim_tree(tmp_path)
    rows = [json.dumps({'rgb_image': f'ai_001_001/rgb_cam_00_fr{number:04d}.png',
                        'depth_image': f'ai_001_001/depth_plane_cam_00_fr{number:04d}.png'})
            for number in range(100)]
    (tree / 'list.jsonl').write_text('\n'.join(rows))
    with pytest.raises(BadData, match='listed file missing; got list.jsonl:2: .*fr0001.png, and '
                                      '197 more; remedy: .*cooper data check hypersim .*list'):
        open_tiny('hypersim', tree / 'list.jsonl')
    (tree / 'list.jsonl').write_text(f'{rows[0]}\n{{}}\n')
    with pytest.raises(BadData, match='row without rgb_image and depth_image; got list.jsonl:2'):
        open_tiny('hypersim', tree / 'list.jsonl')
    (tree / 'list.jsonl').write_text(rows[0])
    assert len(open_tiny('hypersim', tree / 'list.jsonl')) == 1


@pytest.mark.parametrize('data', [b'', b'404: Not Found', bomb(), bomb()[:20]])
def test_the_size_of_a_damaged_picture_is_an_error_with_its_name(data: bytes,
                                                                 tmp_path: Path) -> None:
    """`train amg` asks for sizes before it decodes anything."""
    damaged = next(hypersim_tree(tmp_path).rglob('rgb_*.png'))
    damaged.write_bytes(data)
    with pytest.raises(BadData, match=f'cannot be read; got .*{damaged.name}'):
        open_tiny('hypersim', tmp_path).size(0)


def test_files_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    row = {'question': 'q', 'answer': 'a', 'image': 'p.png'}
    folder = cooper_tree(tmp_path, [talk_row(rgb())], [row])
    (folder / 'p.png').write_bytes(base64.b64decode(png(rgb())))
    for name in ('Interleaved_SFT.jsonl', 'RL_data.jsonl'):
        (folder / name).write_bytes(BOM + (folder / name).read_bytes())
    assert RlSet(tmp_path).sample(0).question == 'q'
    assert len(TalkSet(tmp_path).sample(0).items) == 4
    tree = hypersim_tree(tmp_path / 'hypersim')
    listed = {'rgb_image': 'ai_001_001/rgb_cam_00_fr0000.png',
              'depth_image': 'ai_001_001/depth_plane_cam_00_fr0000.png'}
    (tree / 'train.jsonl').write_bytes(BOM + json.dumps(listed).encode())
    assert check('hypersim', tree).ok
    (tree / 'train.jsonl').unlink()
    (tree / 'metadata_images_split_scene_v1.csv').write_bytes(
        BOM + '\n'.join([HEAD, *PARTS]).encode())
    assert len(draw_kind('hypersim').search(tree).pairs) == 1


def test_a_published_list_with_damaged_rows_is_read_to_its_end(tmp_path: Path) -> None:
    tree = hypersim_tree(tmp_path)
    good = {'rgb_image': 'ai_001_001/rgb_cam_00_fr0000.png',
            'depth_image': 'ai_001_001/depth_plane_cam_00_fr0000.png'}
    (tree / 'train.jsonl').write_text('\n'.join(
        [DEEP, json.dumps(dict(good, rgb_image=LONG)), json.dumps(good)]))
    found = draw_kind('hypersim').search(tree / 'train.jsonl')
    assert len(found.pairs) == 1 and {what: len(places) for what, places in found.problems.items()
                                      } == {'row without rgb_image and depth_image': 1,
                                            'listed file missing': 1}


@pytest.mark.parametrize('changes, words', [
    ({'answer': None}, 'the answer of a row has the wrong form; got RL_data.jsonl:2: null; '
                       'allowed: text that is not empty, or a finite number'),
    ({'answer': ['a']}, r'the answer of a row .*got RL_data.jsonl:2: \["a"\]'),
    ({'answer': float('nan')}, 'the answer of a row .*: NaN'),
    ({'answer': True}, 'the answer of a row .*: true'), ({'answer': ' '}, 'the answer of a row'),
    ({'question': ''}, 'the question of a row has the wrong form; got RL_data.jsonl:2: ""; '
                       'allowed: text that is not empty'),
    ({'question': 7}, 'the question of a row .*: 7'),
    ({'image': 3}, 'the image of a row .*RL_data.jsonl:2: 3'),
    ({'data_id': None}, 'the data_id of a row .*: null; allowed: .*or a whole number'),
    ({'data_id': 1.5}, 'the data_id of a row'), ({'category': []}, 'the category of a row'),
    ({'data_id': 'g1'}, 'two rows have one data_id; got RL_data.jsonl:2: g1; allowed: one row; '
                        'the first is RL_data.jsonl:1; remedy: give the second another one'),
    ({'data_id': 2}, 'two rows have one data_id; .*RL_data.jsonl:3: 2; .*RL_data.jsonl:2')])
def test_a_question_that_breaks_the_schema_is_named(changes: dict, words: str,
                                                    tmp_path: Path) -> None:
    """By the reader and by the check; the third row has no id, so that its number is one."""
    good = {'question': 'q', 'answer': 'a', 'image': 'p.png'}
    rows = [dict(good, data_id='g1'), {**good, 'data_id': 'g2', **changes}, good,
            dict(good, answer=2, data_id=7), dict(good, answer=0.5, category='reach')]
    folder = cooper_tree(tmp_path, [talk_row(rgb())], rows)
    (folder / 'p.png').write_bytes(base64.b64decode(png(rgb())))
    data, found = RlSet(tmp_path), []
    for index in range(len(rows)):
        try:
            data.sample(index)
        except BadData as error:
            found.append(str(error))
    assert len(found) == 1 and re.search(words, found[0]), found
    report = check('cooper', tmp_path, workers=1)
    assert report.counts['readable of RL_data.jsonl'] == 4 and len(report.problems) == 1


def test_a_broken_line_takes_no_id(tmp_path: Path) -> None:
    good = {'question': 'q', 'answer': 'a', 'image': 'p.png'}
    folder = cooper_tree(tmp_path, [talk_row(rgb())], [])
    (folder / 'p.png').write_bytes(base64.b64decode(png(rgb())))
    (folder / 'RL_data.jsonl').write_text('{"question":\n' + json.dumps(dict(good, data_id='0')))
    assert RlSet(tmp_path).sample(1).data_id == '0'


def test_a_damaged_file_of_a_list_is_named_with_its_line(tmp_path: Path) -> None:
    tree = hypersim_tree(tmp_path)
    row = {'rgb_image': 'ai_001_001/rgb_cam_00_fr0000.png',
           'depth_image': 'ai_001_001/depth_plane_cam_00_fr0000.png'}
    (tree / 'train.jsonl').write_text('\n' + json.dumps(row))
    save(tree / row['depth_image'], rgb()[..., 0])
    data = open_tiny('hypersim', tree)
    with pytest.raises(BadData, match='not a 16-bit depth picture; got train.jsonl:2: '
                                      f'{row["depth_image"]}: L; allowed: 16-bit PNG'):
        data.sample(0)
    (tree / row['rgb_image']).write_bytes(b'404')
    for read in (data.sample, data.size):
        with pytest.raises(BadData, match='cannot be read; got train.jsonl:2: .*rgb_cam_00'):
            read(0)


@pytest.mark.parametrize('numbers', [[[-1, 5]], [[5, 70000]]])
def test_depth_beyond_16_bits_is_named_before_it_is_resized(numbers: list,
                                                            tmp_path: Path) -> None:
    for name in ('rgb_00001.png', 'depth_00001.png'):
        save(tmp_path / 'room' / name, rgb(1, 2))
    Image.fromarray(np.array(numbers, np.int32)).save(tmp_path / 'room' / 'depth_00001.png',
                                                      'TIFF')
    assert check('nyu', tmp_path).problems == {
        'not a 16-bit depth picture': ['room/depth_00001.png: I']}


def test_a_picture_below_the_window_of_kitti_is_named(tmp_path: Path) -> None:
    frames = tmp_path / 'Scene01' / 'clone' / 'frames'
    save(frames / 'rgb' / 'Camera_0' / 'rgb_00007.jpg', rgb())
    save(frames / 'depth' / 'Camera_0' / 'depth_00007.png', ramp(1, 9))
    data = open_tiny('vkitti', tmp_path)
    for read in (data.sample, data.size):
        with pytest.raises(BadData, match='too small for the KITTI window; got Scene01/clone/'
                                          'frames/rgb/Camera_0/rgb_00007.jpg: 64x48; allowed'):
            read(0)


def test_a_line_of_brackets_is_no_row(tmp_path: Path) -> None:
    (tmp_path / 'a.jsonl').write_text(DEEP)
    with pytest.raises(BadData, match='not a JSON line; got a.jsonl:1'):
        JsonLines(tmp_path / 'a.jsonl').row(0)
