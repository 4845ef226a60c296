"""Pictures of a recording as RGB arrays, with their stamps, frames and camera models."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterator

import numpy as np
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

from cooper_ros.errors import BadBag, BadImage
from cooper_ros.imaging.buffers import MAX_PIXELS, decode_image
from cooper_ros.imaging.compressed import decode_compressed
from cooper_ros.replay.storage import Record, Recording, Topic

IMAGE = 'sensor_msgs/msg/Image'
COMPRESSED = 'sensor_msgs/msg/CompressedImage'
CAMERA_INFO = 'sensor_msgs/msg/CameraInfo'
STRING = 'std_msgs/msg/String'
PICTURES = (IMAGE, COMPRESSED)
OURS = '/cooper/'  # in the name of what a node of ours publishes
DEPTH_ENCODINGS = ('16UC1', '32FC1', '64FC1', 'mono16')
DEPTH_REMEDY = ('16-bit and float topics count as depth: ask about one with --topic, or record a '
                'camera topic')


@dataclass(frozen=True)
class Frame:
    """One picture of a recording.

    Attributes:
        topic: where it was recorded.
        index: its number among the pictures of the topic, from 0.
        stamp_ns: time of capture from its header; the bag stamp where the header has none.
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
        if topic.type == COMPRESSED:
            return topic.name.endswith('/compressedDepth')
        for record in self.recording.records({topic.name}):
            try:
                return self.decode(record).encoding in DEPTH_ENCODINGS
            except BadBag:
                continue
        return False

    def choose_topic(self, wanted: str | None = None) -> Topic:
        """Return the topic to ask about: the wanted one, else the only one, raw before JPEG.

        Views that a node of ours published are pictures too, but nobody asks about them.

        As in ROS a topic of raw pictures may stand for the JPEGs on ``<topic>/compressed``.

        Raises:
            BadBag: there is no picture topic, none of this name, or more than one.
        """
        if wanted is not None:
            named = self._topics(*PICTURES)
            names = (_slashed(wanted), f'{_slashed(wanted)}/compressed')
            return _one([topic for name in names for topic in named if topic.name == name][:1],
                        f'no pictures on {wanted}', named)
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

    def frames(self, topic: Topic) -> Iterator[Frame | Skipped]:
        """Decode every picture of a topic; a bad one comes as :class:`Skipped`."""
        for item in self.play(topic):
            if not isinstance(item, Text):
                yield item

    def play(self, topic: Topic, texts: str | None = None) -> Iterator[Frame | Skipped | Text]:
        """Yield pictures of a topic and texts of another one in the order of their bag stamps."""
        names = {topic.name} | ({_slashed(texts)} if texts else set())
        index = -1
        for record in self.recording.records(names):
            if record.topic.name != topic.name:
                yield from self._text(record)
                continue
            index += 1
            try:
                yield self._frame(record, index)
            except (BadBag, BadImage) as error:
                yield Skipped(topic.name, index, record.stamp_ns, str(error))

    def camera_info(self, topic: Topic) -> Any | None:
        """Return the first usable CameraInfo beside a picture topic, or None."""
        base = topic.name.removesuffix('/compressed').rsplit('/', 1)[0]
        wanted = {name for name, entry in self.recording.topics.items()
                  if entry.type == CAMERA_INFO and name.rsplit('/', 1)[0] == base}
        for record in self.recording.records(wanted) if wanted else ():
            try:
                return self.decode(record)
            except BadBag as error:
                self.warnings.append(str(error))
        return None

    def _frame(self, record: Record, index: int) -> Frame:
        message = self.decode(record)
        stamp = message.header.stamp
        stamp_ns = stamp.sec * 10**9 + stamp.nanosec
        return Frame(record.topic.name, index, stamp_ns or record.stamp_ns, record.stamp_ns,
                     message.header.frame_id, rgb_of(message, record.topic.type, self._max_pixels),
                     self.cdr(record))

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
    if type_name == COMPRESSED:
        return decode_compressed(message.format, message.data, max_pixels)
    return decode_image(message.encoding, message.height, message.width, message.step,
                        message.is_bigendian, message.data, max_pixels)


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


def _slashed(name: str) -> str:
    return name if name.startswith('/') else f'/{name}'
