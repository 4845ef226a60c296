"""Raw messages of a recording, whatever holds them: MCAP, SQLite, ROS 1, split, compressed.

Every storage file is opened by itself, since `metadata.yaml` is missing or wrong as soon as a
recorder died, and since splits get lost. Damaged files are mended in a temporary copy.
"""

from __future__ import annotations

import errno
import heapq
import re
import shutil
import sqlite3
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Callable, Iterator

import yaml
from rosbags.interfaces import Connection, ConnectionExtRosbag2
from rosbags.rosbag1 import Reader as Ros1Reader
from rosbags.rosbag2 import Reader as Ros2Reader

from cooper_ros.errors import BadBag, OutOfDisk
from cooper_ros.replay import mend

try:
    from compression import zstd
except ImportError:  # Python before 3.14
    from backports import zstd

ZSTD_MAGIC = b'\x28\xb5\x2f\xfd'  # no CDR message begins so: the first byte of CDR is 0
MAX_MESSAGE_BYTES = 512 * 2**20
SUFFIXES = ('.mcap', '.db3', '.bag', '.mcap.zstd', '.db3.zstd', '.bag.active')
TF_STATIC = 'tf_static'
REMEDY = 'record it again, or give a bag of ROS 2 (mcap, sqlite3) or ROS 1'
_MAGICS = {mend.MCAP_MAGIC: '.mcap', mend.SQLITE_MAGIC: '.db3', b'#ROSBAG V': '.bag'}
_MENDERS: dict[str, Callable[[Path, Path], tuple[Path, str]]] = {
    '.mcap': mend.mend_mcap, '.bag': mend.mend_ros1, '.db3': mend.mend_sqlite_rows}

Reader = Ros1Reader | Ros2Reader


@dataclass(frozen=True)
class Topic:
    """One topic of a recording: its name, type (``pkg/msg/Name``) and number of messages.

    ``reliable`` is false where every recorded offer was best effort; ``latched`` is true where a
    publisher kept its messages for listeners to come.
    """

    name: str
    type: str
    count: int
    ros1: bool
    readable: bool = True
    reliable: bool = True
    latched: bool = False


@dataclass(frozen=True)
class Record:
    """One recorded message, still serialised (CDR, or ROS 1 when the topic says so)."""

    topic: Topic
    stamp_ns: int
    data: bytes


@dataclass
class _Part:
    """An open storage file."""

    path: Path
    kind: str
    reader: Reader
    mended: bool = False

    def messages(self, connections: list[Connection]) -> Iterator[tuple[Connection, int, bytes]]:
        """Read serialised messages. A mended MCAP has no index and is read in file order."""
        if self.mended and self.kind == '.mcap':
            return self.reader.storage.messages_scan(connections)  # type: ignore[union-attr]
        return self.reader.messages(connections=connections)


@dataclass
class Recording:
    """An open recording: a file, or a folder of files. Use as a context manager.

    Attributes:
        path: what was given.
        warnings: everything that was missing, damaged or left out, one sentence each.
        topics: the topics by name.

    Raises:
        BadBag: nothing can be read at all.
        OutOfDisk: the temporary folder has no room for a copy; while records are read, too.
    """

    path: Path
    warnings: list[str] = field(default_factory=list)
    topics: dict[str, Topic] = field(default_factory=dict)
    _parts: list[_Part] = field(default_factory=list, repr=False)
    _rests: dict[Path, _Part | None] = field(default_factory=dict, repr=False)
    _stack: ExitStack = field(default_factory=ExitStack, repr=False)

    def __enter__(self) -> Recording:
        try:
            self._open()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._stack.close()

    def records(self, topics: set[str] | None = None) -> Iterator[Record]:
        """Yield messages in the order of their bag stamps; damage ends a file with a warning.

        Args:
            topics: names to read; None reads all that can be read.
        """
        wanted = {name: topic for name, topic in self.topics.items()
                  if topic.readable and (topics is None or name in topics)}
        yield from heapq.merge(*(self._read(part, wanted) for part in self._parts),
                               key=lambda record: record.stamp_ns)

    def span_ns(self) -> tuple[int, int]:
        """Return the first and the last bag stamp; (0, 0) when there are no messages."""
        filled = [part.reader for part in self._parts if part.reader.message_count]
        if not filled:
            return 0, 0
        return (min(reader.start_time for reader in filled),
                max(reader.end_time - 1 for reader in filled))

    def _open(self) -> None:
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix='cooper-bag-')))
        files = _storage_files(self.path, self.warnings)
        problems = []
        for number, file in enumerate(files):
            room = folder / str(number)
            room.mkdir()
            try:
                self._parts.append(self._open_file(file, room))
            except BadBag as error:
                problems.append(error)
        if not self._parts:
            raise problems[0]
        self.warnings += [f'left out: {error.what} ({error.value})' for error in problems]
        self._collect_topics()

    def _open_file(self, file: Path, room: Path) -> _Part:
        mended = False
        with _room_for_a_copy(file):
            path, kind = _plain_file(file, room)
            if kind == '.db3' and _has_content(mend.wal_of(file)):
                path, note = mend.mend_sqlite(file, room)
                self.warnings.append(f'{file.name}: {note}')
        try:
            reader = self._enter(path, kind)
        except Exception as error:  # noqa: BLE001  broken bytes fail in any way
            reader, mended = self._mended(file, path, kind, room, error), True
        return _Part(path, kind, reader, mended)

    def _mended(self, file: Path, path: Path, kind: str, room: Path, error: Exception) -> Reader:
        refusal = BadBag('the recording cannot be read', value=f'{file}: {_reason(error)}',
                         remedy=REMEDY)
        if kind not in _MENDERS:
            raise refusal from error
        try:
            copy, note = _mended_copy(path, kind, room)
            reader = self._enter(copy, kind)
        except OutOfDisk:
            raise
        except Exception as second:  # noqa: BLE001  as above
            raise refusal from second
        if not reader.message_count:
            raise BadBag('the recording holds no whole message', remedy=REMEDY,
                         value=f'{file}: {_reason(error)}') from error
        self.warnings.append(f'{file.name}: {_reason(error)} Mended a copy: {note}.')
        return reader

    def _enter(self, path: Path, kind: str) -> Reader:
        reader = Ros1Reader(path) if kind == '.bag' else Ros2Reader(path)
        reader.open()
        self._stack.callback(_close, reader)
        return reader

    def _collect_topics(self) -> None:
        found: dict[str, Topic] = {}
        for part in self._parts:
            for connection in part.reader.connections:
                topic = _topic(connection, part.kind == '.bag')
                seen = found.get(topic.name)
                found[topic.name] = topic if seen is None else replace(
                    seen, count=seen.count + topic.count, latched=seen.latched or topic.latched)
        self.topics = dict(sorted(found.items()))
        self.warnings += [f'{topic.name}: serialisation is not CDR; left out'
                          for topic in self.topics.values() if not topic.readable]

    def _read(self, part: _Part, wanted: dict[str, Topic]) -> Iterator[Record]:
        connections = [entry for entry in part.reader.connections
                       if _topic(entry, part.kind == '.bag').name in wanted]
        if not connections:
            return
        last = -1
        messages = part.messages(connections)
        while True:
            try:
                connection, stamp, data = next(messages)
            except StopIteration:
                return
            except Exception as error:  # noqa: BLE001  broken bytes fail in any way
                yield from self._read_rest(part, wanted, last, error)
                return
            last = max(last, stamp)
            try:
                whole = _unpacked(data)
            except (zstd.ZstdError, TypeError, MemoryError) as error:
                self.warnings.append(f'{connection.topic}: message at {stamp} ns cannot be '
                                     f'unpacked ({_reason(error)})')
                whole = b''  # its reader reports it as undecodable
            yield Record(wanted[slashed(connection.topic)], stamp, whole)

    def _read_rest(self, part: _Part, wanted: dict[str, Topic], last: int,
                   error: Exception) -> Iterator[Record]:
        """Go on in a mended copy behind the messages already read, or stop with a warning."""
        if part.path not in self._rests:  # later passes end here, too: one copy and one warning
            self._rests[part.path] = self._rest(part, error)
        rest = self._rests[part.path]
        if rest is not None:
            yield from (record for record in self._read(rest, wanted) if record.stamp_ns > last)

    def _rest(self, part: _Part, error: Exception) -> _Part | None:
        place = f'{part.path.name}: {_reason(error)}'
        try:
            if not part.mended and part.kind in _MENDERS:
                room = Path(self._stack.enter_context(
                    tempfile.TemporaryDirectory(prefix='cooper-bag-')))
                copy, note = _mended_copy(part.path, part.kind, room)
                whole = _Part(copy, part.kind, self._enter(copy, part.kind), mended=True)
                self.warnings.append(f'{place}; went on in a mended copy: {note}')
                return whole
        except OutOfDisk:
            raise
        except Exception:  # noqa: BLE001, S110  as above; what follows says it
            pass
        self.warnings.append(f'{place}; the rest is lost')
        return None


@contextmanager
def _room_for_a_copy(file: Path) -> Iterator[None]:
    """Name a full temporary folder as such: it is no fault of the recording."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if not full and 'disk is full' not in str(error):  # SQLite has words only, on Python 3.10
            raise
        raise OutOfDisk('a damaged or packed recording is copied before it is read, and the copy '
                        'does not fit', value=file.name,
                        limit=f'the free space of {tempfile.gettempdir()}',
                        remedy='set TMPDIR to a folder with room for the whole recording'
                        ) from error


def _mended_copy(path: Path, kind: str, room: Path) -> tuple[Path, str]:
    with _room_for_a_copy(path):
        return _MENDERS[kind](path, room)


def _storage_files(path: Path, warnings: list[str]) -> list[Path]:
    """List the storage files that a path stands for, in natural order of their names."""
    if not path.exists():
        raise BadBag('no such recording', value=str(path), remedy='check the path')
    if path.is_file():
        if path.name == 'metadata.yaml':
            return _storage_files(path.parent, warnings)
        return [path]
    files = sorted((file for file in path.iterdir()
                    if file.name.endswith(SUFFIXES) and file.is_file()),
                   key=lambda file: [int(part) if part.isdigit() else part
                                     for part in re.split(r'(\d+)', file.name)])
    listed = _listed_files(path, warnings)
    missing = sorted(listed - {file.name for file in files})
    if missing:
        warnings.append(f'{len(missing)} of {len(listed)} splits are missing: '
                        + ', '.join(missing[:5]) + (', ...' if len(missing) > 5 else ''))
    if not files:
        raise BadBag('the folder holds no recording', value=str(path),
                     limit=' '.join(SUFFIXES), remedy='give the folder of the bag itself')
    return _without_twins(files, warnings)


def _without_twins(files: list[Path], warnings: list[str]) -> list[Path]:
    """Drop what lies there packed and unpacked: every message would come twice."""
    twins = [file for file in files if file.suffix == '.zstd' and file.with_suffix('') in files]
    warnings += [f'left out: {file.name}, which lies there unpacked too' for file in twins]
    return [file for file in files if file not in twins]


def _listed_files(folder: Path, warnings: list[str]) -> set[str]:
    """Return the split names that ``metadata.yaml`` promises; none when it is unreadable."""
    path = folder / 'metadata.yaml'
    if not path.exists():
        return set()
    try:
        info = yaml.safe_load(path.read_bytes())['rosbag2_bagfile_information']
        return {Path(name).name for name in info['relative_file_paths']}
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError) as error:
        warnings.append(f'metadata.yaml cannot be used ({_reason(error)}); read the files alone')
        return set()


def _plain_file(file: Path, room: Path) -> tuple[Path, str]:
    """Unpack a compressed storage file; give every file a name its reader accepts."""
    if _head(file).startswith(ZSTD_MAGIC):
        target = room / file.stem
        try:
            with zstd.open(file, 'rb') as source, target.open('wb') as out:
                shutil.copyfileobj(source, out)
        except (zstd.ZstdError, EOFError) as error:
            raise BadBag('the recording cannot be unpacked', value=f'{file}: {_reason(error)}',
                         remedy=REMEDY) from error
        return _plain_file(target, room)
    kind = _kind(file)
    name = re.sub(r'[^\w.-]', '_', file.stem)  # SQLite reads `?` and `#` in names as a query
    link = room / f'{name}{kind}'
    if link != file and not link.exists():
        link.symlink_to(file.resolve())
    return link, kind


def _kind(file: Path) -> str:
    head = _head(file)
    for magic, kind in _MAGICS.items():
        if head.startswith(magic):
            return kind
    what = 'the file is empty' if not head else 'the file is not a recording'
    raise BadBag(what, value=str(file), limit='mcap, sqlite3 or ROS 1 bag', remedy=REMEDY)


def _head(file: Path) -> bytes:
    try:
        with file.open('rb') as source:
            return source.read(16)
    except OSError as error:
        raise BadBag('the file cannot be opened', value=f'{file}: {error.strerror}',
                     remedy='check its permissions') from error


def _topic(connection: Connection, ros1: bool) -> Topic:
    qos, encoding = [], 'ros1'
    if isinstance(connection.ext, ConnectionExtRosbag2):
        qos, encoding = connection.ext.offered_qos_profiles, connection.ext.serialization_format
    return Topic(
        slashed(connection.topic), mend.ros2_name(connection.msgtype), connection.msgcount,
        ros1, readable=ros1 or encoding == 'cdr',
        reliable=not (qos and all(one.reliability.name == 'BEST_EFFORT' for one in qos)),
        latched=_is_latched(connection))


def _is_latched(connection: Connection) -> bool:
    """Whether late listeners got what was published before; fixed transforms count as such where
    the recording does not say it."""
    if isinstance(connection.ext, ConnectionExtRosbag2) and connection.ext.offered_qos_profiles:
        return all(one.durability.name == 'TRANSIENT_LOCAL'
                   for one in connection.ext.offered_qos_profiles)
    latching = getattr(connection.ext, 'latching', None)  # ROS 1
    return bool(latching) or connection.topic.rpartition('/')[2] == TF_STATIC


def slashed(name: str) -> str:
    """A topic name from the root; ROS 1 bags hold relative ones, and people type them."""
    return name if name.startswith('/') else f'/{name}'


def _unpacked(data: bytes) -> bytes:
    if not bytes(data[:4]) == ZSTD_MAGIC:
        return data
    return zstd.ZstdDecompressor().decompress(data, MAX_MESSAGE_BYTES)


def _has_content(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def _close(reader: Reader) -> None:
    try:
        reader.close()
    except Exception:  # noqa: BLE001, S110  a reader of a damaged file may fail to close, too
        pass


def _reason(error: BaseException) -> str:
    """One line without the remains of a nested tuple message."""
    text = str(error.args[0]) if error.args else ''
    return ' '.join(text.split()) or type(error).__name__
