"""Draw a scene from one seed: room or tabletop, objects, light, camera."""

from __future__ import annotations

import math

import numpy as np

from cooper_ros.errors import BadData
from cooper_ros.scenes.palette import ALBEDO, COLOURS, SHAPES
from cooper_ros.scenes.scene import (
    HANDLE_RATIO,
    Camera,
    Light,
    Patch,
    Room,
    Scene,
    SceneObject,
    Surface,
    Table,
    Vec3,
)
from cooper_ros.scenes.splits import COMMON_PAIRS, HELD_OUT, Pair, absolute_seed

MAX_OBJECTS = 8
MIN_OBJECTS = 3
CAMERA_GAP = 0.45  # nothing stands closer to the camera than this
_PLACE_TRIES = 60
_PICTURE_MARGIN = 0.10  # objects are aimed at the picture without its outer tenth
_ASPECT = 0.75
# Metres in one picture are undetermined unless something about it has a known size. Houses offer
# such things, and so do these rooms: tiles, planks and doors come in the sizes that are sold. And
# a robot's camera sits where it was mounted: on a mast of 1.2 m, with one kind of lens.
_TILE = 0.30
_PLANK = 0.45  # period of the planks pattern: boards of 18 cm
_DOOR = (0.45, 1.0)  # half sizes of a door leaf, metres
_TOLERANCE = 0.03
_MAST = (1.17, 1.23)  # height of the camera above the floor, metres
_LENS = (60.0, 66.0)  # horizontal field of view, degrees

Rng = np.random.Generator


def sample_scene(seed: int, split: str = 'train') -> Scene:
    """Draw one scene.

    Args:
        seed: number of the scene within its split, 0 .. 2**30-1.
        split: train, validation or test.

    Raises:
        BadOption: unknown split or seed out of range.
        BadData: no scene could be placed in 20 draws.
    """
    absolute = absolute_seed(seed, split)
    for attempt in range(20):  # a cramped draw is thrown away whole, so the result stays unbiased
        scene = _draw(np.random.default_rng([absolute, attempt]), absolute, split)
        if scene is not None:
            return scene
    raise BadData('no scene could be placed', value=absolute, limit='20 draws')


def _draw(rng: Rng, absolute: int, split: str) -> Scene | None:
    kind = 'table' if rng.random() < 0.5 else 'room'
    width, length = rng.uniform(3.2, 4.8), rng.uniform(3.4, 6.0)
    camera, table = _table_view(rng, width, length) if kind == 'table' else \
        _room_view(rng, width, length)
    if camera is None:
        return None
    room = _draw_room(rng, width, length)
    objects = _draw_objects(rng, split, kind, room, table, camera)
    if len(objects) < MIN_OBJECTS:
        return None
    light = _draw_light(rng, room, table)
    return Scene(absolute, split, kind, room, table, objects, camera, light)


# --- room, table, light -------------------------------------------------------------------------

def _pale(rng: Rng, low: float, high: float, tint: float) -> Vec3:
    """Draw a greyish colour: furniture never competes with the named colours."""
    grey = rng.uniform(low, high)
    warm = rng.normal(0.0, tint)
    return (float(np.clip(grey + warm, 0.05, 0.97)), grey,
            float(np.clip(grey - warm * 1.1, 0.05, 0.97)))


def _darker(colour: Vec3, factor: float) -> Vec3:
    return (colour[0] * factor, colour[1] * factor, colour[2] * factor)


def _wood(rng: Rng) -> Vec3:
    tone = rng.uniform(0.38, 0.78)
    return tone, tone * rng.uniform(0.80, 0.88), tone * rng.uniform(0.62, 0.74)


def _finish(rng: Rng, patterns: tuple[str, ...], low: float, high: float,
            period: float) -> Surface:
    pattern = patterns[rng.integers(len(patterns))]
    first = _wood(rng) if pattern in ('planks', 'grain') else _pale(rng, low, high, 0.03)
    factor = rng.uniform(0.62, 0.8) if pattern in ('checker', 'tiles', 'planks') else \
        rng.uniform(0.82, 0.94)
    spread = rng.uniform(1 - _TOLERANCE, 1 + _TOLERANCE)
    return Surface(pattern, first, _darker(first, factor), period * spread,
                   float(rng.uniform(0, math.pi)) if pattern == 'checker' and
                   rng.random() < 0.3 else 0.0)


def _floor(rng: Rng) -> Surface:
    if rng.random() < 0.4:
        return _finish(rng, ('planks',), 0.35, 0.8, _PLANK)
    return _finish(rng, ('checker', 'tiles'), 0.35, 0.8, _TILE)


def _draw_room(rng: Rng, width: float, length: float) -> Room:
    floor = _floor(rng)
    wall = _finish(rng, ('plain',) * 4 + ('stripes',), 0.62, 0.95, 0.3)
    accent = _finish(rng, ('plain', 'bricks', 'stripes'), 0.5, 0.85, 0.25)
    walls = [wall] * 4
    if rng.random() < 0.4:
        walls[rng.integers(4)] = accent
    spans = [(length, width)[side // 2] for side in range(4)]
    patches = [_picture(rng, side, span) if rng.random() < 0.5 else _door(rng, side, span)
               for side, span in enumerate(spans)]
    if rng.random() < 0.4:
        patches.append(Patch(-1, (rng.uniform(-0.6, 0.6), rng.uniform(-0.8, 0.8)),
                             (rng.uniform(0.5, 1.1), rng.uniform(0.5, 1.1)),
                             _finish(rng, ('plain', 'stripes', 'checker'), 0.3, 0.8, 0.2)))
    return Room(width, length, rng.uniform(2.45, 2.65), floor,
                (walls[0], walls[1], walls[2], walls[3]), tuple(patches))


def _picture(rng: Rng, side: int, span: float) -> Patch:
    half = (rng.uniform(0.2, 0.5), rng.uniform(0.2, 0.4))
    along = rng.uniform(-span / 2 + 0.6, span / 2 - 0.6)
    return Patch(side, (along, rng.uniform(1.3, 1.7)), half,
                 _finish(rng, ('plain', 'checker', 'stripes'), 0.3, 0.9, 0.25))


def _door(rng: Rng, side: int, span: float) -> Patch:
    along = rng.uniform(-span / 2 + 0.6, span / 2 - 0.6)
    return Patch(side, (along, _DOOR[1]), _DOOR, _finish(rng, ('plain',), 0.35, 0.7, 0.25))


def _draw_table(rng: Rng, centre: tuple[float, float]) -> Table:
    surface = _finish(rng, ('grain', 'grain', 'tiles', 'checker'), 0.35, 0.9, 0.10)
    return Table(centre, (rng.uniform(0.8, 1.4), rng.uniform(0.65, 1.0)), rng.uniform(0.66, 0.78),
                 rng.uniform(0.03, 0.05), rng.uniform(0.04, 0.07),
                 rng.uniform(-math.pi, math.pi), surface)


def _draw_light(rng: Rng, room: Room, table: Table | None) -> Light:
    position = (rng.uniform(-0.42, 0.42) * room.width, rng.uniform(-0.42, 0.42) * room.length,
                rng.uniform(1.9, room.height - 0.05))
    warm, strength = rng.normal(0.0, 0.04), rng.uniform(0.8, 1.25)
    colour = (strength * (1 + warm), strength, strength * (1 - warm))
    grey = rng.uniform(0.34, 0.58)
    ambient = (grey * (1 - warm / 2), grey, grey * (1 + warm / 2))
    return Light(position, colour, ambient, float(np.exp(rng.normal(0.10, 0.12))),
                 rng.uniform(0.5, 3.0))


# --- cameras ------------------------------------------------------------------------------------

def _looking(rng: Rng, position: Vec3, target: Vec3) -> Camera:
    dx, dy, dz = (target[i] - position[i] for i in range(3))
    jitter = rng.normal(0.0, 0.05, 2)
    return Camera(position, math.atan2(-dx, dy) + jitter[0],
                  math.atan2(dz, math.hypot(dx, dy)) + jitter[1] * 0.6,
                  float(rng.normal(0.0, 0.015)), rng.uniform(*_LENS))


def _inside(x: float, y: float, width: float, length: float, gap: float) -> bool:
    return abs(x) <= width / 2 - gap and abs(y) <= length / 2 - gap


def _table_view(rng: Rng, width: float, length: float) -> tuple[Camera | None, Table]:
    centre = (rng.uniform(-0.25, 0.25) * width, rng.uniform(-0.25, 0.25) * length)
    table = _draw_table(rng, centre)
    for _ in range(20):
        azimuth, reach = rng.uniform(-math.pi, math.pi), rng.uniform(0.75, 1.45)
        x, y = centre[0] + reach * math.sin(azimuth), centre[1] + reach * math.cos(azimuth)
        if _inside(x, y, width, length, 0.3):
            return _looking(rng, (x, y, rng.uniform(*_MAST)), (*centre, table.height)), table
    return None, table


def _room_view(rng: Rng, width: float, length: float) -> tuple[Camera | None, Table | None]:
    x, y = rng.uniform(-0.3, 0.3) * width, -length / 2 + rng.uniform(0.3, 0.6)
    position = (x, y, rng.uniform(*_MAST))
    target = (rng.uniform(-0.25, 0.25) * width, y + rng.uniform(1.5, 2.9), rng.uniform(0.0, 0.35))
    camera = _looking(rng, position, target)
    if rng.random() < 0.6:
        return camera, None
    centre = (target[0] + rng.uniform(-0.7, 0.7), target[1] + rng.uniform(-0.2, 0.6))
    if not _inside(*centre, width, length, 0.65) or math.dist(centre, position[:2]) < 1.7:
        return camera, None
    return camera, _draw_table(rng, centre)


# --- objects ------------------------------------------------------------------------------------

def _draw_objects(rng: Rng, split: str, kind: str, room: Room, table: Table | None,
                  camera: Camera) -> tuple[SceneObject, ...]:
    placed: list[SceneObject] = []
    for pair in _draw_pairs(rng, split, int(rng.integers(MIN_OBJECTS, MAX_OBJECTS + 1))):
        on_table = table is not None and (kind == 'table' or rng.random() < 0.4)
        thing = _place(rng, pair, on_table, room, table, camera, placed)
        if thing is not None:
            placed.append(thing)
        elif not placed:
            return ()  # the first object carries the reserved pair of the split
    return tuple(placed)


def _draw_pairs(rng: Rng, split: str, count: int) -> list[Pair]:
    """Draw (colour, shape) pairs; now and then a colour or a shape repeats, so counts vary."""
    pool = [*COMMON_PAIRS, *HELD_OUT[split]]
    held = HELD_OUT[split]
    first = held[rng.integers(len(held))] if held else pool[rng.integers(len(pool))]
    theme = rng.random()
    colour, shape = COLOURS[rng.integers(len(COLOURS))], SHAPES[rng.integers(len(SHAPES))]
    pairs = [first]
    while len(pairs) < count:
        pair = pool[rng.integers(len(pool))]
        wanted = theme >= 0.5 or rng.random() < 0.4 or \
            (pair[0] == colour if theme < 0.25 else pair[1] == shape)
        if wanted and (pair not in pairs or rng.random() < 0.15):
            pairs.append(pair)
    return pairs


def _draw_size(rng: Rng, shape: str, scale: float) -> Vec3:
    a, b, c = (float(value) for value in rng.uniform(0.0, 1.0, 3))
    if shape == 'box':
        return scale * (0.6 + 0.7 * a), scale * (0.6 + 0.7 * b), scale * (0.5 + 0.9 * c)
    if shape == 'ball':
        return scale, scale, scale
    if shape == 'can':
        wide = scale * (0.55 + 0.2 * a)
        return wide, wide, scale * (0.9 + 0.5 * b)
    if shape == 'pill':
        thick = scale * (0.42 + 0.13 * a)
        return scale * (1.25 + 0.35 * b), thick, thick
    if shape == 'egg':
        wide = scale * (0.62 + 0.1 * a)
        return wide, wide, scale * (1.0 + 0.25 * b)
    wide = scale * (0.72 + 0.13 * a)
    return wide * (1 + HANDLE_RATIO), wide, scale * (0.75 + 0.25 * b)


def _place(rng: Rng, pair: Pair, on_table: bool, room: Room, table: Table | None, camera: Camera,
           placed: list[SceneObject]) -> SceneObject | None:
    low, high = (0.10, 0.26) if on_table else (0.20, 0.58)
    size = _draw_size(rng, pair[1], float(np.exp(rng.uniform(math.log(low), math.log(high)))))
    level = table.height if on_table and table else 0.0
    albedo = tuple(float(np.clip(v * rng.uniform(0.9, 1.08), 0.02, 0.99)) for v in ALBEDO[pair[0]])
    gloss, yaw = rng.uniform(0.0, 0.5), rng.uniform(-math.pi, math.pi)
    for _ in range(_PLACE_TRIES):
        at = _spot(rng, level, camera, size, placed, on_table)
        if at is None:
            continue
        thing = SceneObject(pair[0], pair[1], (*at, level + size[2] / 2), size, yaw, on_table,
                            (albedo[0], albedo[1], albedo[2]), gloss)
        if _stands(thing, room, table, camera, placed):
            return thing
    return None


def _spot(rng: Rng, level: float, camera: Camera, size: Vec3, placed: list[SceneObject],
          on_table: bool) -> tuple[float, float] | None:
    """Draw a place on the plane z = level: behind an object already there, or in the picture."""
    near = [thing for thing in placed if thing.on_table == on_table]
    if near and rng.random() < 0.4:
        front = near[rng.integers(len(near))]
        away = np.array(front.centre[:2]) - camera.position[:2]
        away /= np.linalg.norm(away)
        gap = front.footprint + max(size[:2]) / 2 + rng.uniform(0.02, 0.3)
        side = rng.normal(0.0, 0.6) * front.footprint
        x, y = np.array(front.centre[:2]) + gap * away + side * np.array([away[1], -away[0]])
        return float(x), float(y)
    half = math.tan(math.radians(camera.hfov_deg) / 2) * (1 - _PICTURE_MARGIN)
    ray = camera.rotation() @ np.array([rng.uniform(-half, half),
                                        rng.uniform(-half, half) * _ASPECT, 1.0])
    if ray[2] > -0.02:
        return None
    along = (level - camera.position[2]) / ray[2]
    if along <= 0:
        return None
    return (float(camera.position[0] + along * ray[0]), float(camera.position[1] + along * ray[1]))


def _stands(thing: SceneObject, room: Room, table: Table | None, camera: Camera,
            placed: list[SceneObject]) -> bool:
    x, y, _ = thing.centre
    radius = thing.footprint
    if math.dist((x, y), camera.position[:2]) < CAMERA_GAP + radius:
        return False
    if not _inside(x, y, room.width, room.length, radius + 0.04):
        return False
    if table is not None and not _fits_table(thing, table):
        return False
    return all(other.on_table != thing.on_table or
               math.dist((x, y), other.centre[:2]) > radius + other.footprint + 0.01
               for other in placed)


def _fits_table(thing: SceneObject, table: Table) -> bool:
    """Objects on the table lie inside its edge; the others stand clear of it."""
    dx, dy = thing.centre[0] - table.centre[0], thing.centre[1] - table.centre[1]
    c, s = math.cos(table.yaw), math.sin(table.yaw)
    across, along = abs(c * dx + s * dy), abs(c * dy - s * dx)
    half_x, half_y = table.size[0] / 2, table.size[1] / 2
    if thing.on_table:
        return across <= half_x - thing.footprint and along <= half_y - thing.footprint
    outside = math.hypot(max(across - half_x, 0.0), max(along - half_y, 0.0))
    return outside > thing.footprint + 0.03
