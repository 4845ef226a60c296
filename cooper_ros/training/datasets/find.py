"""Finding picture/target pairs in a folder, by layout or by a published list."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Iterator, Sequence

from cooper_ros.errors import BadData
from cooper_ros.runtime.folders import files
from cooper_ros.training.datasets.damage import JSON_ERRORS
from cooper_ros.training.datasets.samples import Pair

PICTURES = ('.png', '.jpg', '.jpeg')
ID_KEYS = ('data_id', 'data_idx')
Partner = Callable[[Path], Path | None]


@dataclass
class Found:
    """What a folder holds.

    Attributes:
        pairs: pictures with a target file beside them, in a stable order.
        problems: what kind of thing is wrong -> where, one entry each.
        absent: the same of what the set has and the folder has nothing of, where that is known.
    """

    pairs: list[Pair] = field(default_factory=list)
    problems: dict[str, list[str]] = field(default_factory=dict)
    absent: dict[str, list[str]] = field(default_factory=dict)

    def problem(self, what: str, where: object) -> None:
        """Note one problem."""
        self.problems.setdefault(what, []).append(str(where))

    def files(self, root: Path) -> Iterator[Path]:
        """A file of everything that a layout has found below ``root``, halves of pairs too."""
        yield from (pair.rgb for pair in self.pairs)
        for places in self.problems.values():
            yield from (root / place for place in places)


def pair_up(root: Path, is_picture: Callable[[Path], bool], partner: Partner,
            is_target: Callable[[Path], bool]) -> Found:
    """Pair every picture with the target file that belongs to it.

    Args:
        root: folder to search.
        is_picture: whether a file is a picture of the set.
        partner: where the target of a picture lies, or None if the set has none for it.
        is_target: whether a file is a target, to notice targets without a picture.
    """
    found, used = Found(), set()
    everything = list(files(root))
    present = set(everything)
    for path in filter(is_picture, everything):
        target = partner(path)
        if target is None or target not in present:
            found.problem('picture without target', path.relative_to(root))
            continue
        used.add(target)
        found.pairs.append(Pair(path, target, path.relative_to(root).with_suffix('').as_posix(),
                                root=root))
    for path in everything:
        if is_target(path) and path not in used:
            found.problem('target without picture', path.relative_to(root))
    return found


def pairs_of_list(listing: Path, target_key: str, root: Path | None = None) -> Found:
    """Read a published list: JSON lines with ``rgb_image`` and ``depth_image`` or ``seg_image``.

    Paths may be absolute, or relative to ``root``, to the folder of the list, or to its parent.

    Raises:
        BadData: the list cannot be read.
    """
    try:
        lines = listing.read_text(encoding='utf-8-sig').split('\n')  # nothing else ends a row
    except (OSError, UnicodeDecodeError) as error:
        raise BadData('the list cannot be read', value=f'{listing}: {error}') from error
    roots = [folder for folder in (root, listing.parent, listing.parent.parent) if folder]
    found = Found()
    for number, line in enumerate(lines, start=1):
        if line.strip():
            _add_row(found, line, f'{listing.name}:{number}', target_key, roots)
    return found


def _add_row(found: Found, line: str, where: str, target_key: str, roots: list[Path]) -> None:
    try:
        row = json.loads(line)
        rgb, target = str(row['rgb_image']), str(row[target_key])
    except (*JSON_ERRORS, TypeError, KeyError) as error:
        found.problem(f'row without rgb_image and {target_key}', f'{where}: {error!r}')
        return
    places = [_resolve(name, roots) for name in (rgb, target)]
    for name, place in zip((rgb, target), places):
        if place is None:
            found.problem('listed file missing', f'{where}: {name[:200]}')
    if places[0] and places[1]:
        name = next((str(row[key]) for key in ID_KEYS if key in row), Path(rgb).stem)
        found.pairs.append(Pair(places[0], places[1], name, root=roots[0], listed=where))


def scenes_of(pairs: Sequence[Pair]) -> list[str]:
    """The scene of every pair: the first folder in which the paths of their pictures differ.

    Names in lists say nothing certain about scenes, folders do.
    """
    paths = [os.path.abspath(pair.rgb).replace(os.sep, '/') for pair in pairs]
    shared = len(os.path.commonprefix(paths).rpartition('/')[0])
    return [path[shared:].lstrip('/').partition('/')[0] for path in paths]


def scene_by_scene(pairs: Sequence[Pair]) -> list[Pair]:
    """Pairs with the frames of each scene in a row, for a list may be shuffled.

    What is in such an order already stays as it is, and the last pair stays the last one.
    """
    scenes = scenes_of(pairs)
    last = {scene: index for index, scene in enumerate(scenes)}
    order = sorted(range(len(pairs)), key=lambda index: last[scenes[index]])  # sorting is stable
    return [pairs[index] for index in order]


def _resolve(name: str, roots: list[Path]) -> Path | None:
    # Path.is_file raises for names that are too long
    return next((root / name for root in roots if os.path.isfile(root / name)), None)
