"""``cooper.json``: what a model folder says about itself beyond the published layout.

Official folders do not have the file; then the published values apply (reference 5.3 and 6.6).
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Mapping

from cooper_ros.config import LEAST_SHIFT, LONGEST_LENS, options
from cooper_ros.errors import BadCheckpoint
from cooper_ros.imaging.depth_edges import DRAWN, PICTURE
from cooper_ros.imaging.segmentation import Label, palette_from_rows
from cooper_ros.model.flow import CHANNEL, GLOBAL, TEXT_CHANNEL

CARD_FILE = 'cooper.json'
RULE_KEYS = ('max_image_size', 'min_image_size', 'image_stride')
DEPTH_KEYS = ('min_m', 'max_m')
RENORM_CHOICES = (GLOBAL, CHANNEL, TEXT_CHANNEL)
EDGE_CHOICES = (DRAWN, PICTURE)
INT8, INT4, FP8 = 'int8', 'int4', 'fp8'
QUANTISED_FORMATS = (INT8, INT4, FP8)
# What a card may say at least: 0 of other numbers, for the -1 of a setting stands for the card.
LEAST = {'flow_points': 2, 'flow_shift': LEAST_SHIFT}


@dataclass(frozen=True)
class Quantisation:
    """How the linear layers of both experts are stored.

    Attributes:
        format: one of ``QUANTISED_FORMATS``.
        group: inputs that share one scale; 0 when a whole output channel does.
    """

    format: str
    group: int = 0

    def to_json(self) -> dict[str, Any]:
        """As it stands in the card."""
        return asdict(self)


@dataclass(frozen=True)
class Drawing:
    """How this model draws best; defaults are those of the published benchmark runs.

    ``canonical_focal`` is the lens it draws depth for, whatever lens the picture came through:
    focal length in longest sides of the picture; 0 when nobody knows. ``focal_power`` says how
    metres follow another lens: 1 in proportion, as for a model trained on one lens alone; less for
    one that draws between what a picture shows and what is usual.
    """

    flow_points: int = 50
    flow_shift: float = 3.0
    cfg_text: float = 4.0
    cfg_image: float = 2.0
    cfg_low: float = 0.0
    cfg_high: float = 1.0
    cfg_renorm: str = TEXT_CHANNEL
    cfg_renorm_min: float = 0.0
    depth_edges: str = DRAWN
    canonical_focal: float = 0.0
    focal_power: float = 1.0


@dataclass(frozen=True)
class ModelCard:
    """The file as a value; the defaults are an official folder's.

    Attributes:
        name: what the model is called; empty when the folder does not say.
        vae_transform, vit_transform: longest side, shortest side and stride in pixels of the
            resize rule before each image encoder.
        depth_range_m: metres of relative depth 0 and 1; None when drawings carry no scale.
        palette: classes and colours of segmentations; empty when colours have no names.
        drawing: flow and guidance.
        max_turn_tokens: longest turn the model was trained to write.
        quantization: how linear layers are stored; None when they are plain numbers.
    """

    name: str = ''
    vae_transform: tuple[int, int, int] = (1024, 512, 16)
    vit_transform: tuple[int, int, int] = (518, 224, 14)
    depth_range_m: tuple[float, float] | None = None
    palette: tuple[Label, ...] = ()
    drawing: Drawing = Drawing()
    max_turn_tokens: int = 4096
    quantization: Quantisation | None = None

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ModelCard:
        """Read the parsed file; absent entries keep the published values.

        Raises:
            BadCheckpoint: an entry is unknown, of the wrong type or out of range.
        """
        known = ('name', 'transforms', 'depth', 'palette', 'drawing', 'max_turn_tokens',
                 'quantization')
        _check_keys('', values, known)
        transforms = _object(values, 'transforms')
        _check_keys('transforms', transforms, ('vae', 'vit'))
        depth = values.get('depth')
        return cls(
            _typed(values, 'name', cls.name), _rule(transforms, 'vae', cls.vae_transform),
            _rule(transforms, 'vit', cls.vit_transform),
            None if depth is None else _depth_range(depth),
            _palette(values.get('palette')), _drawing(_object(values, 'drawing')),
            _positive(_typed(values, 'max_turn_tokens', cls.max_turn_tokens), 'max_turn_tokens'),
            _quantisation(values.get('quantization')))

    def to_json(self) -> dict[str, Any]:
        """The inverse of :meth:`from_json`."""
        rules = {name: dict(zip(RULE_KEYS, rule)) for name, rule in
                 (('vae', self.vae_transform), ('vit', self.vit_transform))}
        palette = [{'id': entry.id, 'name': entry.name, 'rgb': list(entry.rgb)}
                   for entry in self.palette]
        depth = self.depth_range_m and dict(zip(DEPTH_KEYS, self.depth_range_m))
        return {'name': self.name, 'transforms': rules, 'depth': depth, 'palette': palette,
                'drawing': asdict(self.drawing), 'max_turn_tokens': self.max_turn_tokens,
                **({'quantization': self.quantization.to_json()} if self.quantization else {})}


def _quantisation(values: Any) -> Quantisation | None:
    if values is None:
        return None
    _check_keys('quantization', values, ('format', 'group'))
    found, group = values.get('format'), values.get('group', 0)
    fits = type(group) is int and (group >= 2 if found == INT4 else group == 0)
    if found not in QUANTISED_FORMATS or not fits:
        raise BadCheckpoint(f'{CARD_FILE} declares a quantisation that cannot be read',
                            value=f'format {found}, group {group}',
                            limit='int8 or fp8 with group 0, int4 with the group size of its '
                                  'scales',
                            remedy='quantise the checkpoint again')
    return Quantisation(found, group)


def read_card(folder: Path) -> ModelCard:
    """The card of a model folder; the published values when it has none.

    Raises:
        BadCheckpoint: the file is there but wrong.
    """
    path = folder / CARD_FILE
    return ModelCard.from_json(read_json(path)) if path.exists() else ModelCard()


def read_json(path: Path) -> dict[str, Any]:
    """One JSON object.

    Raises:
        BadCheckpoint: the file is missing, unreadable, or not an object.
    """
    try:
        values = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError) as error:
        raise BadCheckpoint(f'{path.name} cannot be read', value=f'{path}: {error}',
                            limit='a JSON file', remedy='copy the file again') from error
    if not isinstance(values, dict):
        raise BadCheckpoint(f'{path.name} is not a JSON object', value=str(path))
    return values


def _check_keys(where: str, values: Any, known: tuple[str, ...]) -> None:
    place = f'{CARD_FILE} {where}'.rstrip()
    if not isinstance(values, dict):
        raise BadCheckpoint(f'{place} is not an object', value=values, limit='{...}')
    for key in values:
        if key not in known:
            raise BadCheckpoint(f'{place} has an unknown entry', value=key,
                                limit=', '.join(known))


def _object(values: Mapping[str, Any], key: str) -> Any:
    """An entry that is checked as an object; an empty one where it is absent or null."""
    found = values.get(key)
    return {} if found is None else found


def _palette(rows: Any) -> tuple[Label, ...]:
    if rows is not None and not isinstance(rows, list):
        raise BadCheckpoint(f'{CARD_FILE} entry palette is no list', value=repr(rows),
                            limit='[{"id": 0, "name": "floor", "rgb": [0, 0, 0]}, ...]')
    try:
        return palette_from_rows(rows or ())
    except OverflowError as error:  # of an infinite id or colour
        raise BadCheckpoint(f'{CARD_FILE} entry palette has an infinite number', value=rows,
                            limit='id 0..254, colours 0..255') from error


def _typed(values: Mapping[str, Any], key: str, default: Any) -> Any:
    """An entry with the type of its default; a whole number may stand for a float."""
    value = values.get(key, default)
    kind = type(default)
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise BadCheckpoint(f'{CARD_FILE} entry {key} has the wrong type', value=repr(value),
                            limit=kind.__name__)
    try:
        return kind(value)
    except OverflowError as error:
        raise BadCheckpoint(f'{CARD_FILE} entry {key} is too large',
                            value=f'a number of {len(str(abs(value)))} digits') from error


def _positive(value: int, key: str) -> int:
    if value < 1:
        raise BadCheckpoint(f'{CARD_FILE} entry {key} is too small', value=value, limit='>= 1')
    return value


def _rule(transforms: Mapping[str, Any], name: str,
          default: tuple[int, int, int]) -> tuple[int, int, int]:
    values = transforms.get(name, {})
    _check_keys(f'transforms.{name}', values, RULE_KEYS)
    longest, shortest, stride = (_positive(_typed(values, key, usual), key)
                                 for key, usual in zip(RULE_KEYS, default))
    return longest, shortest, stride


def _depth_range(values: Any) -> tuple[float, float]:
    _check_keys('depth', values, DEPTH_KEYS)
    near, far = (_typed(values, key, -1.0) for key in DEPTH_KEYS)
    if not 0 <= near < far < math.inf:
        raise BadCheckpoint(f'{CARD_FILE} depth is no range', value=f'{near} .. {far}',
                            limit='0 <= min_m < max_m, both finite')
    return near, far


def _drawing(values: Any) -> Drawing:
    _check_keys('drawing', values, tuple(entry.name for entry in fields(Drawing)))
    drawing = Drawing(**{entry.name: _typed(values, entry.name, entry.default)
                         for entry in fields(Drawing)})
    for name, choices in (('cfg_renorm', RENORM_CHOICES), ('depth_edges', EDGE_CHOICES)):
        if getattr(drawing, name) not in choices:
            raise BadCheckpoint(f'{CARD_FILE} entry {name} is not a choice',
                                value=getattr(drawing, name), limit=', '.join(choices))
    _check_ranges(drawing)
    focal = drawing.canonical_focal
    if focal and not 1 / LONGEST_LENS <= focal <= LONGEST_LENS:
        raise BadCheckpoint(f'{CARD_FILE} entry canonical_focal is no focal length', value=focal,
                            limit=f'{1 / LONGEST_LENS:g} .. {LONGEST_LENS:g}, or 0')
    if not 0 <= drawing.focal_power <= 1:
        raise BadCheckpoint(f'{CARD_FILE} entry focal_power is out of range',
                            value=drawing.focal_power, limit='0 .. 1')
    return drawing


def _check_ranges(drawing: Drawing) -> None:
    """What a request may not ask for, no card may say."""
    for entry in options():
        high = entry.metadata['high']
        if high is None or not hasattr(drawing, entry.name):
            continue
        value, low = getattr(drawing, entry.name), LEAST.get(entry.name, 0)
        if not low <= value <= high:  # NaN fails here too
            raise BadCheckpoint(f'{CARD_FILE} entry {entry.name} is out of range', value=value,
                                limit=f'{low} .. {high:g}')
