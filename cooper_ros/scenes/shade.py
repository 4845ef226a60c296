"""Light and colour for ray hits: procedural finishes, Lambert, ambient, cast shadows, gloss.

Albedos are given as displayed; light adds up on their squares (gamma 2), and the square root at
the end brings the sum back to display space.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cooper_ros.scenes.palette import FLOOR, TABLE, WALL
from cooper_ros.scenes.raycast import ROOM_OWNER, TABLE_OWNER, Caster, cast_room
from cooper_ros.scenes.scene import HANDLE_RATIO, FloatArray, Patch, Scene, Surface

_SIDE_NORMAL = np.array([[-1, 0, 0], [1, 0, 0], [0, -1, 0], [0, 1, 0], [0, 0, -1], [0, 0, 1]],
                        float)
_SKIRTING = 0.08  # metres of darker board along the foot of the walls
_CEILING = 0.93


@dataclass(frozen=True)
class Hits:
    """What rays met: distance [N] in ray lengths, points and normals [N, 3], owner [N].

    ``owner`` is an object index, -1 the room, -2 the table; ``side`` [N] is the side of the room.
    """

    distance: FloatArray
    point: FloatArray
    normal: FloatArray
    owner: NDArray[np.int32]
    side: NDArray[np.int8]


def trace(scene: Scene, caster: Caster, rays: FloatArray) -> Hits:
    """Follow rays [N, 3] from the camera to the nearest surface."""
    origin = np.array(scene.camera.position)
    distance, owner, normal, _ = caster.cast(origin, rays)
    shell, side = cast_room(scene, origin, rays)
    outer = shell <= distance
    owner = np.where(outer, ROOM_OWNER, owner).astype(np.int32)
    distance = np.where(outer, shell, distance)
    normal = np.where(outer[:, None], _SIDE_NORMAL[side], normal)
    return Hits(distance, origin + rays * distance[:, None], normal, owner, side)


def class_ids(scene: Scene, hits: Hits, of_object: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return palette class ids [N]; ``of_object`` maps object index to class."""
    room = np.where(hits.side == 5, FLOOR, WALL).astype(np.uint8)
    labels = np.where(hits.owner == TABLE_OWNER, np.uint8(TABLE), room)
    mine = hits.owner >= 0
    labels[mine] = of_object[hits.owner[mine]]
    return labels


def shade(scene: Scene, caster: Caster, hits: Hits, light_samples: int = 1) -> FloatArray:
    """Return displayed colours [N, 3] in 0..1, before noise."""
    albedo = _albedo(scene, hits) ** 2
    light = scene.light
    ambient = np.array(light.ambient) * (0.8 + 0.2 * hits.normal[:, 2:])
    total = ambient * _closeness(scene, hits)[:, None] * albedo
    for position in _light_positions(scene, light_samples):
        total += _direct(scene, caster, hits, albedo, position) / light_samples
    total *= light.exposure
    return np.sqrt(total / (1.0 + 0.25 * total))  # a soft shoulder instead of hard clipping


def _light_positions(scene: Scene, count: int) -> list[FloatArray]:
    centre = np.array(scene.light.position)
    if count == 1:
        return [centre]
    angles = np.arange(count) * 2.399963  # golden angle: an even disc of any count
    radii = 0.16 * np.sqrt((np.arange(count) + 0.5) / count)
    return [centre + [r * math.cos(a), r * math.sin(a), 0.0] for a, r in zip(angles, radii)]


def _direct(scene: Scene, caster: Caster, hits: Hits, albedo: FloatArray,
            position: FloatArray) -> FloatArray:
    """Return light from one point [N, 3]: Lambert and gloss, nothing where a shadow falls."""
    to_light = position - hits.point
    distance = np.sqrt(np.einsum('ij,ij->i', to_light, to_light))
    cosine = np.einsum('ij,ij->i', to_light, hits.normal) / distance
    lit = cosine > 0
    chosen = np.flatnonzero(lit)
    lit[chosen] = ~caster.blocked(position, hits.point[chosen] + 1e-4 * hits.normal[chosen])
    strength = np.where(lit, 1.25 / (1.0 + 0.08 * distance ** 2), 0.0)
    out = albedo * (strength * np.maximum(cosine, 0.0))[:, None]
    _add_gloss(scene, hits, to_light / distance[:, None], strength, out)
    return out * np.array(scene.light.colour)


def _add_gloss(scene: Scene, hits: Hits, to_light: FloatArray, strength: FloatArray,
               out: FloatArray) -> None:
    """Add a Blinn-Phong highlight on objects, in place."""
    mine = np.flatnonzero((hits.owner >= 0) & (strength > 0))
    gloss = np.array([thing.gloss for thing in scene.objects])[hits.owner[mine]]
    to_eye = np.array(scene.camera.position) - hits.point[mine]
    to_eye /= np.linalg.norm(to_eye, axis=1, keepdims=True)
    half = to_light[mine] + to_eye
    half /= np.linalg.norm(half, axis=1, keepdims=True)
    peak = np.maximum(np.einsum('ij,ij->i', half, hits.normal[mine]), 0.0)
    peak = peak * peak
    for _ in range(4):  # the 32nd power by squaring
        peak = peak * peak
    out[mine] += (gloss * peak * strength[mine])[:, None]


def _closeness(scene: Scene, hits: Hits) -> FloatArray:
    """Return how open surfaces are to ambient light [N]: darker under and beside objects."""
    open_sky = np.ones(len(hits.owner))
    flat = hits.normal[:, 2] > 0.9
    for on_table in (False, True):
        things = [thing for thing in scene.objects if thing.on_table == on_table]
        owner = TABLE_OWNER if on_table else ROOM_OWNER
        rows = np.flatnonzero(flat & (hits.owner == owner))
        if not things or not len(rows):
            continue
        centres = np.array([thing.centre[:2] for thing in things])
        radii = np.array([thing.footprint for thing in things])
        gap = np.sqrt(((hits.point[rows, None, :2] - centres) ** 2).sum(-1)) / radii
        open_sky[rows] = np.prod(1.0 - 0.55 * np.exp(-np.maximum(gap - 0.6, 0.0) * 2.2), axis=1)
    corner = np.minimum(hits.point[:, 2], 0.5) * 2
    wall = (hits.owner == ROOM_OWNER) & (hits.side < 4)
    open_sky[wall] *= 0.75 + 0.25 * corner[wall]
    return open_sky


# --- procedural finishes ------------------------------------------------------------------------

def _albedo(scene: Scene, hits: Hits) -> FloatArray:
    out = np.full((len(hits.owner), 3), _CEILING)
    room = hits.owner == ROOM_OWNER
    for side in range(4):
        rows = np.flatnonzero(room & (hits.side == side))
        if len(rows):
            flat = hits.point[rows][:, [1 - side // 2, 2]]
            out[rows] = _wall(scene, side, flat)
    rows = np.flatnonzero(room & (hits.side == 5))
    if len(rows):
        out[rows] = _patched(scene, -1, hits.point[rows, :2], scene.room.floor)
    rows = np.flatnonzero(hits.owner == TABLE_OWNER)
    if len(rows) and scene.table is not None:
        out[rows] = _table(scene, hits.point[rows])
    rows = np.flatnonzero(hits.owner >= 0)
    if len(rows):
        out[rows] = np.array([thing.albedo for thing in scene.objects])[hits.owner[rows]]
        _darken_cups(scene, hits, out)
    return out


def _wall(scene: Scene, side: int, flat: FloatArray) -> FloatArray:
    colour = _patched(scene, side, flat, scene.room.walls[side])
    colour[flat[:, 1] < _SKIRTING] *= 0.6
    return colour


def _table(scene: Scene, points: FloatArray) -> FloatArray:
    table = scene.table
    assert table is not None
    c, s = math.cos(table.yaw), math.sin(table.yaw)
    local = points[:, :2] - np.array(table.centre)
    flat = np.stack([c * local[:, 0] + s * local[:, 1], c * local[:, 1] - s * local[:, 0]], 1)
    colour = finish(table.surface, flat)
    colour[points[:, 2] < table.height - 1e-3] *= 0.8
    return colour


def _darken_cups(scene: Scene, hits: Hits, out: FloatArray) -> None:
    """Paint the inside of a cup: the cylinder's top, up to the rim, is dark."""
    for index, thing in enumerate(scene.objects):
        if thing.shape != 'cup':
            continue
        rows = np.flatnonzero((hits.owner == index) & (hits.point[:, 2] > thing.top - 1e-4))
        shift = HANDLE_RATIO * thing.size[1] / 2
        x = thing.centre[0] - shift * math.cos(thing.yaw)
        y = thing.centre[1] - shift * math.sin(thing.yaw)
        inner = np.hypot(hits.point[rows, 0] - x, hits.point[rows, 1] - y) < 0.42 * thing.size[1]
        out[rows[inner]] *= 0.45


def _patched(scene: Scene, wall: int, flat: FloatArray, surface: Surface) -> FloatArray:
    colour = finish(surface, flat)
    for patch in scene.room.patches:
        if patch.wall == wall:
            _lay_patch(patch, flat, colour)
    return colour


def _lay_patch(patch: Patch, flat: FloatArray, colour: FloatArray) -> None:
    away = np.abs(flat - np.array(patch.centre)) / np.array(patch.half)
    reach = away.max(1)
    inside = reach < 1.0
    colour[inside] = finish(patch.surface, flat[inside])
    rim = inside & (reach > 0.9)
    colour[rim] = np.array(patch.surface.second) * (0.35 if patch.wall >= 0 else 0.8)


def finish(surface: Surface, flat: FloatArray) -> FloatArray:
    """Return albedo [N, 3] of a finish at plane coordinates [N, 2] in metres."""
    c, s = math.cos(surface.angle), math.sin(surface.angle)
    u = (c * flat[:, 0] + s * flat[:, 1]) / surface.period
    v = (c * flat[:, 1] - s * flat[:, 0]) / surface.period
    share = np.clip(_PATTERNS[surface.pattern](u, v), 0.0, 1.0)[:, None]
    return np.array(surface.first) * (1 - share) + np.array(surface.second) * share


def _plain(u: FloatArray, v: FloatArray) -> FloatArray:
    return np.zeros_like(u)


def _checker(u: FloatArray, v: FloatArray) -> FloatArray:
    return np.mod(np.floor(u) + np.floor(v), 2)


def _tiles(u: FloatArray, v: FloatArray) -> FloatArray:
    grout = (np.mod(u, 1) < 0.05) | (np.mod(v, 1) < 0.05)
    return np.where(grout, 1.0, 0.25 * _scatter(np.floor(u), np.floor(v)))


def _planks(u: FloatArray, v: FloatArray) -> FloatArray:
    row = np.floor(u * 2.5)
    along = v / 3 + _scatter(row, row) * 7
    seam = (np.mod(u * 2.5, 1) < 0.06) | (np.mod(along, 1) < 0.012)
    return np.where(seam, 1.3, 0.8 * _scatter(row, np.floor(along)))


def _grain(u: FloatArray, v: FloatArray) -> FloatArray:
    return 0.5 + 0.5 * np.sin(9 * u + 1.6 * np.sin(0.7 * v) + 0.8 * np.sin(2.3 * u + 0.4 * v))


def _stripes(u: FloatArray, v: FloatArray) -> FloatArray:
    return (np.mod(u, 1) < 0.5).astype(float)


def _bricks(u: FloatArray, v: FloatArray) -> FloatArray:
    row = np.floor(v * 3)
    joint = (np.mod(v * 3, 1) < 0.12) | (np.mod(u + 0.5 * np.mod(row, 2), 1) < 0.05)
    return np.where(joint, 0.0, 1.0)


def _scatter(a: FloatArray, b: FloatArray) -> FloatArray:
    """A repeatable random number in 0..1 for every cell."""
    return np.mod(np.sin(a * 12.9898 + b * 78.233) * 43758.5453, 1.0)


_PATTERNS = {'plain': _plain, 'checker': _checker, 'tiles': _tiles, 'planks': _planks,
             'grain': _grain, 'stripes': _stripes, 'bricks': _bricks}
