"""Pictures of a recording as RGB arrays, with their stamps, frames and camera models."""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Iterator

import numpy as np
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

from cooper_ros.errors import BadBag, BadImage
from cooper_ros.imaging.buffers import MAX_PIXELS, decode_image
from cooper_ros.imaging.compressed import decode_compressed
from cooper_ros.imaging.depth_messages import check_no_depth, is_depth
from cooper_ros.imaging.lens import Lenses
from cooper_ros.replay.storage import Record, Recording, Topic, slashed
from cooper_ros.replay.topics import NODE

IMAGE = 'sensor_msgs/msg/Image'
COMPRESSED = 'sensor_msgs/msg/CompressedImage'
CAMERA_INFO = 'sensor_msgs/msg/CameraInfo'
STRING = 'std_msgs/msg/String'
PICTURES = (IMAGE, COMPRESSED)
OURS = f'/{NODE}/'  # in the name of what a node of ours publishes
LATE_NS = 100_000_000  # CameraInfo may be recorded that long after its picture
MOST_WAITING = 32  # stamps of a bag may stand still; pictures are large
KEPT_INFOS = 1000  # some seconds, for pictures that are recorded late
DEPTH_REMEDY = '16UC1 and float topics are depth: record a camera topic; 16-bit grey is mono16'


@dataclass(frozen=True)
class Picture:
    """One picture of a recording before it is decoded: most are never asked about.

    Attributes:
        index: its number among the pictures of the topic, from 0.
        record: the message as it was recorded.
        info: CameraInfo of its time, usable or not; None where none is recorded.
    """

    index: int
    record: Record = field(repr=False)
    info: Any | None = field(default=None, repr=False)

    @property
    def bag_ns(self) -> int:
        """When the recorder got it."""
        return self.record.stamp_ns


@dataclass(frozen=True)
class Frame:
    """One picture of a recording, decoded.

    Attributes:
        topic: where it was recorded.
        index, info: as of :class:`Picture`.
        stamp_ns: time of capture from its header; the bag stamp where the header has no usable
            one.
        bag_ns: when the recorder got it.
        frame_id: optical frame of the camera, may be empty.
        rgb: uint8 ``[H, W, 3]``.
        cdr: the message as it was, in ROS 2 serialisation.
    """

    topic: str
    index: int
    stamp_ns: int
    bag_ns: int
    frame_id: str
    rgb: np.ndarray = field(repr=False)
    cdr: bytes | memoryview = field(repr=False)
    info: Any | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Skipped:
    """A picture that could not be decoded."""

    topic: str
    index: int
    bag_ns: int
    reason: str


@dataclass(frozen=True)
class Text:
    """A text of a ``std_msgs/String`` topic."""

    topic: str
    bag_ns: int
    text: str


class Bag:
    """A recording seen as pictures. Use as a context manager.

    Message types come from ROS itself (Jazzy, Noetic), never from the bag, so recordings without
    type definitions or with the old names (``sensor_msgs/Image``) read alike.

    Args:
        path: file or folder.
        max_pixels: larger pictures are skipped.

    Raises:
        BadBag: the recording cannot be read.
    """

    def __init__(self, path: Path | str, max_pixels: int = MAX_PIXELS) -> None:
        self.recording, self._max_pixels = Recording(Path(path)), max_pixels
        self._ros1: Typestore = get_typestore(Stores.ROS1_NOETIC)
        self._ros2: Typestore = get_typestore(Stores.ROS2_JAZZY)

    def __enter__(self) -> Bag:
        self.recording.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.recording.__exit__(*error)

    @property
    def warnings(self) -> list[str]:
        """What was missing, damaged or left out so far."""
        return self.recording.warnings

    def decode(self, record: Record) -> Any:
        """Deserialise a message.

        Raises:
            BadBag: the bytes are not a message of this type.
        """
        store = self._ros1 if record.topic.ros1 else self._ros2
        try:
            if record.topic.ros1:
                return store.deserialize_ros1(record.data, record.topic.type)
            return store.deserialize_cdr(record.data, record.topic.type)
        except Exception as error:  # noqa: BLE001  broken bytes fail in any way
            raise BadBag(f'a message of {record.topic.name} cannot be decoded',
                         value=f'{len(record.data)} bytes: {type(error).__name__}',
                         limit=record.topic.type) from error

    def cdr(self, record: Record) -> bytes | memoryview:
        """Return a message in ROS 2 serialisation, whichever ROS recorded it."""
        if record.topic.ros1:
            return self._ros2.ros1_to_cdr(record.data, record.topic.type)
        return record.data

    def picture_topics(self) -> list[Topic]:
        """Topics with pictures to ask about; depth topics are left out."""
        return [topic for topic in self._topics(*PICTURES) if not self.is_depth(topic)]

    def depth_topics(self) -> list[Topic]:
        """Topics with depth images."""
        return [topic for topic in self._topics(*PICTURES) if self.is_depth(topic)]

    def is_depth(self, topic: Topic) -> bool:
        """Whether a picture topic carries depth: by its transport, else by its first message."""
        if topic.type == COMPRESSED and topic.name.endswith('/compressedDepth'):
            return True
        for record in self.recording.records({topic.name}):
            try:
                return is_depth(self.decode(record))
            except BadBag:
                continue
        return False

    def choose_topic(self, wanted: str | None = None) -> Topic:
        """Return the topic to ask about: the wanted one, else the only one, raw before JPEG.

        Views that a node of ours published are pictures too, but nobody asks about them.

        As in ROS a topic of raw pictures may stand for the JPEGs on ``<topic>/compressed``.

        Raises:
            BadBag: there is no picture topic, none of this name, more than one, or it is depth.
        """
        if wanted is not None:
            return self._named(wanted)
        found = self.picture_topics()
        if not found:
            recorded = _listed(list(self.recording.topics.values()))
            remedy = DEPTH_REMEDY if self._topics(*PICTURES) else 'record a camera topic'
            raise BadBag('the recording has no pictures', remedy=remedy,
                         value='; '.join([f'only {recorded}' if recorded else 'nothing',
                                             *self.warnings[:3]]))
        seen = [topic for topic in found if OURS not in topic.name] or found
        raw = [topic for topic in seen if topic.type == IMAGE]
        return _one(raw or seen, 'the recording has several picture topics', found)

    def _named(self, wanted: str) -> Topic:
        found = self._topics(*PICTURES)
        names = (slashed(wanted), f'{slashed(wanted)}/compressed')
        named = _one([topic for name in names for topic in found if topic.name == name][:1],
                     f'no pictures on {wanted}', found)
        if self.is_depth(named):
            raise BadBag(f'{wanted} carries depth, and no pictures to ask about',
                         limit=_listed(self.picture_topics()) or 'none', remedy=DEPTH_REMEDY)
        return named

    def frames(self, topic: Topic) -> Iterator[Frame | Skipped]:
        """Decode every picture of a topic; a bad one comes as :class:`Skipped`."""
        for item in self.play(topic):
            if isinstance(item, Picture):
                yield self.look(item)

    def look(self, picture: Picture) -> Frame | Skipped:
        """Decode a picture; a bad one comes as :class:`Skipped`."""
        try:
            return self._frame(picture)
        except (BadBag, BadImage) as error:
            return Skipped(picture.record.topic.name, picture.index, picture.bag_ns, str(error))

    def play(self, topic: Topic, texts: str | None = None) -> Iterator[Picture | Text]:
        """Yield pictures of a topic and texts of another one in the order of their bag stamps.

        They come as soon as the CameraInfo of that time must have been recorded, too. No picture
        is decoded: that costs more than all the rest, and few are asked about.
        """
        infos = self._info_topics(topic)
        lenses = self._lenses(topic) if infos else None
        names = {topic.name, *infos} | ({slashed(texts)} if texts else set())
        late, numbers = LATE_NS if infos else -1, itertools.count()
        waiting: deque[Picture | Text] = deque()
        for record in self.recording.records(names):
            while waiting and (waiting[0].bag_ns + late < record.stamp_ns
                               or len(waiting) >= MOST_WAITING):
                yield self._seen_through(waiting.popleft(), lenses)
            if lenses is not None and record.topic.name in infos:
                self._hear(record, lenses)
            elif record.topic.name == topic.name:
                waiting.append(Picture(next(numbers), record))
            else:
                waiting.extend(self._text(record))
        for item in waiting:
            yield self._seen_through(item, lenses)

    def camera_info(self, topic: Topic) -> Any | None:
        """Return the first CameraInfo beside a picture topic, usable or not, or None.

        What cannot even be decoded is passed over.
        """
        wanted = self._info_topics(topic)
        found = map(self._decoded_info, self.recording.records(wanted)) if wanted else ()
        return next((info for info in found if info is not None), None)

    def _info_topics(self, topic: Topic) -> set[str]:
        base = topic.name.removesuffix('/compressed').rsplit('/', 1)[0]
        return {name for name, entry in self.recording.topics.items()
                if entry.type == CAMERA_INFO and name.rsplit('/', 1)[0] == base}

    def _lenses(self, topic: Topic) -> Lenses:
        """What pictures have that were recorded before any CameraInfo: the first one."""
        lenses, first = Lenses(), self.camera_info(topic)
        if first is not None:
            lenses.hear(_stamp_ns(first), first, KEPT_INFOS)
        return lenses

    def _hear(self, record: Record, lenses: Lenses) -> None:
        info = self._decoded_info(record)
        if info is not None:
            lenses.hear(_stamp_ns(info), info, KEPT_INFOS)

    def _decoded_info(self, record: Record) -> Any | None:
        try:
            return self.decode(record)
        except BadBag as error:
            if str(error) not in self.warnings:  # the next one is likely to be like it
                self.warnings.append(str(error))
            return None

    def _seen_through(self, item: Picture | Text, lenses: Lenses | None) -> Picture | Text:
        """Give a picture what is known of its lens now: later messages may say otherwise."""
        if lenses is None or isinstance(item, Text):
            return item
        try:
            stamp = _taken_ns(self.decode(item.record), item.record)
        except BadBag:
            return item  # who looks at it hears of that
        return replace(item, info=lenses.at(stamp))

    def _frame(self, picture: Picture) -> Frame:
        record, message = picture.record, self.decode(picture.record)
        return Frame(record.topic.name, picture.index, _taken_ns(message, record),
                     record.stamp_ns, message.header.frame_id,
                     rgb_of(message, record.topic.type, self._max_pixels), self.cdr(record),
                     picture.info)

    def _text(self, record: Record) -> Iterator[Text]:
        try:
            yield Text(record.topic.name, record.stamp_ns, self.decode(record).data)
        except (BadBag, AttributeError) as error:
            self.warnings.append(f'{record.topic.name}: not a text: {error}')

    def _topics(self, *types: str) -> list[Topic]:
        return [topic for topic in self.recording.topics.values()
                if topic.type in types and topic.count and topic.readable]


def rgb_of(message: Any, type_name: str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode an Image or CompressedImage message to uint8 RGB ``[H, W, 3]``.

    Raises:
        BadImage: encoding, size, step or content cannot be used.
    """
    check_no_depth(message)
    if type_name == COMPRESSED:
        return decode_compressed(message.format, message.data, max_pixels)
    return decode_image(message.encoding, message.height, message.width, message.step,
                        message.is_bigendian, message.data, max_pixels)


def _stamp_ns(message: Any) -> int:
    stamp = message.header.stamp
    return stamp.sec * 10**9 + stamp.nanosec


def _taken_ns(message: Any, record: Record) -> int:
    """Time of capture; the bag stamp where the header has none that can be used."""
    stamp = _stamp_ns(message)  # negative ones were too many seconds of ROS 1
    return stamp if stamp > 0 else record.stamp_ns


def describe(topic: Topic) -> str:
    """One topic for a list: name, type and number of messages."""
    return f'{topic.name} [{topic.type.split("/")[-1]}] x{topic.count}'


def _one(topics: list[Topic], what: str, offered: list[Topic]) -> Topic:
    if len(topics) == 1:
        return topics[0]
    raise BadBag(what, limit=_listed(offered) or 'none, it has no pictures',
                 remedy='choose one with --topic')


def _listed(topics: list[Topic]) -> str:
    more = f' and {len(topics) - 12} more' if len(topics) > 12 else ''
    return ', '.join(describe(topic) for topic in topics[:12]) + more
