"""What a scene is: plain frozen data, no drawing and no randomness.

World frame: metres, z up, floor at z = 0, the room is the box |x| <= width/2, |y| <= length/2,
0 <= z <= height. Camera frame: the optical frame of REP-103 (x right, y down, z forward).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Vec3 = tuple[float, float, float]
FloatArray = NDArray[np.float64]

MIN_DEPTH_M = 0.2
MAX_DEPTH_M = 8.0
HANDLE_RATIO = 0.30  # how far the handle of a cup sticks out, in cup diameters


@lru_cache(maxsize=64)
def _rotation(yaw: float, pitch: float, roll: float) -> FloatArray:
    cos_p, sin_p = math.cos(pitch), math.sin(pitch)
    forward = np.array([-math.sin(yaw) * cos_p, math.cos(yaw) * cos_p, sin_p])
    right = np.array([math.cos(yaw), math.sin(yaw), 0.0])
    down = np.cross(forward, right)
    cos_r, sin_r = math.cos(roll), math.sin(roll)
    matrix = np.stack([cos_r * right + sin_r * down, cos_r * down - sin_r * right, forward], 1)
    matrix.setflags(write=False)  # shared by every caller
    return matrix


@dataclass(frozen=True)
class Camera:
    """A pinhole camera: where it is, where it looks, how wide.

    ``yaw`` turns left around world z from looking along +y; ``pitch`` is negative looking down;
    ``roll`` turns the picture clockwise. Angles in radians, ``hfov_deg`` in degrees.
    """

    position: Vec3
    yaw: float
    pitch: float
    roll: float
    hfov_deg: float

    def rotation(self) -> FloatArray:
        """Return [3, 3], columns = optical x, y, z axes in world coordinates."""
        return _rotation(self.yaw, self.pitch, self.roll)

    def intrinsics(self, width: int, height: int) -> FloatArray:
        """Return K [3, 3], square pixels.

        The centre of pixel (0, 0) is at image coordinates (0, 0).
        """
        focal = width / 2 / math.tan(math.radians(self.hfov_deg) / 2)
        return np.array([[focal, 0.0, width / 2 - 0.5], [0.0, focal, height / 2 - 0.5],
                         [0.0, 0.0, 1.0]])

    def to_optical(self, points: FloatArray) -> FloatArray:
        """Turn world points [..., 3] into the optical frame."""
        return (np.asarray(points, float) - np.array(self.position)) @ self.rotation()

    def project(self, points: FloatArray, width: int, height: int) -> FloatArray:
        """Project world points [..., 3] to pixel coordinates [..., 2] (u right, v down)."""
        local = self.to_optical(points)
        k = self.intrinsics(width, height)
        return local[..., :2] / local[..., 2:] * k[0, 0] + k[:2, 2]


@dataclass(frozen=True)
class Surface:
    """A procedural finish: pattern name, two display-space colours, pattern period in metres."""

    pattern: str
    first: Vec3
    second: Vec3
    period: float
    angle: float = 0.0


@dataclass(frozen=True)
class Patch:
    """A rug or a picture: a flat rectangle of another finish, centre and half sizes in metres.

    ``wall`` is -1 for the floor, else 0..3 for the walls at +x, -x, +y, -y; coordinates are then
    (along the wall, height).
    """

    wall: int
    centre: tuple[float, float]
    half: tuple[float, float]
    surface: Surface


@dataclass(frozen=True)
class Room:
    """The closed box everything stands in."""

    width: float
    length: float
    height: float
    floor: Surface
    walls: tuple[Surface, Surface, Surface, Surface]
    patches: tuple[Patch, ...]


@dataclass(frozen=True)
class Table:
    """A table: centre on the floor, top size, height of the top surface, turn around z."""

    centre: tuple[float, float]
    size: tuple[float, float]
    height: float
    thickness: float
    leg: float
    yaw: float
    surface: Surface


@dataclass(frozen=True)
class Light:
    """A point light, a grey-ish ambient light, and the exposure of the picture."""

    position: Vec3
    colour: Vec3
    ambient: Vec3
    exposure: float
    noise: float


@dataclass(frozen=True)
class SceneObject:
    """One object. ``size`` is its full extent along its own axes before the turn ``yaw``."""

    colour: str
    shape: str
    centre: Vec3
    size: Vec3
    yaw: float
    on_table: bool
    albedo: Vec3
    gloss: float

    @property
    def name(self) -> str:
        """What questions call it, for instance ``red box``."""
        return f'{self.colour} {self.shape}'

    @property
    def top(self) -> float:
        """Height of its highest point above the floor in metres."""
        return self.centre[2] + self.size[2] / 2

    @property
    def footprint(self) -> float:
        """Radius in metres of the circle around its centre that holds it, seen from above."""
        if self.shape == 'box':
            return math.hypot(self.size[0], self.size[1]) / 2
        return max(self.size[0], self.size[1]) / 2


@dataclass(frozen=True)
class Scene:
    """One sampled world; equal scenes render to equal pictures."""

    seed: int
    split: str
    kind: str  # 'table' or 'room'
    room: Room
    table: Table | None
    objects: tuple[SceneObject, ...]
    camera: Camera
    light: Light
