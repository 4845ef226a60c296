"""``--suite depth DIR`` and ``--suite segmentation DIR``: drawn maps against real truth.

Depth is measured at the truth's own resolution (the published script resized the truth, quirk
Q20), once as the model means it, where the model folder vouches for metres, and once after the
usual least-squares fit of scale and shift per picture. Segmentations are compared as regions,
since drawn colours have no names for most truths; with ``palette`` ids are classes, and all of
them count. A file that cannot be measured is passed over and named at the end: the others still
count.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterable, Sequence

import cv2
import numpy as np
from tqdm import tqdm

from cooper_ros.engine.engine import CooperEngine
from cooper_ros.engine.events import DepthMap, SegmentationMap
from cooper_ros.errors import BadData, BadImage, CooperError
from cooper_ros.evaluation.alignment import align_least_squares
from cooper_ros.evaluation.depth_metrics import (
    LEAST_METRES,
    DepthMetrics,
    depth_metrics,
    mean_metrics,
    valid_mask,
)
from cooper_ros.evaluation.map_pairs import (
    DEPTH,
    SEGMENTATION,
    MapPair,
    check_shapes,
    find_pairs,
    read_depth,
    read_ids,
    read_rgb,
    without_truth,
)
from cooper_ros.imaging.colours import colourise
from cooper_ros.imaging.depth import relative_from_metres
from cooper_ros.imaging.depth_sets import depth_set
from cooper_ros.imaging.segmentation import UNLABELED
from cooper_ros.imaging.sheet import Panel, sheet
from cooper_ros.runtime.card import CARD_FILE

NEAR_M, FAR_M = 1e-3, 80.0
# How maps of a folder that does not say how it draws best were measured (reference section 6.6)
PUBLISHED_DRAWING = {'cfg_text': 3.0, 'cfg_image': 1.5, 'cfg_low': 0.4, 'cfg_high': 1.0,
                     'cfg_renorm': 'global'}
SHOWN = ('abs_relative_difference', 'delta1_acc', 'silog_rmse')
ORDER_PAIRS, ORDER_RATIO = 20000, 1.1  # pixel pairs per picture; depths that differ by 10 %
SKIPPED_SHOWN = 5
VOID = (0, 255, -1)  # COCO panoptic and ADE20K; VOC and Cityscapes trainIds; Cityscapes arrays


@dataclass(frozen=True)
class DepthRow:
    """One picture.

    Attributes:
        name, units, known_from: of the truth; file numbers per metre and why.
        metric: as drawn, None while the model has no metres.
        aligned: after the fit.
        order: share of pixel pairs, at least 10 percent apart, whose order is right; None
            without any.
        valid: pixels that count.
    """

    name: str
    units: float
    known_from: str
    metric: DepthMetrics | None
    aligned: DepthMetrics
    order: float | None
    valid: int


@dataclass(frozen=True)
class SegmentRow:
    """One picture: overlap of the truth's segments with the drawn ones, each used once, and each
    truth segment's best overlap weighted by its size (segmentation covering)."""

    name: str
    miou: float
    covering: float
    segments: int
    drawn: int


@dataclass
class Sheets:
    """Collects panels of the first pictures."""

    limit: int = 8
    panels: list[Panel] = field(default_factory=list)

    def add(self, *panels: Panel) -> None:
        """One picture's panels."""
        if len(self.panels) < self.limit * len(panels):
            self.panels += panels

    def draw(self, title: str, footer: str) -> np.ndarray:
        """All of them, uint8 ``[H, W, 3]``."""
        return sheet(self.panels, title=title, footer=footer)


@dataclass
class Skipped:
    """Collects what was not measured.

    Attributes:
        files: name of every pair that could not be, and why.
        without_truth: pictures that have none.
    """

    files: list[tuple[str, str]] = field(default_factory=list)
    without_truth: int = 0

    def add(self, name: str, reason: CooperError) -> None:
        """One pair."""
        self.files.append((name, str(reason)))

    def check(self, rows: Sequence[DepthRow | SegmentRow]) -> None:
        """Refuse to sum up nothing.

        Raises:
            BadData: there are no rows.
        """
        if not rows:
            name, reason = self.files[0]
            raise BadData('nothing could be measured',
                          value=f'{len(self.files)} bad files, the first is {name}: {reason}')

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {'skipped': [{'name': name, 'reason': reason} for name, reason in self.files],
                'without_truth': self.without_truth}

    def lines(self) -> list[str]:
        """As text; nothing where everything was measured."""
        rows = [f'  pictures without a truth: {self.without_truth}'] * (self.without_truth > 0)
        rows += [f'  skipped, not counted above: {len(self.files)}'] * bool(self.files)
        rows += [f'    {name}: {reason}' for name, reason in self.files[:SKIPPED_SHOWN]]
        more = len(self.files) - SKIPPED_SHOWN
        return rows + [f'    and {more} more, all of them in the file of --json'] * (more > 0)


def measure_depth(engine: CooperEngine, place: Path, *, units: float = 0.0, known: str = '',
                  seed: int = 0, limit: int = 0, sheets: Sheets | None = None,
                  skipped: Skipped | None = None) -> list[DepthRow]:
    """Draw and measure every picture with depth truth.

    Args:
        engine: draws.
        place: folder or list.
        units: file numbers per metre; 0: floating point numbers are metres, integers what
            ``annotations.json``, ``known`` or the path says, from ``place`` on.
        known: published data set, whose range and crop decide which truth counts, and whose files
            hold integers in its units; empty for none: all between ``NEAR_M`` and ``FAR_M``.
        seed: of the drawing noise.
        limit: first pictures only; 0 for all.
        sheets: collects what can be looked at.
        skipped: collects what could not be measured.

    Raises:
        BadData: nothing could be measured.
    """
    rows, skipped = [], Skipped() if skipped is None else skipped
    most = engine.config.max_image_pixels
    for pair in _pairs(place, DEPTH, limit, skipped):
        try:
            rgb = read_rgb(pair.rgb, most)
            truth, found = read_depth(pair.target, units, most, place, known)
            check_shapes(rgb, truth)
            drawn = engine.estimate_depth(rgb, seed=seed)
            rows.append(depth_row(pair.name, drawn, truth, found, known))
        except (BadData, BadImage) as error:
            skipped.add(pair.name, error)
            continue
        if sheets is not None:
            far_m = _span(known)[1]
            sheets.add(*_depth_panels(Panel(rgb, pair.name), drawn, truth, rows[-1], far_m))
    skipped.check(rows)
    return rows


def drawing_for(suite: str, model: Path) -> dict[str, Any]:
    """Drawing settings for a suite: the model folder's own, if it has any, else as published."""
    told = (model / CARD_FILE).is_file() or suite not in (DEPTH, SEGMENTATION)
    return {} if told else PUBLISHED_DRAWING


def _pairs(place: Path, kind: str, limit: int, skipped: Skipped) -> Iterable[MapPair]:
    pairs = find_pairs(place, kind)
    skipped.without_truth = without_truth(place, pairs)
    return tqdm(pairs[:limit or None], desc=kind, mininterval=1)


def _span(known: str) -> tuple[float, float]:
    """Least and greatest depth that counts, metres."""
    if not known:
        return NEAR_M, FAR_M
    kind = depth_set(known)
    return kind.near_m, kind.far_m


def depth_row(name: str, drawn: DepthMap, truth: np.ndarray, units: tuple[float, str],
              known: str = '') -> DepthRow:
    """Measure one drawn map against metres ``[H, W]`` (0: unknown).

    Raises:
        BadData: fewer than two pixels have valid depth.
    """
    span = near, far = _span(known)
    valid = valid_mask(truth, known) if known else (truth > near) & (truth < far)
    if valid.sum() < 2:
        raise BadData('no valid depth in a truth', value=name, limit=f'{near} .. {far} m',
                      remedy='check --units')
    relative = _resized(drawn.relative, truth)
    fitted = align_least_squares(relative, truth, valid).apply(relative)
    metric = None
    if drawn.metres is not None:
        metric = depth_metrics(_clamped(_resized(drawn.metres, truth), span), truth, valid)
    return DepthRow(name, *units, metric, depth_metrics(_clamped(fitted, span), truth, valid),
                    order_accuracy(relative, truth, valid), int(valid.sum()))


def order_accuracy(relative: np.ndarray, truth: np.ndarray, valid: np.ndarray
                   ) -> float | None:
    """Share of random pixel pairs whose nearer one is drawn nearer; 0.5 is guessing.

    Pairs whose true depths differ by less than 10 percent are not counted; None without any.
    """
    drawn, metres = relative[valid], truth[valid]
    pairs = np.random.default_rng(0).integers(0, len(metres), (2, ORDER_PAIRS))
    first, second = metres[pairs]
    apart = np.maximum(first, second) > ORDER_RATIO * np.minimum(first, second)
    if not apart.any():
        return None
    a, b = drawn[pairs]
    right = np.where(a == b, 0.5, (a < b) == (first < second))
    return float(right[apart].mean())


def measure_segmentation(engine: CooperEngine, place: Path, *, palette: bool = False,
                         ignore: Sequence[int] | None = None, seed: int = 0, limit: int = 0,
                         sheets: Sheets | None = None, skipped: Skipped | None = None
                         ) -> tuple[list[SegmentRow], float | None]:
    """Draw and measure every picture with a mask.

    Args:
        engine: draws.
        place: folder or list.
        palette: ids of the masks are classes of the model's palette.
        ignore: ids of the truth that are not counted; None for :func:`ignored_ids`.
        seed, limit, sheets, skipped: as :func:`measure_depth`.

    Returns:
        rows, and with ``palette`` the mIoU over all classes that occur, from counts of pixels.

    Raises:
        BadData: nothing could be measured, or ``palette`` with a model that has none.
    """
    if palette:
        _check_palette(engine)
    rows, skipped = [], Skipped() if skipped is None else skipped
    counts, most = np.zeros((2, UNLABELED)), engine.config.max_image_pixels
    for pair in _pairs(place, SEGMENTATION, limit, skipped):
        try:
            rgb, truth = read_rgb(pair.rgb, most), read_ids(pair.target, most)
            check_shapes(rgb, truth)
            drawn = engine.segment(rgb, seed=seed)
            labels, counted = _on_truth(drawn, truth, _ignored_in(truth, palette, ignore))
            rows.append(segment_row(pair.name, labels, truth, counted))
        except (BadData, BadImage) as error:
            skipped.add(pair.name, error)
            continue
        if palette:
            counts += class_counts(labels[counted], truth[counted])
        if sheets is not None:
            sheets.add(*_segment_panels(Panel(rgb, pair.name), drawn, truth, rows[-1]))
    skipped.check(rows)
    inside, union = counts[:, counts[1] > 0]
    return rows, float((inside / union).mean()) if palette and union.size else None


def ignored_ids(palette: bool) -> tuple[int, ...]:
    """What is not counted unless somebody says otherwise; 0 is a class of a model's palette."""
    return () if palette else VOID


def _ignored_in(truth: np.ndarray, palette: bool, given: Sequence[int] | None) -> Sequence[int]:
    """As told, else the usual ones; with larger ids beside it, 255 is a segment, or pure red."""
    if given is not None:
        return given
    many = truth.max() > UNLABELED
    return [number for number in ignored_ids(palette) if not (many and number == UNLABELED)]


def _check_palette(engine: CooperEngine) -> None:
    if not engine.parts.card.palette:
        raise BadData('this model has no palette', value=engine.parts.card.name or 'model',
                      remedy='compare regions instead')


def _on_truth(drawn: SegmentationMap, truth: np.ndarray, ignore: Sequence[int]
              ) -> tuple[np.ndarray, np.ndarray]:
    """Drawn ids at the size of the truth ``[H, W]``, and which pixels count."""
    labels = cv2.resize(drawn.labels, truth.shape[::-1], interpolation=cv2.INTER_NEAREST)
    return labels, ~np.isin(truth, np.array(ignore, np.int64))


def class_counts(labels: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """``[2, classes]``: how many of the ids ``[n]`` are a class in both, and in at least one."""
    inside, ours, theirs = (
        np.bincount(ids[(ids >= 0) & (ids < UNLABELED)], minlength=UNLABELED)
        for ids in (truth[labels == truth], labels, truth))
    return np.array([inside, ours + theirs - inside])


def segment_row(name: str, labels: np.ndarray, truth: np.ndarray,
                counted: np.ndarray) -> SegmentRow:
    """Compare id masks ``[H, W]`` as regions, whatever the ids mean.

    Raises:
        BadData: no pixel counts.
    """
    if not counted.any():
        raise BadData('a mask without segments', value=name, remedy='check which ids are ignored')
    overlap, wanted, drawn = _overlaps(labels[counted], truth[counted])  # [T, D], [T], [D]
    ious = overlap / (wanted[:, None] + drawn[None] - overlap)
    best = ious.max(axis=1)
    return SegmentRow(name, _one_to_one(ious), float((best * wanted).sum() / wanted.sum()),
                      len(wanted), len(drawn))


def _overlaps(labels: np.ndarray, truth: np.ndarray
              ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    _, ours = np.unique(labels, return_inverse=True)
    _, theirs = np.unique(truth, return_inverse=True)
    columns = int(ours.max()) + 1
    table = np.bincount(theirs * columns + ours, minlength=columns * (int(theirs.max()) + 1))
    overlap = table.reshape(-1, columns).astype(np.float64)
    return overlap, overlap.sum(axis=1), overlap.sum(axis=0)


def _one_to_one(ious: np.ndarray) -> float:
    """Mean overlap over truth segments; largest overlaps are matched first, each side once."""
    left, total = ious.copy(), 0.0
    for _ in range(min(ious.shape)):
        place = np.unravel_index(left.argmax(), left.shape)
        total += float(left[place])
        left[place[0], :] = left[:, place[1]] = 0.0
    return total / len(ious)


def depth_summary(rows: Sequence[DepthRow]) -> dict[str, Any]:
    """Means over pictures; ``metric`` only where every picture has it."""
    metric = [row.metric for row in rows if row.metric is not None]
    order = [row.order for row in rows if row.order is not None]
    return {'pictures': len(rows),
            'metric': mean_metrics(metric).as_dict() if len(metric) == len(rows) else None,
            'aligned': mean_metrics([row.aligned for row in rows]).as_dict(),
            'order': float(np.mean(order)) if order else None,
            'units': sorted({f'{row.units:g} per metre ({row.known_from})' for row in rows})}


def segment_summary(rows: Sequence[SegmentRow], classes: float | None,
                    ignored: Sequence[int] = VOID) -> dict[str, Any]:
    """Means over pictures, the mIoU over classes where ids are classes, and ids left out."""
    return {'pictures': len(rows), 'class_miou': classes, 'ignored': list(ignored),
            'region_miou': float(np.mean([row.miou for row in rows])),
            'covering': float(np.mean([row.covering for row in rows]))}


def depth_lines(found: dict[str, Any]) -> list[str]:
    """A depth summary as text."""
    return [f'depth: {found["pictures"]} pictures, truth in ' + '; '.join(found['units']),
            *score_lines(found)]


def score_lines(found: dict[str, Any]) -> list[str]:
    """What is measured of depth as text: with and without alignment, and the order."""
    rows = []
    for name in ('metric', 'aligned'):
        values = found[name]
        text = 'the model has no metres' if values is None else ', '.join(
            f'{short} {values[key]:.4f}' for short, key in zip(('AbsRel', 'delta1', 'SILog'),
                                                               SHOWN))
        label = 'no alignment' if name == 'metric' else 'scale and shift fitted'
        rows.append(f'  {label}: {text}')
    order = found['order']
    return [*rows, '  order of pixel pairs right: ' + (
        'no truth has depths 10 % apart' if order is None else f'{100 * order:.1f} %')]


def segment_lines(found: dict[str, Any]) -> list[str]:
    """A segmentation summary as text."""
    classes, ids = found['class_miou'], ', '.join(map(str, found['ignored']))
    return [f'segmentation: {found["pictures"]} pictures, '
            f'{f"not counted: ids {ids} of the masks" if ids else "all ids of the masks count"}',
            f'  regions, each matched once: mIoU {found["region_miou"]:.4f}, covering '
            f'{found["covering"]:.4f}',
            *([] if classes is None else [f'  classes of the palette: mIoU {classes:.4f}'])]


def _resized(values: np.ndarray, like: np.ndarray) -> np.ndarray:
    return cv2.resize(values, like.shape[::-1], interpolation=cv2.INTER_LINEAR)


def _clamped(metres: np.ndarray, span: tuple[float, float]) -> np.ndarray:
    return np.maximum(np.clip(metres, *span), LEAST_METRES)


def _depth_panels(picture: Panel, drawn: DepthMap, truth: np.ndarray, row: DepthRow,
                  far_m: float) -> tuple[Panel, ...]:
    valid = (truth > 0) & (truth < far_m)
    near, far = float(truth[valid].min()), float(truth[valid].max())
    shown = colourise(relative_from_metres(truth, near, max(far, near + 1e-3)))
    shown[~valid] = 0
    measured = row.aligned
    return (picture,
            Panel(drawn.colour, f'drawn, aligned AbsRel {measured.abs_relative_difference:.3f}'),
            Panel(shown, f'truth {near:.1f} .. {far:.1f} m, black unknown'))


def _segment_panels(picture: Panel, drawn: SegmentationMap, truth: np.ndarray,
                    row: SegmentRow) -> tuple[Panel, ...]:
    colours = np.random.default_rng(1).integers(40, 256, (4096, 3), dtype=np.uint8)
    colours[0] = 0
    return (picture,
            Panel(drawn.rgb, f'drawn, region mIoU {row.miou:.3f}'),
            Panel(colours[truth % 4096], f'truth, {row.segments} segments'))
