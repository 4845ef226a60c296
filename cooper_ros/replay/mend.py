"""Make damaged recordings readable: copy what is whole into a temporary file.

A robot that loses power leaves an MCAP without its end, an SQLite file with an unmerged
write-ahead log, or a ROS 1 bag without an index. What was flushed before is still good.
Formats: mcap.dev/spec, sqlite.org/wal.html, wiki.ros.org/Bags/Format/2.0.
"""

from __future__ import annotations

import io
import shutil
import sqlite3
import struct
from bz2 import decompress as bz2_decompress
from pathlib import Path
from typing import BinaryIO, Iterator

from lz4.frame import decompress as lz4_decompress
from rosbags.interfaces import Connection
from rosbags.rosbag1 import Writer as Ros1Writer

MCAP_MAGIC = b'\x89MCAP0\r\n'
SQLITE_MAGIC = b'SQLite format 3\x00'
ROS1_MAGIC = b'#ROSBAG V2.0\n'
_MCAP_HEAD = 9  # bytes before the body of a record: opcode and length
_HEADER, _FOOTER, _CHUNK, _DATA_END = 0x01, 0x02, 0x06, 0x0F
_SQLITE_TABLES = """
CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT, type TEXT, serialization_format TEXT);
CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp INTEGER, data BLOB);
"""
_PROFILE = b'\x04\x00\x00\x00ros2'


def mend_mcap(path: Path, folder: Path) -> tuple[Path, str]:
    """Copy the whole records of an MCAP and close the copy properly.

    The profile becomes ``ros2``: recorders other than rosbag2 leave it empty.

    Returns:
        the copy, and one sentence on what was done.
    """
    target = folder / f'{path.stem}.mended.mcap'
    size = path.stat().st_size
    with path.open('rb') as source, target.open('wb') as out:
        kept, lost = out.write(source.read(len(MCAP_MAGIC))), 0
        for op, length, whole in _mcap_records(source, size):
            if whole:
                out.write(_mcap_record(source, op, length))
                kept += _MCAP_HEAD + length
            lost += not whole
        out.write(bytes([_DATA_END]) + struct.pack('<QI', 4, 0))
        out.write(bytes([_FOOTER]) + struct.pack('<QQQI', 20, 0, 0, 0) + MCAP_MAGIC)
    return target, (f'kept {kept} of {size} bytes, chunks left out as damaged: {lost}; the rest '
                    'is cut off or an index')


def mend_sqlite(path: Path, folder: Path) -> tuple[Path, str]:
    """Merge a write-ahead log that the recorder had no time to merge, in a copy."""
    target = folder / f'{path.stem}.merged.db3'
    shutil.copyfile(path, target)
    shutil.copyfile(wal_of(path), wal_of(target))
    connection = sqlite3.connect(target)
    try:
        connection.execute('PRAGMA wal_checkpoint(TRUNCATE)').fetchall()
        connection.execute('PRAGMA journal_mode=DELETE').fetchall()
    finally:
        connection.close()
    return target, 'merged its write-ahead log in a copy'


def mend_sqlite_rows(path: Path, folder: Path) -> tuple[Path, str]:
    """Copy the rows of a damaged database that can still be read, in the order of recording."""
    target = folder / f'{path.stem}.mended.db3'
    source = sqlite3.connect(f'file:{path}?immutable=1', uri=True)
    out = sqlite3.connect(target)
    try:
        source.execute('PRAGMA writable_schema=ON')  # else a file cut short is not read at all
        out.executescript(_SQLITE_TABLES)
        out.executemany('INSERT INTO topics VALUES(?, ?, ?, ?)', source.execute(
            'SELECT id, name, type, serialization_format FROM topics'))
        count = _copy_rows(source, out)
        out.commit()
    finally:
        source.close()
        out.close()
    return target, f'{count} messages found'


def wal_of(path: Path) -> Path:
    """Return the path of a database's write-ahead log."""
    return path.with_name(path.name + '-wal')


def mend_ros1(path: Path, folder: Path) -> tuple[Path, str]:
    """Rebuild the index of a ROS 1 bag from its chunks, as `rosbag reindex` does."""
    target = folder / f'{path.stem}.reindexed.bag'
    known: dict[int, Connection] = {}
    count = 0
    with path.open('rb') as source, Ros1Writer(target) as writer:
        for header, data in _ros1_flat_records(source):
            number = int.from_bytes(header.get(b'conn', b''), 'little')
            if header.get(b'op') == b'\x07' and number not in known:
                known[number] = _ros1_connection(writer, header, data, number)
            elif header.get(b'op') == b'\x02' and number in known:
                seconds, nanoseconds = struct.unpack('<LL', header[b'time'])
                writer.write(known[number], seconds * 10**9 + nanoseconds, data)
                count += 1
    return target, f'rebuilt its index, {count} messages found'


def _copy_rows(source: sqlite3.Connection, out: sqlite3.Connection) -> int:
    """Copy messages until the first one whose pages are gone."""
    count = 0
    for row in _rows(source):
        out.execute('INSERT INTO messages(topic_id, timestamp, data) VALUES(?, ?, ?)', row)
        count += 1
    return count


def _rows(source: sqlite3.Connection) -> Iterator[tuple]:
    """Read on its own: an error of the copy, such as a full disk, is no end of the rows."""
    try:
        yield from source.execute('SELECT topic_id, timestamp, data FROM messages ORDER BY id')
    except sqlite3.DatabaseError:
        return


def _mcap_records(source: BinaryIO, size: int) -> Iterator[tuple[int, int, bool]]:
    """Yield (opcode, length, whether whole) of each record before the summary that is not cut.

    The source is at its body then. Damage is looked for in chunks only.
    """
    while True:
        head = source.read(_MCAP_HEAD)
        if len(head) < _MCAP_HEAD or head[0] in (_DATA_END, _FOOTER, 0):
            return
        op, length = head[0], int.from_bytes(head[1:], 'little')
        if source.tell() + length > size:
            return
        following = source.tell() + length
        whole = op != _CHUNK or _chunk_is_whole(source, length)
        source.seek(following - length)
        yield op, length, whole
        source.seek(following)


def _mcap_record(source: BinaryIO, op: int, length: int) -> bytes:
    body = source.read(length)
    if op == _HEADER:
        profile = int.from_bytes(body[:4], 'little')
        body = _PROFILE + body[4 + profile:]
    return bytes([op]) + struct.pack('<Q', len(body)) + body


def _chunk_is_whole(source: BinaryIO, length: int) -> bool:
    from rosbags.rosbag2.storage_mcap import decompress
    try:
        _, _, size, crc, name = struct.unpack('<QQQII', source.read(32))
        compression = source.read(name).decode()
        packed = int.from_bytes(source.read(8), 'little')
        if packed > length:
            return False
        decompress(source.read(packed), compression, size, crc)
        return True
    except Exception:  # noqa: BLE001  damaged bytes fail in any way; the chunk is then left out
        return False


def _ros1_flat_records(source: BinaryIO) -> Iterator[tuple[dict[bytes, bytes], bytes]]:
    """Yield (header, data) of every record, those inside chunks included, until damage."""
    if source.read(len(ROS1_MAGIC)) != ROS1_MAGIC:
        return
    for header, data in _ros1_records(source):
        if header.get(b'op') == b'\x05':
            yield from _ros1_records(io.BytesIO(_ros1_chunk(header, data)))
        else:
            yield header, data


def _ros1_records(source: BinaryIO) -> Iterator[tuple[dict[bytes, bytes], bytes]]:
    while (head := _sized(source)) is not None:
        header = dict(_ros1_fields(head))
        data = _sized(source, cut=header.get(b'op') == b'\x05')
        if data is None:
            return
        yield header, data


def _ros1_fields(header: bytes) -> Iterator[tuple[bytes, bytes]]:
    source = io.BytesIO(header)
    while (field := _sized(source)) is not None:
        name, _, value = field.partition(b'=')
        yield name, value


def _ros1_chunk(header: dict[bytes, bytes], data: bytes) -> bytes:
    kind = header.get(b'compression')
    try:
        if kind == b'bz2':
            return bz2_decompress(data)
        return lz4_decompress(data) if kind == b'lz4' else data
    except (OSError, RuntimeError, EOFError, ValueError):
        return b''


def _ros1_connection(writer: Ros1Writer, header: dict[bytes, bytes], data: bytes, number: int
                     ) -> Connection:
    fields = dict(_ros1_fields(data))
    # Several nodes may publish on one topic, and the writer refuses two that are alike.
    return writer.add_connection(
        header[b'topic'].decode(), ros2_name(fields[b'type'].decode()),
        msgdef=fields[b'message_definition'].decode(), md5sum=fields[b'md5sum'].decode(),
        callerid=str(number), latching=int(fields.get(b'latching') == b'1'))


def ros2_name(name: str) -> str:
    """``sensor_msgs/Image`` (ROS 1, Dashing) becomes ``sensor_msgs/msg/Image``."""
    return name if name.count('/') != 1 else name.replace('/', '/msg/')


def _sized(source: BinaryIO, cut: bool = False) -> bytes | None:
    """Read a length and that many bytes; None where bytes are missing, unless a cut will do."""
    head = source.read(4)
    if len(head) < 4:
        return None
    length = int.from_bytes(head, 'little')
    data = source.read(length)
    return data if cut or len(data) == length else None
