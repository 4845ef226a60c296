"""Train, validation and test: different seeds, and object kinds the training never shows.

A scene belongs to a split in two independent ways. Its absolute seed lies in the split's range,
and every validation or test scene holds at least one (colour, shape) pair that is reserved for
that split. So no scene of one split can occur in another, even by chance.
"""

from __future__ import annotations

from typing import Iterable

from cooper_ros.errors import BadOption
from cooper_ros.scenes.palette import COLOURS, SHAPES

SPLITS = ('train', 'validation', 'test')
SPLIT_SIZE = 2**30  # scenes per split; absolute seeds stay below 2**32
SPLIT_START = {'train': 0, 'validation': SPLIT_SIZE, 'test': 2 * SPLIT_SIZE}

Pair = tuple[str, str]  # (colour, shape)
HELD_OUT: dict[str, tuple[Pair, ...]] = {
    'train': (),
    'validation': (('cyan', 'box'), ('black', 'ball'), ('yellow', 'can'), ('red', 'egg')),
    'test': (('red', 'cup'), ('orange', 'pill'), ('green', 'egg'), ('blue', 'can'),
             ('purple', 'box'), ('yellow', 'ball')),
}
_RESERVED = {pair for pairs in HELD_OUT.values() for pair in pairs}
COMMON_PAIRS: tuple[Pair, ...] = tuple(
    (colour, shape) for colour in COLOURS for shape in SHAPES if (colour, shape) not in _RESERVED)


def names_held_out(text: str, split: str) -> bool:
    """Whether a text names a thing that is reserved for a split, such as ``green egg``."""
    return any(f'{colour} {shape}' in text for colour, shape in HELD_OUT[split])


def absolute_seed(seed: int, split: str) -> int:
    """Turn a seed counted within a split, 0 .. 2**30-1, into the absolute seed of the scene.

    Raises:
        BadOption: the split is unknown or the seed outside its range.
    """
    if split not in SPLITS:
        raise BadOption('unknown split', value=repr(split), limit=', '.join(SPLITS))
    if not 0 <= seed < SPLIT_SIZE:
        raise BadOption('scene seed out of range', value=seed, limit=f'0 .. {SPLIT_SIZE - 1}')
    return SPLIT_START[split] + seed


def split_of(seed: int) -> str:
    """Return the split whose range holds an absolute scene seed.

    Raises:
        BadOption: no split holds it.
    """
    if not 0 <= seed < SPLIT_SIZE * len(SPLITS):
        raise BadOption('absolute scene seed out of range', value=seed,
                        limit=f'0 .. {SPLIT_SIZE * len(SPLITS) - 1}')
    return SPLITS[seed // SPLIT_SIZE]


def split_of_pairs(pairs: Iterable[Pair]) -> str:
    """Return the split that a set of (colour, shape) pairs can only come from.

    Raises:
        BadOption: the pairs mix the reserved pairs of two splits.
    """
    pairs = set(pairs)
    owners = [split for split in SPLITS if pairs & set(HELD_OUT[split])]
    if len(owners) > 1:
        raise BadOption('pairs reserved for two splits', value=sorted(pairs), limit=owners)
    return owners[0] if owners else 'train'
