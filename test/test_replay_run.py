"""A recording through a real (tiny, random) network: what comes out, and that it repeats."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Iterator

import numpy as np
import pytest
from bag_maker import (
    IMAGE,
    PERIOD_NS,
    START_NS,
    STRING,
    camera,
    camera_info,
    image,
    picture,
    text,
    write_ros1,
    write_ros2,
)
from PIL import Image
from rosbags.highlevel import AnyReader
from support.tiny import tiny_engine

from cooper_ros.config import CooperConfig
from cooper_ros.engine.engine import CooperEngine
from cooper_ros.engine.events import Answer, Event, Failure
from cooper_ros.errors import BadBag, BadData, BadOption, BadQuestion
from cooper_ros.imaging.colours import SPECTRAL_U8
from cooper_ros.imaging.lens import calibration_of
from cooper_ros.replay.pictures import write_pictures, write_sheet
from cooper_ros.replay.places import sheet_name
from cooper_ros.replay.questions import DEFAULT_QUESTION, Plan, Question, collect, read_questions
from cooper_ros.replay.run import Request, Watch, check, replay
from cooper_ros.replay.summary import write_summary

ALL = Plan(rate=0)
CONFIG = CooperConfig(max_turn_tokens=8, time_budget_s=0.0)
FACTS = {'model': 'tiny', 'hardware': 'test', 'precision': 'float32'}


@pytest.fixture(scope='module')
def engine() -> CooperEngine:
    return tiny_engine(config=CONFIG, depth_range_m=(0.2, 8.0))


def with_info(count: int = 2) -> list[tuple[str, str, int, Any]]:
    infos = [('/camera/camera_info', 'sensor_msgs/msg/CameraInfo', START_NS + n * PERIOD_NS,
              camera_info(START_NS)) for n in range(count)]
    return camera(count) + infos


def read(folder: Path) -> dict[str, list[tuple[int, Any]]]:
    """Everything in a bag of answers, decoded by the definitions it carries itself."""
    found: dict[str, list[tuple[int, Any]]] = {}
    with AnyReader([folder]) as reader:
        for connection, stamp, data in reader.messages():
            message = reader.deserialize(data, connection.msgtype)
            found.setdefault(connection.topic, []).append((stamp, message))
    return found


def pixels(message: Any, kind: type) -> np.ndarray:
    return message.data.view(kind).reshape(message.height, message.width, -1)


def test_the_bag_of_answers_holds_pictures_answers_and_maps(tmp_path: Path,
                                                            engine: CooperEngine) -> None:
    ends: list[Answer] = []
    result = replay(Request(write_ros2(tmp_path / 'in', with_info()), tmp_path / 'out',
                            [Question('Way free?')], ALL, mode='maps'), engine,
                    Watch(asked=lambda _, asked: ends.append(asked.end)))
    found = read(tmp_path / 'out' / 'answers')
    assert set(found) == {
        '/camera/image_raw', '/camera/camera_info', '/cooper/answer', '/cooper/answer_text',
        '/cooper/relative_depth', '/cooper/relative_depth/colored', '/cooper/depth/image',
        '/cooper/depth/camera_info', '/cooper/segmentation/mask', '/cooper/segmentation/colored',
        '/cooper/segmentation/legend', '/cooper/overlay'}
    for topic, messages in found.items():
        assert [stamp for stamp, _ in messages] == [START_NS, START_NS + PERIOD_NS], topic
        for stamp, message in messages:
            if topic != '/cooper/answer_text':
                head = message.header
                assert head.stamp.sec * 10**9 + head.stamp.nanosec == stamp - 1_000_000
                assert head.frame_id == 'camera_optical'
    assert [asked.question.text for asked in result.asked] == ['Way free?'] * 2
    for (_, said), (_, words), end in zip(found['/cooper/answer'], found['/cooper/answer_text'],
                                          ends):
        assert (said.answer, said.short_answer) == (end.text, end.short)
        assert (said.question, said.mode) == ('Way free?', 'maps')
        assert words.data == (end.text if end.complete else end.error_msg)
        assert list(said.reasoning) == list(end.reasoning) and said.error_code == end.error_code
        assert said.timings.total_s == 0


def test_maps_in_the_bag_are_the_maps_of_the_answer(tmp_path: Path, engine: CooperEngine) -> None:
    ends: list[Answer] = []
    replay(Request(write_ros2(tmp_path / 'in', with_info(1)), tmp_path / 'out',
                   [Question('Way free?')], ALL, mode='maps'), engine,
           Watch(asked=lambda _, asked: ends.append(asked.end)))
    found = {topic: messages[0][1]
             for topic, messages in read(tmp_path / 'out' / 'answers').items()}
    depth, parts = ends[0].maps
    relative, metres = found['/cooper/relative_depth'], found['/cooper/depth/image']
    assert relative.encoding == metres.encoding == '32FC1'
    np.testing.assert_array_equal(pixels(relative, np.float32)[..., 0], depth.relative)
    np.testing.assert_array_equal(pixels(metres, np.float32)[..., 0], depth.metres)
    mask = found['/cooper/segmentation/mask']
    assert mask.encoding == 'mono8'
    np.testing.assert_array_equal(pixels(mask, np.uint8)[..., 0], parts.labels)
    assert {entry.id for entry in found['/cooper/segmentation/legend'].labels} == {
        entry.id for entry in parts.legend}
    assert (found['/cooper/overlay'].height, found['/cooper/overlay'].width) == (24, 32)
    np.testing.assert_array_equal(pixels(found['/camera/image_raw'], np.uint8), picture(0))
    info, scale = found['/cooper/depth/camera_info'], depth.relative.shape[1] / 32
    assert (info.height, info.width) == depth.relative.shape
    np.testing.assert_allclose(info.k[[0, 2]], [40 * scale, 16 * scale])


class Lenses:
    """An engine that notes the lens it is told of."""

    def __init__(self, engine: CooperEngine) -> None:
        self.engine, self.seen = engine, []

    def ask(self, images: Any, question: str, *, request_id: str, **changes: Any
            ) -> Iterator[Event]:
        self.seen.append(changes['focal'])
        yield from self.engine.ask(images, question, request_id=request_id, **changes)


@pytest.mark.parametrize(('recorded', 'told', 'used'), [
    (with_info(1), 0.0, 40 / 32), (with_info(1), 0.7, 40 / 32), (camera(1), 0.7, 0.7)])
def test_the_engine_is_told_the_lens_of_the_recording(
        tmp_path: Path, engine: CooperEngine, recorded: Any, told: float, used: float) -> None:
    lenses = Lenses(engine)
    replay(Request(write_ros2(tmp_path / 'in', recorded), tmp_path / 'out', (), ALL,
                   mode='direct', focal=told), lenses)
    assert lenses.seen == [used]


def zoomed(focals: list[float]) -> list[tuple[str, str, int, Any]]:
    """Pictures with the lens of their time, recorded a little later; 0: not calibrated."""
    said = []
    for number, focal in enumerate(focals):
        stamp = START_NS + number * PERIOD_NS
        info = camera_info(stamp - 1_000_000)
        k = np.array([focal, 0, 16, 0, focal, 12, 0, 0, 1])
        said.append(('/camera/camera_info', 'sensor_msgs/msg/CameraInfo', stamp + 5_000_000,
                     replace(info, k=k, p=np.zeros(12))))
    return camera(len(focals)) + said


def test_every_picture_is_seen_through_the_lens_of_its_time(tmp_path: Path, engine: CooperEngine
                                                            ) -> None:
    lenses = Lenses(engine)
    replay(Request(write_ros2(tmp_path / 'in', zoomed([40.0, 40.0, 80.0])), tmp_path / 'out', (),
                   ALL, mode='maps'), lenses)
    assert lenses.seen == [40 / 32, 40 / 32, 80 / 32]
    found = read(tmp_path / 'out' / 'answers')
    assert [message.k[0] for _, message in found['/camera/camera_info']] == [40, 40, 80]
    assert not any(message.p.any() for _, message in found['/camera/camera_info'])  # as recorded
    for _, message in found['/cooper/depth/camera_info']:
        assert list(message.p[[0, 2, 5, 6, 10]]) == list(message.k[[0, 2, 4, 5, 8]])
    near, _, far = (message.k[0] for _, message in found['/cooper/depth/camera_info'])
    assert far == 2 * near


def test_a_first_message_without_a_calibration_costs_its_own_picture_only(
        tmp_path: Path, engine: CooperEngine) -> None:
    """As in the node: later pictures have the lens that is known by then."""
    lenses = Lenses(engine)
    result = replay(Request(write_ros2(tmp_path / 'in', zoomed([0.0, 40.0, 40.0])),
                            tmp_path / 'out', (), ALL, mode='maps'), lenses)
    assert lenses.seen == [0.0, 40 / 32, 40 / 32]
    metres = read(tmp_path / 'out' / 'answers')['/cooper/depth/image']
    assert [stamp for stamp, _ in metres] == [START_NS + PERIOD_NS, START_NS + 2 * PERIOD_NS]
    assert sum('without usable focal lengths' in text for text in result.warnings) == 1


def test_recorded_camera_info_of_other_pictures_is_not_believed(tmp_path: Path,
                                                                engine: CooperEngine) -> None:
    other = [(topic, kind, stamp, replace(message, width=1280, height=720)
              if topic.endswith('camera_info') else message)
             for topic, kind, stamp, message in with_info(2)]
    lenses = Lenses(engine)
    result = replay(Request(write_ros2(tmp_path / 'in', other), tmp_path / 'out', (), ALL,
                            mode='direct', focal=0.7), lenses)
    assert lenses.seen == [0.7, 0.7]
    assert [text for text in result.warnings if 'camera_info' in text] == [
        'camera_info is about pictures of 1280x720, the picture has 32x24']
    assert not [topic for topic in read(tmp_path / 'out/answers') if 'camera_info' in topic]


@pytest.mark.parametrize(('focal', 'promised'), [(0.0, False), (0.7, True)])
def test_metres_are_not_promised_behind_a_lens_of_which_only_nonsense_is_known(
        tmp_path: Path, engine: CooperEngine, focal: float, promised: bool) -> None:
    """As the node does it; the engine has metres for every lens."""
    blind = [(topic, kind, stamp, replace(message, k=np.zeros(9))
              if topic.endswith('camera_info') else message)
             for topic, kind, stamp, message in with_info(1)]
    bag = write_ros2(tmp_path / 'in', blind)
    result = replay(Request(bag, tmp_path / 'out', (), ALL, mode='maps', focal=focal), engine)
    found = read(tmp_path / 'out' / 'answers')
    assert '/cooper/relative_depth' in found
    assert ('/cooper/depth/image' in found) is promised
    assert '/cooper/depth/camera_info' not in found
    assert any('without usable focal lengths' in text for text in result.warnings)


@pytest.mark.parametrize('fields', [
    {'k': np.zeros(9), 'p': np.zeros(12)}, {'p': np.full(12, np.nan)}, {'width': 0, 'height': 0},
    {'p': np.full(12, 1e6)}])
def test_a_recorded_lens_that_cannot_be_is_none(fields: dict[str, Any]) -> None:
    strange = calibration_of(replace(camera_info(START_NS), **fields), '/image_rect', (32, 24), 0)
    assert strange.info is None and strange.focal == 0 and not strange.has_scale
    plain = calibration_of(camera_info(START_NS), '/image_raw', (32, 24), 0.7)
    assert plain.info is not None and plain.focal == 40 / 32 and plain.has_scale
    assert calibration_of(None, '/image_raw', (32, 24), 0.7).focal == 0.7


def test_camera_info_of_a_region_of_interest(tmp_path: Path, engine: CooperEngine) -> None:
    """As the node scales it; beside the picture it stays what the camera said."""
    seen = camera_info(START_NS, 48, 64)
    roi = type(seen.roi)(x_offset=16, y_offset=8, width=32, height=24, do_rectify=True)
    info = replace(seen, roi=roi, binning_x=1)
    bag = write_ros2(tmp_path / 'in', [*camera(1), (
        '/camera/camera_info', 'sensor_msgs/msg/CameraInfo', START_NS, info)])
    replay(Request(bag, tmp_path / 'out', (), ALL, mode='maps'), engine)
    found = read(tmp_path / 'out' / 'answers')
    kept, scaled = (found[topic][0][1] for topic in ('/camera/camera_info',
                                                     '/cooper/depth/camera_info'))
    assert (kept.roi.x_offset, kept.roi.width, kept.roi.do_rectify, kept.binning_x) == (
        16, 32, True, 1)
    assert (kept.width, kept.height, kept.k[0]) == (64, 48, 40)
    ratio = scaled.width / 32
    np.testing.assert_allclose(scaled.k[[0, 2, 5]], [40 * ratio, 0, 4 * ratio])
    np.testing.assert_allclose(scaled.p[[0, 2, 6]], [40 * ratio, 0, 4 * ratio])
    assert scaled.roi.width == scaled.binning_x == 0


def test_a_recording_is_never_replaced_by_its_answers(tmp_path: Path, engine: CooperEngine
                                                      ) -> None:
    first = Request(write_ros2(tmp_path / 'in', with_info(1)), tmp_path / 'out', (), ALL,
                    mode='direct')
    replay(first, engine)
    answers = tmp_path / 'out' / 'answers'
    before = sorted((path.name, path.read_bytes()) for path in answers.iterdir())
    for bag in (answers, next(answers.glob('*.mcap'))):
        for work in (lambda request: replay(request, engine), check):
            with pytest.raises(BadOption, match='take the place of the recording.*another --out'):
                work(replace(first, bag=bag, overwrite=True))
    assert sorted((path.name, path.read_bytes()) for path in answers.iterdir()) == before


def test_a_recording_that_holds_no_answers_is_not_overwritten(tmp_path: Path,
                                                              engine: CooperEngine) -> None:
    bag = write_ros2(tmp_path / 'in', with_info(1))
    other = write_ros2(tmp_path / 'out' / 'answers', [
        *with_info(1), ('/cooper/answer', STRING, START_NS, text('of a node'))])
    with pytest.raises(BadOption, match='no bag of answers of cooper replay, and is not replaced'):
        replay(Request(bag, tmp_path / 'out', (), ALL, overwrite=True), engine)
    assert other.exists()


def test_pictures_are_let_go(tmp_path: Path, engine: CooperEngine) -> None:
    result = replay(Request(write_ros2(tmp_path / 'in', camera(3)), tmp_path / 'out', (), ALL,
                            mode='direct'), engine)
    assert all(asked.frame.rgb.base is None and not asked.frame.rgb.size
               for asked in result.asked) and len(result.asked) == 3


def test_the_limit_of_pixels_is_that_of_the_settings(tmp_path: Path, engine: CooperEngine) -> None:
    bag = write_ros2(tmp_path / 'in', camera(1))
    with pytest.raises(BadBag, match='too large'):
        replay(Request(bag, tmp_path / 'out', (), ALL, max_image_pixels=24 * 32 - 1), engine)


def test_relative_depth_alone_never_becomes_metres(tmp_path: Path) -> None:
    replay(Request(write_ros2(tmp_path / 'in', with_info(1)), tmp_path / 'out', (), ALL,
                   mode='maps'), tiny_engine(config=CONFIG))
    found = read(tmp_path / 'out' / 'answers')
    assert '/cooper/relative_depth' in found and '/cooper/depth/image' not in found
    assert found['/cooper/answer'][0][1].question == DEFAULT_QUESTION


@pytest.mark.parametrize('storage', ['mcap', 'ros1'])
def test_equal_runs_give_equal_bytes(tmp_path: Path, storage: str) -> None:
    bag = (write_ros1(tmp_path / 'in.bag', 2) if storage == 'ros1'
           else write_ros2(tmp_path / 'in', with_info()))
    questions = [Question('Way free?'), Question('What is near?', 'direct')]
    for name in 'ab':
        engine = tiny_engine(config=CONFIG)
        request = Request(bag, tmp_path / name, questions, ALL, mode='maps', seed=7)
        write_summary(replay(request, engine), FACTS)
    one, two = (sorted(path for path in (tmp_path / name / 'answers').iterdir())
                for name in 'ab')
    assert [path.name for path in one] == ['.cooper_answers', 'answers.mcap', 'metadata.yaml']
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
    first, second = (json.loads((tmp_path / name / 'summary.json').read_text()) for name in 'ab')
    assert first.pop('timings') and second.pop('timings') and first == second
    other = Request(bag, tmp_path / 'c', questions, ALL, mode='maps', seed=8)
    replay(other, tiny_engine(config=CONFIG))
    assert (tmp_path / 'c/answers/answers.mcap').read_bytes() != one[1].read_bytes()


def test_a_bad_picture_is_skipped_and_said(tmp_path: Path, engine: CooperEngine) -> None:
    messages = camera(3)
    messages[1][3].step = 1
    result = replay(Request(write_ros2(tmp_path / 'in', messages), tmp_path / 'out',
                            [Question('Way free?')], ALL, mode='direct'), engine)
    assert [asked.frame.index for asked in result.asked] == [0, 2] and result.pictures == 2
    values = json.loads(write_summary(result, FACTS)[0].read_text())
    assert 'step is too small' in values['skipped'][0]['reason']
    words = (tmp_path / 'out' / 'summary.md').read_text()
    assert '2 pictures of `/camera/image_raw`, 2 questions' in words and 'picture 1 at' in words


class Stumbles:
    """An engine that fails on the second question and is stopped on the fourth."""

    def __init__(self, engine: CooperEngine) -> None:
        self.engine, self.count = engine, 0

    def ask(self, images: Any, question: str, *, request_id: str, **changes: Any
            ) -> Iterator[Event]:
        self.count += 1
        if self.count == 4:
            raise KeyboardInterrupt
        if self.count == 2:
            question = ''
        yield from self.engine.ask(images, question, request_id=request_id, **changes)


def test_a_failed_question_is_kept_and_a_stopped_run_leaves_a_whole_bag(
        tmp_path: Path, engine: CooperEngine) -> None:
    result = replay(Request(write_ros2(tmp_path / 'in', camera(6)), tmp_path / 'out',
                            [Question('Way free?')], ALL, mode='direct'), Stumbles(engine))
    assert result.interrupted and len(result.asked) == 3
    assert isinstance(result.asked[1].end, Failure)
    answers = [message for _, message in read(tmp_path / 'out' / 'answers')['/cooper/answer']]
    assert [message.error_code for message in answers][1] == 101
    assert 'BAD_QUESTION' in answers[1].error_msg and not answers[1].complete
    assert 'stopped before the end' in write_summary(result, FACTS)[1].read_text()


def test_questions_recorded_in_the_bag_are_asked_about_the_latest_picture(
        tmp_path: Path, engine: CooperEngine) -> None:
    messages = camera(3) + [('/ask', STRING, START_NS - 5, text('too early')),
                            ('/ask', STRING, START_NS + PERIOD_NS + 5, text('Where?')),
                            ('/ask', STRING, START_NS + PERIOD_NS + 6, text('And what?'))]
    bag = write_ros2(tmp_path / 'in', messages)
    request = Request(bag, tmp_path / 'out', question_topic='/ask', mode='direct')
    result = replay(request, engine)
    assert [(asked.frame.index, asked.question.text) for asked in result.asked] == [
        (1, 'Where?'), (1, 'And what?')]
    assert [len(read(tmp_path / 'out/answers')[topic]) for topic in (
        '/camera/image_raw', '/cooper/answer')] == [1, 2]
    lost = 'questions before the first picture, which were not asked: 1'
    assert result.warnings.count(lost) == 1
    assert lost in write_summary(result, FACTS)[1].read_text()
    with pytest.raises(BadOption, match='no such text topic; got /chat; allowed: /ask'):
        replay(replace(request, out=tmp_path / 'x', question_topic='/chat'), engine)


def test_the_plan_picks_pictures_by_bag_time(tmp_path: Path, engine: CooperEngine) -> None:
    bag = write_ros2(tmp_path / 'in', camera(8))
    picked = {}
    for name, plan in {'rate': Plan(rate=1), 'every': Plan(rate=0, every=3),
                       'limit': Plan(rate=0, limit=2)}.items():
        request = Request(bag, tmp_path / name, [Question('?')], plan, mode='direct')
        result = replay(request, engine)
        picked[name] = [asked.frame.index for asked in result.asked]
    assert picked == {'rate': [0, 2, 4, 6], 'every': [0, 3, 6], 'limit': [0, 1]}


def test_an_older_output_is_kept_unless_told(tmp_path: Path, engine: CooperEngine) -> None:
    request = Request(write_ros2(tmp_path / 'in', camera(1)), tmp_path / 'out', mode='direct')
    replay(request, engine)
    with pytest.raises(BadOption, match='the output exists.*--overwrite'):
        replay(request, engine)
    replay(replace(request, overwrite=True), engine)
    (tmp_path / 'out' / 'answers' / 'metadata.yaml').unlink()  # as a killed run leaves it
    replay(replace(request, overwrite=True), engine)
    (tmp_path / 'mine' / 'answers').mkdir(parents=True)
    with pytest.raises(BadOption, match='is not replaced.*move it away'):
        replay(replace(request, out=tmp_path / 'mine', overwrite=True), engine)
    (tmp_path / 'own').mkdir()
    (tmp_path / 'own' / 'summary.md').write_text('my own')
    for work in (lambda request: replay(request, engine), check):
        with pytest.raises(BadOption, match='the output exists; got .*summary.md'):
            work(replace(request, out=tmp_path / 'own'))
    made = write_summary(replay(replace(request, overwrite=True), engine), FACTS)
    replay(replace(request, overwrite=True), engine)
    assert not any(file.exists() for file in made)


@pytest.mark.parametrize('out', ['/proc/x', 'file', 'file/out', 'n' * 300])
def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path, out: str
                                                                   ) -> None:
    (tmp_path / 'file').touch()
    request = Request(write_ros2(tmp_path / 'in', camera(1)), tmp_path / out, mode='direct')
    for work in (lambda request: replay(request, Stumbles), check):
        with pytest.raises(BadOption, match='the output folder cannot be used.*another --out'):
            work(request)


def test_the_folder_is_made_where_all_else_is_well(tmp_path: Path) -> None:
    request = Request(write_ros2(tmp_path / 'in', camera(1)), tmp_path / 'out')
    with pytest.raises(BadBag):
        check(replace(request, topic='/none'))
    assert not request.out.exists()
    assert check(request).name == '/camera/image_raw' and request.out.is_dir()


def test_a_topic_of_nothing_but_bad_pictures_is_an_error(tmp_path: Path,
                                                         engine: CooperEngine) -> None:
    bad = [('/camera/image_raw', IMAGE, START_NS, image(START_NS, picture(0), 'klingon8'))]
    with pytest.raises(BadBag, match='no picture of the topic can be decoded.*klingon8'):
        replay(Request(write_ros2(tmp_path / 'in', bad), tmp_path / 'out'), engine)
    assert not (tmp_path / 'out' / 'answers').exists()


def test_sheets_show_answers_and_failures(tmp_path: Path, engine: CooperEngine) -> None:
    end = list(engine.ask([picture(0)], 'Way free?', mode='maps'))[-1]
    sheets = {}
    for name, one in {'answer': end, 'failure': Failure('1', 0.0, 304, 'no memory')}.items():
        file = write_sheet(tmp_path / sheet_name(len(sheets)), picture(0), 'Way?', one, 'foot')
        sheets[name] = np.asarray(Image.open(file))
    assert sheets['answer'].shape[1] == sheets['failure'].shape[1] == 1440
    for drawn in sheets.values():  # the bar of the picture, which nothing else of a sheet has
        assert (np.abs(drawn.astype(int) - (255, 0, 0)).max(axis=2) < 10).sum() > 100
    has_depth_bar = [(drawn == SPECTRAL_U8[0]).all(axis=2).any() for drawn in sheets.values()]
    assert has_depth_bar == [True, False]
    names = {file.name for file in write_pictures(tmp_path / 'o', picture(0), 'Way free?', end)}
    assert names == {'sheet.png', 'depth_colored.png', 'relative_depth.npy', 'depth_m.npy',
                     'segmentation.png', 'labels.png', 'overlay.png', 'answer.json'}
    np.testing.assert_array_equal(np.load(tmp_path / 'o' / 'relative_depth.npy'),
                                  end.maps[0].relative)
    (tmp_path / 'o' / 'notes.txt').write_text('my own')
    write_pictures(tmp_path / 'o', picture(0), 'And now?', replace(end, maps=()))
    assert {file.name for file in (tmp_path / 'o').iterdir()} == {'sheet.png', 'answer.json',
                                                                  'notes.txt'}
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data' / 'labels.png').write_text('of somebody')
    write_pictures(tmp_path / 'data', picture(0), 'And now?', replace(end, maps=()))
    assert (tmp_path / 'data' / 'labels.png').exists()


@pytest.mark.parametrize('name, content, mode', [
    ('q.txt', '# a comment\n  Where?\n\nHow far?  \n', None),
    ('q.yaml', '- Where?\n- {question: "How far?", mode: maps}\n', 'maps'),
    ('q.json', '["Where?", {"question": "How far?"}]', None),
    ('q.jsonl', '"Where?"\n{"question": "How far?", "mode": "text"}\n', 'text')])
def test_question_files(tmp_path: Path, name: str, content: str, mode: str | None) -> None:
    (tmp_path / name).write_text(content)
    asked = collect(['First?'], tmp_path / name)
    assert [question.text for question in asked] == ['First?', 'Where?', 'How far?']
    assert [question.mode for question in asked] == [None, None, mode]


@pytest.mark.parametrize('name, content, kind, reason', [
    ('q.json', '{', BadData, 'cannot be read'), ('q.yaml', 'a: [', BadData, 'cannot be read'),
    ('q.txt', '# nothing\n', BadData, 'no list'), ('q.json', '3', BadData, 'no list'),
    ('q.yaml', '- 3\n', BadQuestion, 'entry 1'), ('q.yaml', '- " "\n', BadQuestion, 'is empty'),
    ('q.yaml', '- {question: a, mode: loud}\n', BadOption, 'loud')])
def test_bad_question_files_are_named(tmp_path: Path, name: str, content: str, kind: type,
                                      reason: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(kind, match=reason) as caught:
        read_questions(tmp_path / name)
    assert 'check the path' not in caught.value.remedy
    with pytest.raises(BadData, match='check the path'):
        read_questions(tmp_path / 'none')


@pytest.mark.parametrize('values', [{'rate': -1.0}, {'every': 0}, {'limit': -1},
                                    {'rate': float('nan')}])
def test_bad_plans_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(BadOption, match=f'--{next(iter(values))} is out of range'):
        Plan(**values)
