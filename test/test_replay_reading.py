"""Pictures come out of every kind of recording, whole, old, split, compressed or damaged."""

from __future__ import annotations

import errno
import shutil
import sqlite3
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
from bag_maker import (
    COMPRESSED,
    IMAGE,
    INFO,
    PERIOD_NS,
    ROS1,
    START_NS,
    STRING,
    camera,
    camera_info,
    compressed,
    image,
    picture,
    text,
    write_dashing,
    write_ros1,
    write_ros2,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from rosbags.rosbag1 import Writer as Ros1Writer

from cooper_ros.errors import BadBag, OutOfDisk
from cooper_ros.replay import bag as bag_module
from cooper_ros.replay import interfaces, mend, storage
from cooper_ros.replay.bag import Bag, Frame, Picture, Skipped, Text
from cooper_ros.replay.storage import Recording

DATA = Path(__file__).parent / 'data' / 'bags'


def pictures_of(path: Path, topic: str | None = None) -> list[Frame]:
    with Bag(path) as bag:
        items = list(bag.frames(bag.choose_topic(topic)))
    assert all(isinstance(item, Frame) for item in items), items
    return items  # type: ignore[return-value]


def split_bag(folder: Path) -> Path:
    """Three splits in one folder, as rosbag2 leaves them."""
    folder.mkdir()
    messages = camera(6)
    for number in range(3):
        part = write_ros2(folder.parent / f'p{number}', messages[2 * number:2 * number + 2])
        shutil.move(part / f'p{number}.mcap', folder / f'drive_{number + 9}.mcap')
    (folder / 'metadata.yaml').write_text(
        'rosbag2_bagfile_information:\n  relative_file_paths:\n'
        + ''.join(f'  - drive_{number}.mcap\n' for number in range(9, 12)))
    return folder


@pytest.mark.parametrize('make', [
    lambda path: write_ros2(path / 'bag', camera(), 'mcap'),
    lambda path: write_ros2(path / 'bag', camera(), 'sqlite3'),
    lambda path: write_ros2(path / 'bag', camera(), 'mcap') / 'bag.mcap',
    lambda path: write_ros2(path / 'bag', camera(), 'sqlite3') / 'bag.db3',
    lambda path: write_ros2(path / 'bag', camera(), 'mcap') / 'metadata.yaml',
    lambda path: write_ros2(path / 'bag', camera(), 'mcap', 'message') / 'bag.mcap',
    lambda path: write_ros2(path / 'bag', camera(), 'sqlite3', 'message'),
    lambda path: write_ros2(path / 'bag', camera(), 'sqlite3', 'file'),
    lambda path: write_ros2(path / 'bag', camera(), 'mcap', 'file') / 'bag.mcap.zstd',
    lambda path: write_ros2(path / 'bag', camera(), 'mcap', 'storage'),
    lambda path: write_ros1(path / 'one.bag'),
    lambda path: write_dashing(path / 'old.db3', 4),
    lambda path: write_dashing(path / 'what?#%20.db3', 4),
    lambda path: write_dashing(path / 'cut.db3', 4, leave_log=True),
], ids=['mcap', 'sqlite3', 'bare mcap', 'bare db3', 'metadata.yaml', 'messages zstd',
        'messages zstd in sqlite3', 'file zstd', 'bare file zstd', 'chunks zstd', 'ros1',
        'dashing', 'odd name', 'unmerged log'])
def test_every_container_gives_the_same_pictures(tmp_path: Path,
                                                 make: Callable[[Path], Path]) -> None:
    frames = pictures_of(make(tmp_path))
    assert [frame.index for frame in frames] == [0, 1, 2, 3]
    assert [frame.bag_ns for frame in frames] == [START_NS + n * PERIOD_NS for n in range(4)]
    assert {frame.frame_id for frame in frames} == {'camera_optical'}
    for number, frame in enumerate(frames):
        np.testing.assert_array_equal(frame.rgb, picture(number))


def test_the_folder_of_a_recording_is_not_written_to(tmp_path: Path) -> None:
    write_dashing(tmp_path / 'old.db3', leave_log=True)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    pictures_of(tmp_path / 'old.db3')
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_stamps_are_those_of_the_camera_and_fall_back_to_the_bag(tmp_path: Path) -> None:
    stamped = camera(1)
    unstamped = ('/camera/image_raw', IMAGE, START_NS + 5, image(0, picture(1)))
    frames = pictures_of(write_ros2(tmp_path / 'bag', [*stamped, unstamped]))
    assert [frame.stamp_ns for frame in frames] == [START_NS - 1_000_000, START_NS + 5]


@pytest.mark.parametrize('seconds', [3_000_000_000, 2**32 - 1])
def test_a_stamp_that_ros2_cannot_say_is_that_of_the_bag(tmp_path: Path, seconds: int) -> None:
    with Ros1Writer(tmp_path / 'in.bag') as writer:
        connection = writer.add_connection('/camera/image_raw', IMAGE, typestore=ROS1)
        message = bytearray(ROS1.serialize_ros1(image(0, picture(0), store=ROS1), IMAGE))
        message[4:8] = seconds.to_bytes(4, 'little')  # after the number of the message
        writer.write(connection, START_NS, message)
    frame, = pictures_of(tmp_path / 'in.bag')
    assert frame.stamp_ns == START_NS
    assert interfaces.header(frame.stamp_ns, '').stamp.sec == START_NS // 10**9


def test_missing_splits_are_named_and_the_others_read_in_order(tmp_path: Path) -> None:
    folder = split_bag(tmp_path / 'drive')
    assert len(pictures_of(folder)) == 6
    (folder / 'drive_10.mcap').unlink()
    with Bag(folder) as bag:
        stamps = [frame.bag_ns for frame in bag.frames(bag.choose_topic())]
        assert stamps == [START_NS + n * PERIOD_NS for n in (0, 1, 4, 5)]
        assert bag.warnings == ['1 of 3 splits are missing: drive_10.mcap']


def test_one_broken_split_does_not_take_the_others_along(tmp_path: Path) -> None:
    folder = split_bag(tmp_path / 'drive')
    (folder / 'drive_9.mcap').write_bytes(b'')
    with Bag(folder) as bag:
        assert len(list(bag.frames(bag.choose_topic()))) == 4
        assert 'drive_9.mcap' in bag.warnings[0] and 'the file is empty' in bag.warnings[0]


def test_a_split_that_lies_there_packed_too_is_read_once(tmp_path: Path) -> None:
    folder = split_bag(tmp_path / 'drive')
    packed = write_ros2(tmp_path / 'drive_9', camera(2), 'mcap', 'file') / 'drive_9.mcap.zstd'
    shutil.copy(packed, folder)
    (folder / 'tuesday.bag').mkdir()  # only a name, and no recording
    with Bag(folder) as bag:
        assert len(list(bag.frames(bag.choose_topic()))) == 6
        assert bag.warnings == ['left out: drive_9.mcap.zstd, which lies there unpacked too']


def test_broken_metadata_does_not_matter(tmp_path: Path) -> None:
    folder = write_ros2(tmp_path / 'bag', camera())
    (folder / 'metadata.yaml').write_text('rosbag2_bagfile_information: [')
    with Bag(folder) as bag:
        assert len(list(bag.frames(bag.choose_topic()))) == 4
        assert 'metadata.yaml cannot be used' in bag.warnings[0]


def test_the_raw_name_stands_for_its_jpegs_where_only_these_were_recorded(tmp_path: Path) -> None:
    jpeg = ('/front/image/compressed', COMPRESSED, START_NS, compressed(START_NS, picture(0)))
    only = write_ros2(tmp_path / 'only', [*camera(1), jpeg])
    assert len(pictures_of(only, '/front/image')) == 1
    raw = ('/front/image', IMAGE, START_NS, image(START_NS, picture(1)))
    both = write_ros2(tmp_path / 'both', [jpeg, raw])
    with Bag(both) as bag:
        assert bag.choose_topic('front/image').name == '/front/image'
        with pytest.raises(BadBag, match='no pictures on /rear/image'):
            bag.choose_topic('/rear/image')


def test_raw_is_preferred_and_depth_left_out(tmp_path: Path) -> None:
    depth = np.full((24, 32), 1.5, np.float32)
    messages = camera(1) + [
        ('/camera/image_raw/compressed', COMPRESSED, START_NS, compressed(START_NS, picture(0))),
        ('/camera/depth', IMAGE, START_NS, image(START_NS, depth, '32FC1')),
        ('/camera/depth/compressedDepth', COMPRESSED, START_NS, compressed(START_NS, picture(0))),
        ('/camera/camera_info', 'sensor_msgs/msg/CameraInfo', START_NS, camera_info(START_NS))]
    with Bag(write_ros2(tmp_path / 'bag', messages)) as bag:
        topic = bag.choose_topic()
        assert topic.name == '/camera/image_raw'
        assert bag.choose_topic('camera/image_raw/compressed').type == COMPRESSED
        assert [one.name for one in bag.depth_topics()] == ['/camera/depth',
                                                            '/camera/depth/compressedDepth']
        assert bag.camera_info(topic).k[0] == 40.0


def test_views_of_our_own_are_not_asked_about(tmp_path: Path) -> None:
    folder = write_ros2(tmp_path / 'bag', camera(1, '/left/image') + camera(
        2, '/robot1/cooper/overlay'))
    with Bag(folder) as bag:
        assert bag.choose_topic().name == '/left/image'
        assert bag.choose_topic('/robot1/cooper/overlay').count == 2
    only = write_ros2(tmp_path / 'only', camera(2, '/cooper/overlay'))
    with Bag(only) as bag:
        assert bag.choose_topic().name == '/cooper/overlay'


def test_several_cameras_are_listed(tmp_path: Path) -> None:
    folder = write_ros2(tmp_path / 'bag', camera(1, '/left/image') + camera(2, '/right/image'))
    with Bag(folder) as bag, pytest.raises(BadBag) as caught:
        bag.choose_topic()
    assert '/left/image [Image] x1, /right/image [Image] x2' in str(caught.value)
    assert '--topic' in caught.value.remedy
    with Bag(folder) as bag, pytest.raises(BadBag, match='no pictures on /up'):
        bag.choose_topic('/up')
    assert len(pictures_of(folder, '/right/image')) == 2


def test_a_recording_without_pictures_says_what_it_has(tmp_path: Path) -> None:
    folder = write_ros2(tmp_path / 'bag', [('/chat', STRING, START_NS, text('hello'))])
    with Bag(folder) as bag, pytest.raises(BadBag, match=r'no pictures; got only /chat \[String'):
        bag.choose_topic()
    depth = ('/depth', IMAGE, START_NS, image(START_NS, np.ones((24, 32), np.float32), '32FC1'))
    with Bag(write_ros2(tmp_path / 'deep', [depth])) as bag, pytest.raises(
            BadBag, match='16UC1 and float topics are depth: record a camera topic'):
        bag.choose_topic()


def test_depth_is_no_picture_and_grey_of_16_bits_is_one(tmp_path: Path) -> None:
    """As in the node."""
    deep = np.arange(24 * 32, dtype=np.uint16).reshape(24, 32)
    stored = compressed(START_NS, picture(0))
    stored.format = '16UC1; png compressed '
    messages = [('/grey', IMAGE, START_NS, image(START_NS, deep, 'mono16')),
                ('/depth', IMAGE, START_NS, image(START_NS, deep, '16UC1')),
                ('/depth/compressed', COMPRESSED, START_NS, stored)]
    folder = write_ros2(tmp_path / 'bag', messages)
    assert [frame.topic for frame in pictures_of(folder)] == ['/grey']
    with Bag(folder) as bag:
        assert [one.name for one in bag.depth_topics()] == ['/depth', '/depth/compressed']
        for name in ('/depth', 'depth/compressed'):
            with pytest.raises(BadBag, match='carries depth.*allowed: /grey .*mono16'):
                bag.choose_topic(name)
        bad, = bag.frames(bag.recording.topics['/depth'])  # as where the encoding changes later
        assert isinstance(bad, Skipped) and 'this is a depth image' in bad.reason


def test_a_bad_picture_is_reported_and_the_rest_goes_on(tmp_path: Path) -> None:
    messages = camera(3)
    messages[1][3].step = 7
    odd = ('/camera/image_raw', IMAGE, START_NS + 9, image(START_NS, picture(0), 'klingon8'))
    with Bag(write_ros2(tmp_path / 'bag', [*messages, odd])) as bag:
        items = list(bag.frames(bag.choose_topic()))
    kinds = [type(item) for item in items]
    assert kinds == [Frame, Skipped, Skipped, Frame]  # in the order of their stamps
    assert 'klingon8' in items[1].reason and 'step is too small' in items[2].reason


def test_a_message_that_is_no_message_is_skipped(tmp_path: Path) -> None:
    path = write_dashing(tmp_path / 'old.db3')
    with sqlite3.connect(path) as connection:
        connection.execute('UPDATE messages SET data = ? WHERE id = 1', (b'\x00\x01\x00\x00\xff',))
        connection.execute("UPDATE messages SET data = 'text' WHERE id = 2")
    with Bag(path) as bag:
        items = list(bag.frames(bag.choose_topic('/image')))
    assert [type(item) for item in items] == [Skipped, Skipped, Frame]
    assert 'cannot be decoded' in items[0].reason


def test_texts_come_between_the_pictures(tmp_path: Path) -> None:
    messages = camera(2) + [('/ask', STRING, START_NS + 1, text('Where?'))]
    with Bag(write_ros2(tmp_path / 'bag', messages)) as bag:
        items = list(bag.play(bag.choose_topic(), 'ask'))
    assert [type(item) for item in items] == [Picture, Text, Picture]
    assert items[1].text == 'Where?'


def test_another_serialisation_is_refused(tmp_path: Path) -> None:
    folder = write_ros2(tmp_path / 'bag', camera(), encoding='protobuf')
    with Bag(folder) as bag, pytest.raises(BadBag, match='serialisation is not CDR'):
        bag.choose_topic()


@pytest.mark.parametrize('name, content, reason', [
    ('a.bag', b'', 'the file is empty'), ('a.mcap', b'junk' * 9, 'the file is not a recording'),
    ('a.db3', b'SQLite format 3\x00' + b'\x00' * 200, 'cannot be read'),
    ('a.bag', b'#ROSBAG V2.0\n', 'no whole message'),
    ('a.mcap', b'\x89MCAP0\r\n', 'cannot be read'),
    ('a.mcap.zstd', b'\x28\xb5\x2f\xfd' + b'\x01' * 50, 'cannot be unpacked')])
def test_what_is_no_recording_is_refused(tmp_path: Path, name: str, content: bytes,
                                         reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadBag, match=reason), Recording(tmp_path / name):
        pass


def test_missing_and_empty_places_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadBag, match='no such recording'), Bag(tmp_path / 'none'):
        pass
    with pytest.raises(BadBag, match='holds no recording'), Bag(tmp_path):
        pass


@pytest.fixture(scope='module')
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp('whole')
    mcap = write_ros2(folder / 'bag', camera(), 'mcap', 'storage') / 'bag.mcap'
    return {'cut.mcap': mcap.read_bytes(),
            'cut.db3': write_dashing(folder / 'old.db3').read_bytes(),
            'cut.bag': write_ros1(folder / 'one.bag').read_bytes()}


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(['cut.mcap', 'cut.db3', 'cut.bag']),
       share=st.floats(0, 1), flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(1, 255)),
                                             max_size=4))
def test_damage_ends_in_pictures_or_in_bad_bag(whole: dict[str, bytes], name: str, share: float,
                                               flips: list[tuple[float, int]],
                                               tmp_path_factory: pytest.TempPathFactory) -> None:
    content = bytearray(whole[name][:int(share * len(whole[name]))])
    for place, flip in flips if content else []:
        content[int(place * len(content))] ^= flip
    path = tmp_path_factory.mktemp('cut') / name
    path.write_bytes(content)
    try:
        with Bag(path) as bag:
            items = list(bag.frames(bag.choose_topic()))
    except BadBag as error:
        assert str(path) in str(error) or error.remedy
        return
    assert len(items) <= 4


def test_a_ros1_bag_without_index_keeps_what_was_flushed(whole: dict[str, bytes],
                                                         tmp_path: Path) -> None:
    content = whole['cut.bag']
    index = content.index(b'op=\x04')  # index records follow each chunk
    last_chunk = content.rindex(b'op=\x05')
    assert index < last_chunk
    unindexed = content.replace(b'index_pos=' + content[content.index(b'index_pos=') + 10:][:8],
                                b'index_pos=' + b'\x00' * 8, 1)
    (tmp_path / 'drive.bag.active').write_bytes(unindexed[:last_chunk - 8])
    with Bag(tmp_path / 'drive.bag.active') as bag:
        frames = list(bag.frames(bag.choose_topic()))
        assert 'not indexed' in bag.warnings[0] and 'Mended a copy' in bag.warnings[0]
    assert len(frames) == 3
    np.testing.assert_array_equal(frames[2].rgb, picture(2))


def test_an_mcap_without_its_end_keeps_its_whole_chunks(tmp_path: Path) -> None:
    big = [('/camera/image_raw', IMAGE, START_NS + n, image(START_NS, np.random.default_rng(n)
            .integers(0, 256, (500, 800, 3), np.uint8))) for n in range(3)]
    path = write_ros2(tmp_path / 'bag', big) / 'bag.mcap'
    content = path.read_bytes()
    path.write_bytes(content[:len(content) * 3 // 4])
    with Bag(path) as bag:
        assert len(list(bag.frames(bag.choose_topic()))) == 2
        assert 'Mended a copy' in bag.warnings[0]


def test_a_cut_database_keeps_its_whole_rows(tmp_path: Path) -> None:
    path = write_dashing(tmp_path / 'old.db3', 30)
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])
    with Bag(path) as bag:
        frames = list(bag.frames(bag.choose_topic()))
        assert 'Mended a copy' in bag.warnings[0]
    assert 5 < len(frames) < 25
    for number, frame in enumerate(frames):
        np.testing.assert_array_equal(frame.rgb, picture(number))


def test_a_full_temporary_folder_is_no_fault_of_the_recording(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, 'No space left on device')

    packed = write_ros2(tmp_path / 'packed', camera(), 'mcap', 'file')
    logged = write_dashing(tmp_path / 'log.db3', leave_log=True)
    cut = write_ros2(tmp_path / 'cut', camera()) / 'cut.mcap'
    cut.write_bytes(cut.read_bytes()[:-50])
    later = write_ros2(tmp_path / 'later', camera(), 'mcap', 'storage') / 'later.mcap'
    later.write_bytes(later.read_bytes().replace(storage.ZSTD_MAGIC, bytes(4)))
    monkeypatch.setitem(storage._MENDERS, '.mcap', full)
    for name in ('copyfile', 'copyfileobj'):
        monkeypatch.setattr(shutil, name, full)
    for path in (packed, logged, cut, later):
        with pytest.raises(OutOfDisk, match='got .*free space of .*remedy: set TMPDIR'):
            pictures_of(path)


def test_rows_that_do_not_fit_the_copy_are_not_left_out_silently(tmp_path: Path) -> None:
    source = sqlite3.connect(write_dashing(tmp_path / 'old.db3', 30))
    out = sqlite3.connect(tmp_path / 'copy.db3', isolation_level=None)
    out.executescript(mend._SQLITE_TABLES)
    out.execute('PRAGMA max_page_count=8').fetchall()
    with pytest.raises(sqlite3.OperationalError, match='disk is full'):
        mend._copy_rows(source, out)


def test_a_damaged_chunk_costs_only_itself(tmp_path: Path,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / 'temporary').mkdir()
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path / 'temporary'))
    noise = np.random.default_rng(0).integers(0, 256, (3, 500, 800, 3), np.uint8)
    big = [('/camera/image_raw', IMAGE, START_NS + n, image(START_NS, noise[n]))
           for n in range(3)]
    folder = write_ros2(tmp_path / 'bag', big, 'mcap', 'storage')
    content = bytearray((folder / 'bag.mcap').read_bytes())
    second = content.index(storage.ZSTD_MAGIC, len(content) // 4)
    content[second:second + 64] = bytes(64)
    (folder / 'bag.mcap').write_bytes(content)
    with Bag(folder) as bag:
        topic = bag.choose_topic()
        for _ in range(2):  # the second pass needs no second copy, and has no more to say
            frames = [item for item in bag.frames(topic) if isinstance(item, Frame)]
            assert len(list((tmp_path / 'temporary').glob('*/*.mended.mcap'))) == 1
            assert len(bag.warnings) == 1
        assert 'chunks left out as damaged: 1' in bag.warnings[0]
    assert len(frames) == 2
    np.testing.assert_array_equal(frames[0].rgb, noise[0])
    np.testing.assert_array_equal(frames[-1].rgb, noise[2])


@pytest.mark.parametrize('name, topic, count, shape', [
    ('mvtb_ros2', '/camera/raw', 3, (6, 8, 3)),
    ('mvtb_ros1', '/camera/raw', 3, (6, 8, 3)),
    ('raspicam_board.bag', '/raspicam_node/camera/image/compressed', 1, (360, 640, 3))])
def test_recordings_of_other_people(name: str, topic: str, count: int,
                                    shape: tuple[int, int, int]) -> None:
    with Bag(DATA / name) as bag:
        chosen = bag.choose_topic()
        frames = list(bag.frames(chosen))
        assert (chosen.name, bag.warnings) == (topic, [])
    assert [frame.rgb.shape for frame in frames] == [shape] * count
    assert all(frame.stamp_ns > 10**18 and frame.frame_id for frame in frames) or count == 3


def infos(recorded: list[tuple[int, int]], focals: list[float]) -> list[tuple[str, str, int, Any]]:
    """CameraInfo by (bag stamp, header stamp)."""
    return [('/camera/camera_info', INFO, bag_ns, replace(camera_info(stamp), k=np.full(9, focal)))
            for (bag_ns, stamp), focal in zip(recorded, focals)]


def lenses_of(folder: Path) -> list[float | None]:
    return [frame.info and float(frame.info.k[0]) for frame in pictures_of(folder)]


def test_a_picture_has_the_camera_info_of_its_stamp_whichever_was_recorded_first(
        tmp_path: Path) -> None:
    """Pictures are stamped 1 ms before they are recorded; the first comes before all infos."""
    stamps = [START_NS + n * PERIOD_NS for n in range(1, 4)]
    for name, delay in (('before', -40_000_000), ('after', 40_000_000)):
        said = infos([(stamp + delay, stamp - 1_000_000) for stamp in stamps], [1.0, 2.0, 3.0])
        bag = write_ros2(tmp_path / name, [*camera(4), *said])
        assert lenses_of(bag) == [1.0, 1.0, 2.0, 3.0], name
    assert lenses_of(write_ros2(tmp_path / 'none', camera(2))) == [None, None]


def test_camera_info_without_stamps_holds_from_when_it_was_recorded(tmp_path: Path) -> None:
    stamps = [START_NS - 1, START_NS + 2 * PERIOD_NS - 1]
    said = infos([(stamp, 0) for stamp in stamps], [1.0, 2.0])
    assert lenses_of(write_ros2(tmp_path / 'bag', [*camera(4), *said])) == [1.0, 1.0, 2.0, 2.0]


def test_camera_info_that_cannot_be_decoded_is_said_once(tmp_path: Path) -> None:
    wrong = [('/camera/camera_info', STRING, START_NS + n, text('no lens')) for n in range(3)]
    bag = write_ros2(tmp_path / 'bag', [*camera(2), *wrong])
    with Bag(bag) as opened:
        topics = opened.recording.topics
        topics['/camera/camera_info'] = replace(topics['/camera/camera_info'], type=INFO)
        assert [frame.info for frame in opened.frames(opened.choose_topic())] == [None, None]
        assert ['camera_info cannot be decoded' in said for said in opened.warnings] == [True]


def test_the_intrinsics_of_a_real_camera_are_found() -> None:
    with Bag(DATA / 'raspicam_board.bag') as bag:
        info = bag.camera_info(bag.choose_topic())
    assert info.K[0] > 100 and (info.width, info.height) == (1280, 720)


def test_stamps_that_stand_still_do_not_fill_the_memory(tmp_path: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    """A recording made before the clock runs: nothing is ever later than anything."""
    messages = [(topic, kind, 0, message) for topic, kind, _, message in
                [*infos([(0, 10**9)], [100.0]), *camera(8)]]
    monkeypatch.setattr(bag_module, 'MOST_WAITING', 3)
    with Bag(write_ros2(tmp_path / 'drive', messages)) as bag:
        topic, records, read = bag.choose_topic(), Recording.records, []
        monkeypatch.setattr(Recording, 'records', lambda self, names: (
            read.append(record.topic) or record for record in records(self, names)))
        first = next(iter(bag.play(topic)))
        assert isinstance(first, Picture) and first.index == 0
        assert read.count(topic) == 4  # three wait, and the next one is at the door
