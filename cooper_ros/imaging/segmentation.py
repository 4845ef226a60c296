"""From a drawn segmentation picture to label ids and a legend.

The network draws colours. A checkpoint with a palette says what they mean; without one the
picture is cut into regions of like colour, which have no names.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, Iterable, Mapping, Sequence

import cv2
import numpy as np

from cooper_ros.errors import BadCheckpoint

UNLABELED = 255
MAX_LABELS = 254  # ids 0..253 of regions; palettes may use 254 too, 255 stays free
MIXTURE_REACH = 2  # pixels from an edge that may be mixtures
PALETTE_DISTANCE = 64.0  # Euclidean distance in RGB, 0..255 per channel
REGION_STEP = 32  # width of a colour bin; bins are centred on its multiples
REGION_LIKENESS = 32.0  # touching regions whose mean colours are closer than this are one
REGION_SHARE = 1 / 1000  # regions with a smaller share of the picture join a neighbour


@dataclass(frozen=True)
class Label:
    """One entry of a segmentation legend.

    Attributes:
        id: value in the label mask, 0..254.
        name: class name where the checkpoint defines one, else ``region N``.
        rgb: colour of the class or region in the drawn map, 0..255 each.
        pixels: how many pixels of this map carry the id.
    """

    id: int
    name: str
    rgb: tuple[int, int, int]
    pixels: int = 0


def palette_from_rows(rows: Iterable[Mapping[str, Any]]) -> tuple[Label, ...]:
    """Read a palette: rows of ``{"id": 0, "name": "floor", "rgb": [r, g, b]}``.

    Raises:
        BadCheckpoint: a row is incomplete, out of range, or an id or colour occurs twice.
    """
    labels = tuple(_palette_row(row) for row in rows)
    for what in ('id', 'rgb'):
        values = [getattr(label, what) for label in labels]
        doubled = next((value for value in values if values.count(value) > 1), None)
        if doubled is not None:
            raise BadCheckpoint(f'the palette uses one {what} twice', value=doubled,
                                remedy='correct the palette of the model folder')
    return labels


def _palette_row(row: Mapping[str, Any]) -> Label:
    try:
        number, name = int(row['id']), str(row['name'])
        red, green, blue = (int(value) for value in row['rgb'])
    except (KeyError, TypeError, ValueError) as error:
        raise BadCheckpoint('a palette row is incomplete', value=row,
                            limit='{"id": 0, "name": "floor", "rgb": [0, 0, 0]}') from error
    if not (0 <= number < UNLABELED and all(0 <= c <= 255 for c in (red, green, blue))):
        raise BadCheckpoint('a palette row is out of range', value=row,
                            limit='id 0..254, colours 0..255')
    return Label(number, name, (red, green, blue))


def labels_from_palette(rgb: np.ndarray, palette: Sequence[Label],
                        max_distance: float = PALETTE_DISTANCE
                        ) -> tuple[np.ndarray, tuple[Label, ...]]:
    """Give every pixel the palette entry with the nearest colour.

    A drawn edge is a pixel or two of a mixture that is near no colour. Such a pixel gets the
    nearer of two classes beside it if it lies between their colours.

    Args:
        rgb: uint8 ``[H, W, 3]`` as drawn.
        palette: the classes of the checkpoint, at least one.
        max_distance: largest Euclidean colour distance, in 0..255 units, that still counts.

    Returns:
        uint8 ids ``[H, W]`` (255 where no colour is near enough), and the legend of those that
        occur, largest first.
    """
    packed = rgb.astype(np.int32) @ np.array([65536, 256, 1], np.int32)  # [H, W]
    colours, place = np.unique(packed, return_inverse=True)
    channels = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], axis=1)  # [U, 3]
    best = np.full(len(colours), max_distance ** 2 + 0.5)
    ids = np.full(len(colours), UNLABELED, np.uint8)
    for label in palette:
        distance = ((channels - np.array(label.rgb)) ** 2).sum(axis=1)  # [U]
        nearer = distance < best
        best[nearer], ids[nearer] = distance[nearer], label.id
    labels = ids[place].reshape(rgb.shape[:2])
    _settle_mixtures(labels, rgb, palette, max_distance)
    return labels, legend_of(labels, palette)


def _settle_mixtures(labels: np.ndarray, rgb: np.ndarray, palette: Sequence[Label],
                     max_distance: float) -> None:
    """Name the pixels without a class that lie between the colours of two classes beside them."""
    rows, columns = np.nonzero(labels == UNLABELED)
    around = np.ones((2 * MIXTURE_REACH + 1,) * 2, np.uint8)
    there = set(np.unique(labels).tolist())
    beside = {label: cv2.dilate((labels == label.id).astype(np.uint8), around)[rows, columns] > 0
              for label in palette if label.id in there}
    colours = rgb[rows, columns].astype(np.float64)  # [N, 3]
    best, found = np.full(len(rows), max_distance), labels[rows, columns]
    for one, other in itertools.combinations(beside, 2):
        start, way = np.array(one.rgb, np.float64), np.subtract(other.rgb, one.rgb)
        share = np.clip((colours - start) @ way / max(way @ way, 1), 0, 1)
        off = np.linalg.norm(colours - start - share[:, None] * way, axis=1)
        better = beside[one] & beside[other] & (off < best)
        best[better] = off[better]
        found[better] = np.where(share < 0.5, one.id, other.id)[better]
    labels[rows, columns] = found


def legend_of(labels: np.ndarray, palette: Sequence[Label]) -> tuple[Label, ...]:
    """The palette entries that occur in an id mask, with pixel counts, largest first."""
    counts = np.bincount(labels.ravel(), minlength=256)
    found = [Label(entry.id, entry.name, entry.rgb, int(counts[entry.id]))
             for entry in palette if counts[entry.id]]
    return tuple(sorted(found, key=lambda entry: (-entry.pixels, entry.id)))


def labels_from_regions(rgb: np.ndarray) -> tuple[np.ndarray, tuple[Label, ...]]:
    """Cut a drawn picture into regions of like colour.

    Colours are put into bins after a median filter; connected pixels of one bin form a region;
    touching regions of like mean colour are joined; what is then smaller than a thousandth of
    the picture goes to the nearest larger region.

    Args:
        rgb: uint8 ``[H, W, 3]`` as drawn.

    Returns:
        uint8 ids ``[H, W]``, 0 for the largest region, and the legend, at most 254 entries.
    """
    smooth = cv2.medianBlur(np.ascontiguousarray(rgb), 3)
    pieces = _connected(_colour_bins(smooth))  # int32 [H, W]
    pieces = _join_alike(pieces, rgb)
    labels = _keep_largest(pieces)
    return labels, _region_legend(labels, rgb)


def _colour_bins(rgb: np.ndarray) -> np.ndarray:
    """uint8 ``[H, W, 3]`` -> one bin number per pixel, int32; multiples of the step centred."""
    bins = (rgb.astype(np.int32) + REGION_STEP // 2) // REGION_STEP  # 0 .. 8 each
    return bins @ np.array([256, 16, 1], np.int32)


def _connected(bins: np.ndarray) -> np.ndarray:
    """Number the 4-connected areas of equal value, from 0, in one pass over a doubled grid.

    Pixels sit on the even places; the odd places between two equal pixels are bridges.
    """
    height, width = bins.shape
    doubled = np.zeros((2 * height - 1, 2 * width - 1), np.uint8)
    doubled[::2, ::2] = 1
    doubled[1::2, ::2] = bins[1:] == bins[:-1]
    doubled[::2, 1::2] = bins[:, 1:] == bins[:, :-1]
    return cv2.connectedComponents(doubled, connectivity=4)[1][::2, ::2] - 1


def _join_alike(pieces: np.ndarray, rgb: np.ndarray) -> np.ndarray:
    """Join touching areas whose mean colours are alike, largest first; returns new numbers."""
    count = int(pieces.max()) + 1
    sizes = np.bincount(pieces.ravel(), minlength=count)
    large = sizes >= _least_pixels(pieces)
    means = _mean_colours(pieces, rgb, count)
    parent = np.arange(count)
    for first, second in _touching(pieces, large):
        first, second = _root(parent, first), _root(parent, second)
        if first == second or np.linalg.norm(means[first] - means[second]) >= REGION_LIKENESS:
            continue
        total = sizes[first] + sizes[second]
        means[first] = (means[first] * sizes[first] + means[second] * sizes[second]) / total
        sizes[first], parent[second] = total, first
    roots = np.array([_root(parent, number) for number in range(count)])
    return roots[pieces]


def _touching(pieces: np.ndarray, large: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of large areas that share an edge, the longest shared edge first."""
    across = [np.stack([pieces[1:].ravel(), pieces[:-1].ravel()]),
              np.stack([pieces[:, 1:].ravel(), pieces[:, :-1].ravel()])]
    pairs = np.sort(np.concatenate(across, axis=1), axis=0)  # [2, edges]
    pairs = pairs[:, (pairs[0] != pairs[1]) & large[pairs[0]] & large[pairs[1]]]
    unique, lengths = np.unique(pairs, axis=1, return_counts=True)
    return [(int(a), int(b)) for a, b in unique[:, np.argsort(-lengths, kind='stable')].T]


def _root(parent: np.ndarray, number: int) -> int:
    while parent[number] != number:
        parent[number] = parent[parent[number]]
        number = int(parent[number])
    return number


def _mean_colours(pieces: np.ndarray, rgb: np.ndarray, count: int) -> np.ndarray:
    """float64 ``[count, 3]``; 0 for a number that does not occur."""
    sizes = np.maximum(np.bincount(pieces.ravel(), minlength=count), 1)
    sums = [np.bincount(pieces.ravel(), rgb[..., channel].ravel(), count) for channel in range(3)]
    return np.stack(sums, axis=1) / sizes[:, None]


def _least_pixels(pieces: np.ndarray) -> int:
    return max(2, round(pieces.size * REGION_SHARE))


def _keep_largest(pieces: np.ndarray) -> np.ndarray:
    """Ids 0.. by falling area; what is too small or too much joins the nearest kept region."""
    sizes = np.bincount(pieces.ravel())
    order = np.argsort(-sizes, kind='stable')[:MAX_LABELS]
    kept = order[sizes[order] >= min(_least_pixels(pieces), sizes.max())]
    number = np.full(len(sizes), UNLABELED, np.uint8)
    number[kept] = np.arange(len(kept))
    labels = _fill_from_nearest(number[pieces])
    areas = np.bincount(labels.ravel(), minlength=256)
    rank = np.empty(256, np.uint8)
    rank[np.argsort(-areas, kind='stable')] = np.arange(256)
    return rank[labels]


def _fill_from_nearest(labels: np.ndarray) -> np.ndarray:
    """Give every 255 pixel the id of the nearest pixel that has one."""
    missing = (labels == UNLABELED).astype(np.uint8)
    if not missing.any():
        return labels
    _, nearest = cv2.distanceTransformWithLabels(missing, cv2.DIST_L2, cv2.DIST_MASK_5,
                                                 labelType=cv2.DIST_LABEL_PIXEL)
    id_of = np.zeros(int(nearest.max()) + 1, np.uint8)
    id_of[nearest[missing == 0]] = labels[missing == 0]
    return id_of[nearest]


def _region_legend(labels: np.ndarray, rgb: np.ndarray) -> tuple[Label, ...]:
    count = int(labels.max()) + 1
    sizes = np.bincount(labels.ravel(), minlength=count)
    means = np.rint(_mean_colours(labels, rgb, count)).astype(int)
    return tuple(Label(number, f'region {number + 1}', tuple(means[number].tolist()),
                       int(sizes[number])) for number in range(count))
