"""The folder of compiled engines: nothing in it is trusted before it is proved.

An engine is three things: ``NAME.engine``, ``NAME.json`` (its key, interface, size, SHA-256) and
``NAME.lock``. The JSON file is written last, so an engine without it does not exist, and one
beside that of an older engine is damaged. It has a SHA-256 of its own, for what it says of sizes
and options decides which engines are found. Files with other names than ours are not looked at:
the folder may be one of somebody else, named by mistake.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, TypeVar

from cooper_ros.errors import EngineMismatch
from cooper_ros.runtime.engines.key import FORMAT, EngineKey
from cooper_ros.runtime.engines.rights import Who, Writers, require_private, writers
from cooper_ros.runtime.files import (
    CACHE_FLAG,
    check_writable,
    discard,
    size_of,
    sweep,
    sync_folder,
    write_whole,
)
from cooper_ros.runtime.graphs.digest import Changed, check_seal, plain_digest, sealed
from cooper_ros.runtime.graphs.spec import PRECISIONS
from cooper_ros.runtime.locks import is_locked, locked, unwritten

ENGINE, DESCRIPTION, LOCK = '.engine', '.json', '.lock'
KERNELS = '.kernels'  # what TensorRT for RTX compiled of an engine while it ran; code, too
# of an engine, see EngineKey.name
NAME = re.compile(f'[a-z0-9_]+-({"|".join(PRECISIONS)})-SM[0-9]+-[0-9a-f]{{16}}')
DESCRIBED = {'key': dict, 'interface': list, 'bytes': int, 'sha256': str, 'facts': dict}
ROW = (str, str, list, str)  # of an interface: name, direction, shape, type
UNREADABLE = (OSError, ValueError, KeyError, TypeError, RecursionError)  # of a description
SEAL = 'seal'  # of a description; ``sha256`` is that of the engine
PAUSE, PAUSES = 0.1, 50  # seconds, and how many of them a reader waits for who writes an engine
SHOWN = 4  # entries of an interface named in a message
Made = TypeVar('Made')


@dataclass(frozen=True)
class BuiltEngine:
    """What a build hands over.

    Attributes:
        content: the serialised engine.
        interface: names, directions, shapes and types of its inputs and outputs.
        facts: what is good to know later: seconds, limits, options, versions.
        afterwards: called when the engine is stored; must not raise.
    """

    content: bytes | memoryview
    interface: list[list[Any]]
    facts: dict[str, Any]
    afterwards: Callable[[], None] = field(default=lambda: None, compare=False, repr=False)


@dataclass(frozen=True)
class Entry:
    """An engine in the cache; nothing about it has been proved yet.

    Attributes:
        name: of its files, without suffix.
        key: what it says it was built from; None when its description cannot be read, or is all
            that is left of it.
        bytes: size on disk.
        facts: see :class:`BuiltEngine`.
    """

    name: str
    key: EngineKey | None
    bytes: int
    facts: dict[str, Any]


class EngineCache:
    """Engines in one private folder.

    Args:
        folder: made when something is first stored, readable by its owner only.
        rebuild: command shown to the reader where an engine must be built again.
    """

    def __init__(self, folder: Path, rebuild: str = 'cooper engine build CHECKPOINT') -> None:
        self.folder, self.rebuild = folder, rebuild

    def store(self, key: EngineKey, build: Callable[[], BuiltEngine], *,
              force: bool = False) -> Path:
        """Build an engine and keep it, or find that it is already there and sound.

        Where it is, nothing is written: the folder may be one to be read only.

        Args:
            key: what is built.
            build: called under the lock of this engine, at most once.
            force: build although a sound one exists, which stays until the new one is written.

        Returns:
            the engine file.

        Raises:
            EngineBuild: raised by ``build``.
            OutOfDisk: it does not fit the disk.
            Unwritable: the folder cannot be written.
            BadOption: anyone may write the folder.
        """
        require_private(self.folder)
        if not force and self._is_sound(key):
            return self._file(key.name, ENGINE)
        with locked(self._file(key.name, LOCK), flag=CACHE_FLAG):
            check_writable(self.folder)  # the lock may have been there, and building takes minutes
            sweep(self.folder, key.name, CACHE_FLAG)
            sound = self._is_sound(key)
            if not sound:
                self._drop(key.name)  # of no use, and its room may be needed
            if force or not sound:
                built = build()
                self._write(key, built)
                built.afterwards()
        return self._file(key.name, ENGINE)

    def load(self, key: EngineKey, interface: list[list[Any]]) -> bytes:
        """Read an engine after proving that it is the one wanted.

        Args:
            key: what it must have been built from.
            interface: names, directions, shapes and types it must have.

        Raises:
            EngineMismatch: it is absent, damaged, or built for something else; both sides and
                the command to run are named. Or anyone may have written it.
        """
        self._require_trust(key.name)
        return self._steadily(key, lambda: self._read(key, interface))

    def _read(self, key: EngineKey, interface: list[list[Any]]) -> bytes:
        described = self.expect(key, interface)
        content = self._content(key.name, described['bytes'])
        digest = hashlib.sha256(content).hexdigest()
        if digest != described['sha256']:
            raise self._mismatch(f'compiled engine {key.name} is damaged', digest[:12],
                                 described['sha256'][:12])
        return content

    def _steadily(self, key: EngineKey, read: Callable[[], Made]) -> Made:
        """Read an engine again where it is refused while somebody writes it.

        A builder holds its lock for minutes, and for a moment of them the new engine lies beside
        the old description. So a reader takes no lock, but waits for that moment to pass.

        Raises:
            EngineMismatch: of the last try.
        """
        for _ in range(PAUSES):
            try:
                return read()
            except EngineMismatch:
                if not is_locked(self._file(key.name, LOCK)):
                    break
            time.sleep(PAUSE)
        return read()

    def expect(self, key: EngineKey, interface: list[list[Any]]) -> dict[str, Any]:
        """The description of an engine, compared with what is wanted; the engine is not read.

        Raises:
            EngineMismatch: as :meth:`load`, but for damage of the engine itself.
        """
        described = self._described(key)
        found = _key(described)
        if found != key:
            raise self._mismatch('a compiled engine was built for something else',
                                 '; '.join(found.differences(key)), 'what is asked for')
        self._compare_interface(described['interface'], interface, key)
        return described

    def entries(self) -> Iterator[Entry]:
        """Every engine in the folder, and every description that has lost its own, by names."""
        names = {path.stem for suffix in (ENGINE, DESCRIPTION)
                 for path in self.folder.glob(f'*{suffix}')}
        for name in sorted(filter(NAME.fullmatch, names)):
            if (entry := self._entry(name)) is not None:
                yield entry

    def _entry(self, name: str) -> Entry | None:
        path, description = self._file(name, ENGINE), self._file(name, DESCRIPTION)
        there = os.path.lexists(path)
        key, facts = _said(description) if there else (None, {})
        try:
            return Entry(name, key, (path if there else description).lstat().st_size, facts)
        except OSError:
            return None  # somebody has just removed it, or the folder is closed to us

    def check(self, entry: Entry, held: Callable[[], None] = lambda: None) -> str:
        """Prove that an engine is what its description says; empty when it is.

        One that is being built is waited for.

        Args:
            entry: which; read again once nobody writes it.
            held: called before waiting.
        """
        with unwritten(self._file(entry.name, LOCK), held):
            return self.fault(self._entry(entry.name) or entry)

    def fault(self, entry: Entry) -> str:
        """As :meth:`check`, under a lock that the caller holds."""
        if not os.path.lexists(self._file(entry.name, ENGINE)):
            return 'the engine is gone, and its description is of no use'
        if entry.key is None:
            return 'no readable description beside it, or a changed one; it is never used'
        if entry.key.format != FORMAT:
            return (f'of another version: format {entry.key.format}, not {FORMAT}; it is never '
                    'used')
        if entry.key.name != entry.name:
            return 'its description belongs to another engine; it is never used'
        try:
            self._prove(entry.key)
        except EngineMismatch as error:
            return str(error)
        return ''

    def is_sound(self, key: EngineKey) -> bool:
        """Whether an engine is there and is what its key says; reads all of it."""
        return self._passes(key, lambda: self._steadily(key, lambda: self._prove(key)))

    def _is_sound(self, key: EngineKey) -> bool:
        """As :meth:`is_sound`, without waiting: for a builder, who takes the lock himself."""
        return self._passes(key, lambda: self._prove(key))

    def _passes(self, key: EngineKey, prove: Callable[[], None]) -> bool:
        try:
            self._require_trust(key.name)
            prove()
        except EngineMismatch:
            return False
        return True

    def writers(self, names: Iterable[str] = ()) -> Writers:
        """Who may write the folder, or the files of engines in it.

        Args:
            names: of engines.
        """
        return writers(self.folder, (self._file(name, suffix) for name in names
                                     for suffix in (ENGINE, DESCRIPTION, KERNELS)))

    def _require_trust(self, name: str) -> None:
        """Refuse what anyone may have put here.

        Raises:
            EngineMismatch: naming what anyone may write.
        """
        found = self.writers([name])
        if found.who == Who.ANYONE:
            raise EngineMismatch(f'anyone may have put compiled engine {name} here',
                                 value=f'{found.path}, which anyone may write',
                                 limit='files that only their users may write',
                                 remedy=f'{found.remedy}, then `{self.rebuild} --force`')

    def remove(self, name: str, only_if: Callable[[Entry], bool] = lambda entry: True,
               held: Callable[[], None] = lambda: None) -> int | None:
        """Remove an engine; returns the bytes that became free, None where nothing was removed.

        Its lock stays: whoever waits for it would hold a file without a name, and the next one
        another file of that name.

        Args:
            name: of its files.
            only_if: asked about what is there under the lock: a builder may just have finished it.
            held: called before waiting for a builder.

        Raises:
            Unwritable: the folder cannot be written.
        """
        with locked(self._file(name, LOCK), held, CACHE_FLAG):
            sweep(self.folder, name, CACHE_FLAG)
            entry = self._entry(name)
            if entry is None or not only_if(entry):
                return None
            freed = size_of(self._file(name, ENGINE))
            self._drop(name)
        return freed

    def _file(self, name: str, suffix: str) -> Path:
        return self.folder / f'{name}{suffix}'

    def _prove(self, key: EngineKey) -> None:
        """Read an engine whose interface must be the one that its key has the fingerprint of.

        Raises:
            EngineMismatch: as :meth:`load`.
        """
        interface = self._described(key)['interface']
        if plain_digest(interface) != key.interface:
            raise self._mismatch(f'compiled engine {key.name} has other inputs or outputs',
                                 _rows(interface), 'those of its key')
        self._read(key, interface)

    def _write(self, key: EngineKey, built: BuiltEngine) -> None:
        """Until the last line is done, an older description has another digest."""
        described = {'key': asdict(key), 'interface': built.interface, 'facts': built.facts,
                     'bytes': len(built.content),
                     'sha256': hashlib.sha256(built.content).hexdigest()}
        description = sealed(described, SEAL).encode()  # before, for it takes seconds
        write_whole(self._file(key.name, ENGINE), built.content, CACHE_FLAG)
        discard(self._file(key.name, KERNELS), CACHE_FLAG)  # of the engine that was there
        write_whole(self._file(key.name, DESCRIPTION), description, CACHE_FLAG)

    def _drop(self, name: str) -> None:
        """Remove description first: without it the engine counts as absent."""
        for suffix in (DESCRIPTION, ENGINE, KERNELS):
            discard(self._file(name, suffix), CACHE_FLAG)
            sync_folder(self.folder)

    def _described(self, key: EngineKey) -> dict[str, Any]:
        """The description of an engine whose both files exist.

        Raises:
            EngineMismatch: there is none, or none that can be read.
        """
        description = self._file(key.name, DESCRIPTION)
        if not os.path.lexists(description) or not os.path.lexists(self._file(key.name, ENGINE)):
            raise self._absent(key)
        try:
            return _parsed(description)
        except UNREADABLE as error:
            found = str(error) if isinstance(error, Changed) else type(error).__name__
            raise self._mismatch(f'the description of compiled engine {key.name} is damaged',
                                 found, 'what `cooper engine build` wrote') from error

    def _content(self, name: str, size: int) -> bytes:
        """Read an engine of so many bytes; what is no file, or endless, is never opened."""
        path = self._file(name, ENGINE)
        try:
            found = f'{path.stat().st_size} bytes' if path.is_file() else 'no regular file'
            if found == f'{size} bytes':
                return path.read_bytes()
        except OSError as error:
            raise self._mismatch(f'compiled engine {name} cannot be read', error.strerror,
                                 'a file that can be read') from error
        raise self._mismatch(f'compiled engine {name} is not the file that was written', found,
                             f'{size} bytes')

    def _absent(self, key: EngineKey) -> EngineMismatch:
        """No such engine; name how the nearest one differs."""
        others = [entry.key for entry in self.entries()
                  if entry.key is not None and entry.key.graph == key.graph]
        if not others:
            return self._mismatch(f'no compiled engine for graph {key.graph} in {self.folder}',
                                  'none', f'{key.graph} in {key.precision} for {key.arch}')
        nearest = min(others, key=lambda other: len(other.differences(key)))
        return self._mismatch(f'compiled engine for graph {key.graph} does not fit',
                              '; '.join(nearest.differences(key)), 'what is asked for')

    def _compare_interface(self, found: list, wanted: list, key: EngineKey) -> None:
        if found == wanted:
            return
        ours, theirs = ([row for row in one if row not in other]
                        for one, other in ((found, wanted), (wanted, found)))
        raise self._mismatch(f'compiled engine {key.name} has other inputs or outputs',
                             _rows(ours), _rows(theirs))

    def _mismatch(self, what: str, found: object, wanted: object) -> EngineMismatch:
        return EngineMismatch(what, value=found, limit=wanted, remedy=f'run `{self.rebuild}`')


def _parsed(description: Path) -> dict[str, Any]:
    """A description whose parts have the types that were written; else one of UNREADABLE.

    The seal of one of another version is not looked at: its engine is never used.
    """
    if not description.is_file():  # a pipe would wait for a writer
        raise OSError(f'{description} is no regular file')
    described = json.loads(description.read_text())
    wrong = [name for name, kind in DESCRIBED.items() if type(described[name]) is not kind]
    wrong += [row for row in described['interface'] if tuple(map(type, row)) != ROW]
    if wrong:
        raise TypeError(f'{description} has other types at {wrong}')
    if _key(described).format == FORMAT:
        check_seal(described, SEAL)
    return described


def _said(description: Path) -> tuple[EngineKey | None, dict[str, Any]]:
    """Key and facts of a description; nothing where it cannot be read."""
    try:
        described = _parsed(description)
        return _key(described), described['facts']
    except UNREADABLE:
        return None, {}


def _key(described: dict[str, Any]) -> EngineKey:
    key = EngineKey.from_dict(described['key'])
    if not all(isinstance(value, int if name == 'format' else str)
               for name, value in asdict(key).items()):
        raise TypeError(f'{key} has other types')
    return key


def _rows(rows: list[list[Any]]) -> str:
    shown = ', '.join(f'{name} {shape} {kind}' for name, _, shape, kind in rows[:SHOWN])
    return shown + (f' and {len(rows) - SHOWN} more' if len(rows) > SHOWN else '') or 'nothing'
