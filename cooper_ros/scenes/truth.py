"""What is true about each object of a rendered scene, measured, not guessed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cooper_ros.scenes.raycast import ROOM_OWNER, cast_room, scene_pieces, shared_caster, turn
from cooper_ros.scenes.render import Frame, pixel_rays
from cooper_ros.scenes.scene import FloatArray, Scene, SceneObject


@dataclass(frozen=True)
class ObjectTruth:
    """One object as the camera sees it.

    Attributes:
        index: its number in the scene and in ``Frame.instance``.
        thing: the object itself (world pose, size, colour, shape).
        position: its centre in the optical frame, metres (x right, y down, z forward).
        rotation: [3, 3], its axes (columns) in the optical frame.
        pixels: how many pixels show it.
        alone_pixels: how many would show it if nothing stood in front of it.
        box: (left, top, right, bottom) of its visible pixels, right and bottom excluded.
        centroid: mean (u, v) of its visible pixels.
        cut: the picture's border cuts it (or it is not in the picture at all).
        hidden_by: pixels of it that each other object covers, by object index.
    """

    index: int
    thing: SceneObject
    position: FloatArray
    rotation: FloatArray
    pixels: int
    alone_pixels: int
    share: float
    box: tuple[int, int, int, int]
    centroid: tuple[float, float]
    cut: bool
    hidden_by: dict[int, int]

    @property
    def name(self) -> str:
        """What questions call it."""
        return self.thing.name

    @property
    def distance(self) -> float:
        """Straight line from the camera to its centre, metres."""
        return float(np.linalg.norm(self.position))

    @property
    def hidden(self) -> float:
        """Share of its silhouette that other things cover, 0 .. 1."""
        return 1.0 - self.pixels / self.alone_pixels if self.alone_pixels else 0.0


def describe(scene: Scene, frame: Frame) -> tuple[ObjectTruth, ...]:
    """Measure every object of a scene in a frame rendered from it."""
    caster = shared_caster()
    caster.load(scene_pieces(scene))
    truths = tuple(_describe_one(scene, frame, index) for index in range(len(scene.objects)))
    caster.show(None)
    return truths


def _describe_one(scene: Scene, frame: Frame, index: int) -> ObjectTruth:
    thing, camera = scene.objects[index], scene.camera
    rows, columns = np.nonzero(frame.instance == index)
    alone, hidden_by, cut = _alone(scene, frame, index)
    seen = len(rows) > 0
    box = (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1) \
        if seen else (0, 0, 0, 0)
    centroid = (float(columns.mean()), float(rows.mean())) if seen else (-1.0, -1.0)
    return ObjectTruth(index, thing, camera.to_optical(np.array(thing.centre)),
                       camera.rotation().T @ turn(thing.yaw), len(rows), max(alone, len(rows)),
                       len(rows) / frame.instance.size, box, centroid, cut, hidden_by)


def _window(scene: Scene, frame: Frame, index: int) -> tuple[int, int, int, int]:
    """Return a pixel window (left, top, right, bottom) that certainly holds the whole object."""
    height, width = frame.instance.shape
    thing = scene.objects[index]
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
    corners *= [thing.footprint, thing.footprint, thing.size[2] / 2]
    points = np.array(thing.centre) + corners
    if scene.camera.to_optical(points)[:, 2].min() < 0.05:  # beside or behind the camera
        return 0, 0, width, height
    pixels = scene.camera.project(points, width, height)
    left, top = np.floor(pixels.min(0)).astype(int) - 1
    right, bottom = np.ceil(pixels.max(0)).astype(int) + 2
    return (int(np.clip(left, 0, width)), int(np.clip(top, 0, height)),
            int(np.clip(right, 0, width)), int(np.clip(bottom, 0, height)))


def _alone(scene: Scene, frame: Frame, index: int) -> tuple[int, dict[int, int], bool]:
    """Cast the object alone: silhouette pixels, who covers them, whether the border cuts it."""
    left, top, right, bottom = _window(scene, frame, index)
    if right <= left or bottom <= top:
        return 0, {}, True
    height, width = frame.instance.shape
    v, u = (grid.ravel() for grid in np.mgrid[top:bottom, left:right])
    caster, origin = shared_caster(), np.array(scene.camera.position)
    caster.show(index)
    rays = pixel_rays(scene, width, height, u.astype(float), v.astype(float))
    distance, owner, _, _ = caster.cast(origin, rays)
    mine = (owner != ROOM_OWNER) & (distance < cast_room(scene, origin, rays)[0])
    if not mine.any():
        return 0, {}, True
    u, v = u[mine], v[mine]
    cut = bool(u.min() == 0 or v.min() == 0 or u.max() == width - 1 or v.max() == height - 1)
    who, pixels = np.unique(frame.instance[v, u], return_counts=True)
    hidden_by = {int(w): int(n) for w, n in zip(who, pixels) if w != index}
    return int(mine.sum()), hidden_by, cut
