"""Ray casting through MuJoCo, without compiling a model per scene.

One model with a pool of single-geom bodies is compiled once per process. A scene moves, resizes
and retypes those geoms in place, together with the bounding volumes by which
``mj_multiRay`` culls (a body's volume has to follow its geom, or rays miss it). The room is a
convex box seen from the inside, so its walls need no geoms at all: one division per axis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

try:
    import mujoco
except ImportError as error:  # robots do without
    raise ImportError('simulated rooms need MuJoCo: pip install mujoco') from error

from cooper_ros.errors import BadData
from cooper_ros.scenes.scene import HANDLE_RATIO, FloatArray, Scene, SceneObject, Table

POOL = 24
FAR = 1e6
_GEOM = mujoco.mjtGeom
_BOX, _SPHERE = int(_GEOM.mjGEOM_BOX), int(_GEOM.mjGEOM_SPHERE)
_CAPSULE, _CYLINDER = int(_GEOM.mjGEOM_CAPSULE), int(_GEOM.mjGEOM_CYLINDER)
_ELLIPSOID = int(_GEOM.mjGEOM_ELLIPSOID)
_SHAPE_GEOM = {'box': _BOX, 'ball': _SPHERE, 'can': _CYLINDER, 'pill': _CAPSULE,
               'egg': _ELLIPSOID, 'cup': _CYLINDER}
_ALONG_X = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])  # local z -> object x
_ALONG_Y = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])  # local z -> object -y

TABLE_OWNER = -2
ROOM_OWNER = -1


@dataclass(frozen=True)
class Piece:
    """One geom: type, world centre, world rotation, MuJoCo size, and the object it belongs to."""

    geom: int
    centre: FloatArray
    rotation: FloatArray
    size: tuple[float, float, float]
    owner: int


def turn(yaw: float) -> FloatArray:
    """Return the rotation [3, 3] around world z."""
    c, s = math.cos(yaw), math.sin(yaw)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def _body_size(thing: SceneObject) -> tuple[float, float, float]:
    x, y, z = (half / 2 for half in thing.size)
    if thing.shape == 'can':
        return x, z, 0.0
    if thing.shape == 'cup':  # the handle is part of the extent along x
        return y, z, 0.0
    if thing.shape == 'pill':
        return y, x - y, 0.0
    return x, y, z


def object_pieces(thing: SceneObject, owner: int) -> list[Piece]:
    """Return the geoms of one object; a cup is a cylinder and a flat disc for its handle."""
    spin, centre = turn(thing.yaw), np.array(thing.centre)
    rotation = spin @ _ALONG_X if thing.shape == 'pill' else spin
    if thing.shape != 'cup':
        return [Piece(_SHAPE_GEOM[thing.shape], centre, rotation, _body_size(thing), owner)]
    diameter, height = thing.size[1], thing.size[2]
    body = centre + spin @ np.array([-HANDLE_RATIO * diameter / 2, 0.0, 0.0])
    radius = min(HANDLE_RATIO * diameter, height * 0.4)
    handle = centre + spin @ np.array([thing.size[0] / 2 - radius, 0.0, 0.0])
    return [Piece(_CYLINDER, body, rotation, _body_size(thing), owner),
            Piece(_CYLINDER, handle, spin @ _ALONG_Y, (radius, diameter * 0.07, 0.0), owner)]


def table_pieces(table: Table) -> list[Piece]:
    """Return the geoms of a table: the top and four legs."""
    spin = turn(table.yaw)
    centre = np.array([*table.centre, table.height - table.thickness / 2])
    half = (table.size[0] / 2, table.size[1] / 2, table.thickness / 2)
    pieces = [Piece(_BOX, centre, spin, half, TABLE_OWNER)]
    rise = (table.height - table.thickness) / 2
    for sign_x in (-1, 1):
        for sign_y in (-1, 1):
            offset = np.array([sign_x * (half[0] - table.leg), sign_y * (half[1] - table.leg), 0])
            at = np.array([*table.centre, rise]) + spin @ offset
            pieces.append(Piece(_BOX, at, spin, (table.leg / 2, table.leg / 2, rise),
                                TABLE_OWNER))
    return pieces


def scene_pieces(scene: Scene) -> list[Piece]:
    """Return every geom of a scene, objects first."""
    pieces = [piece for index, thing in enumerate(scene.objects)
              for piece in object_pieces(thing, index)]
    return pieces + (table_pieces(scene.table) if scene.table else [])


def half_extent(piece: Piece) -> tuple[float, float, float]:
    """Return the half sizes of a geom's own bounding box."""
    a, b, c = piece.size
    if piece.geom == _SPHERE:
        return a, a, a
    if piece.geom == _CYLINDER:
        return a, a, b
    if piece.geom == _CAPSULE:
        return a, a, a + b
    return a, b, c


class Caster:
    """A compiled pool of geoms that takes the form of one scene after another."""

    def __init__(self) -> None:
        body = '<body><geom type="box" size=".1 .1 .1"/></body>'
        xml = f'<mujoco><worldbody>{body * POOL}</worldbody></mujoco>'
        self._model = mujoco.MjModel.from_xml_string(xml)
        self._data = mujoco.MjData(self._model)
        mujoco.mj_forward(self._model, self._data)
        self._owner = np.full(POOL + 1, ROOM_OWNER, np.int32)  # last entry serves "no geom"

    def load(self, pieces: list[Piece]) -> None:
        """Give the pool the form of these geoms.

        Raises:
            BadData: there are more geoms than the pool holds.
        """
        n, model, data = len(pieces), self._model, self._data
        if n > POOL:
            raise BadData('scene has too many parts', value=n, limit=POOL)
        model.geom_rgba[:, 3] = 0.0  # rays pass through what is invisible
        self._owner[:] = ROOM_OWNER
        if n:
            extents = np.array([half_extent(piece) for piece in pieces])
            centres = np.array([piece.centre for piece in pieces])
            rotations = np.array([piece.rotation.ravel() for piece in pieces])
            model.geom_type[:n] = [piece.geom for piece in pieces]
            model.geom_size[:n] = [piece.size for piece in pieces]
            model.geom_rbound[:n] = np.linalg.norm(extents, axis=1)
            model.geom_aabb[:n, 3:] = model.bvh_aabb[:n, 3:] = extents
            data.geom_xpos[:n] = data.xpos[1:n + 1] = data.xipos[1:n + 1] = centres
            data.geom_xmat[:n] = data.xmat[1:n + 1] = data.ximat[1:n + 1] = rotations
            self._owner[:n] = [piece.owner for piece in pieces]
        self.show(None)

    def show(self, owner: int | None) -> None:
        """Let rays see all geoms, or those of one object only."""
        mine = self._owner[:POOL]
        self._model.geom_rgba[:, 3] = (mine != ROOM_OWNER) if owner is None else (mine == owner)

    def cast(self, origin: FloatArray, rays: FloatArray) -> tuple[FloatArray, NDArray[np.int32],
                                                                  FloatArray, NDArray[np.int32]]:
        """Cast rays [N, 3] from one point; ray lengths are the unit of the distances.

        Returns:
            distance [N] (1e6 where nothing was hit), owner [N], normal [N, 3], geom [N] (-1 none).
        """
        n = len(rays)
        geom, distance = np.empty(n, np.int32), np.empty(n)
        normal = np.empty(3 * n)
        mujoco.mj_multiRay(self._model, self._data, origin, np.ascontiguousarray(rays).ravel(),
                           None, True, -1, geom, distance, normal, n, 1e10)
        distance[geom < 0] = FAR
        return distance, self._owner[geom], normal.reshape(n, 3), geom

    def blocked(self, origin: FloatArray, points: FloatArray) -> NDArray[np.bool_]:
        """Return [N], whether something stands between ``origin`` (the light) and each point."""
        n = len(points)
        geom, distance = np.empty(n, np.int32), np.empty(n)
        mujoco.mj_multiRay(self._model, self._data, origin, (points - origin).ravel(),
                           None, True, -1, geom, distance, None, n, 1e10)
        return (geom >= 0) & (distance < 0.998)


@lru_cache(maxsize=1)
def shared_caster() -> Caster:
    """Return the caster of this process (compiling takes milliseconds, once)."""
    return Caster()


def cast_room(scene: Scene, origin: FloatArray, rays: FloatArray
              ) -> tuple[FloatArray, NDArray[np.int8]]:
    """Return distance [N] to the room's shell in ray lengths, and its side [N].

    Sides: 0 +x, 1 -x, 2 +y, 3 -y, 4 ceiling, 5 floor.
    """
    high = np.array([scene.room.width / 2, scene.room.length / 2, scene.room.height])
    low = np.array([-high[0], -high[1], 0.0])
    with np.errstate(divide='ignore', invalid='ignore'):
        along = np.where(rays > 0, high - origin, low - origin) / rays
    along[rays == 0] = FAR
    axis = along.argmin(1)
    rows = np.arange(len(rays))
    return along[rows, axis], (axis * 2 + (rays[rows, axis] < 0)).astype(np.int8)
