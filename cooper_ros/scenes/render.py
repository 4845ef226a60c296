"""From a scene to the picture, its exact depth, its instances and its class labels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from cooper_ros.errors import BadOption
from cooper_ros.scenes.palette import CLASS_OF_COLOUR, paint
from cooper_ros.scenes.raycast import Caster, scene_pieces, shared_caster
from cooper_ros.scenes.scene import FloatArray, Scene
from cooper_ros.scenes.shade import class_ids, shade, trace

WIDTH, HEIGHT = 128, 96
_MAX_SIDE = 4096
_EDGE = 14.0  # grey levels between neighbours beyond which a pixel is smoothed
_OFFSETS = ((-0.25, -0.25), (0.25, 0.25))


@dataclass(frozen=True)
class Frame:
    """One picture with its truth.

    Attributes:
        rgb: [H, W, 3] uint8.
        depth_m: [H, W] float32, metres along the optical axis (z), not along the ray.
        instance: [H, W] int16, object index, -1 the room, -2 the table.
        labels: [H, W] uint8, class ids of ``SCENE_PALETTE``.
        intrinsics: K [3, 3] float64.
    """

    rgb: NDArray[np.uint8]
    depth_m: NDArray[np.float32]
    instance: NDArray[np.int16]
    labels: NDArray[np.uint8]
    intrinsics: FloatArray

    @property
    def focal(self) -> float:
        """Focal length in longest sides of the picture."""
        return float(self.intrinsics[0, 0]) / max(self.labels.shape)

    @property
    def segmentation(self) -> NDArray[np.uint8]:
        """The RGB segmentation target [H, W, 3]."""
        return paint(self.labels)


@lru_cache(maxsize=4)
def _grid(width: int, height: int) -> tuple[FloatArray, FloatArray]:
    v, u = np.mgrid[0:height, 0:width].astype(float)
    return u.ravel(), v.ravel()


def pixel_rays(scene: Scene, width: int, height: int, u: FloatArray, v: FloatArray) -> FloatArray:
    """Return world rays [N, 3] through pixel coordinates; one ray length is one metre of depth."""
    k = scene.camera.intrinsics(width, height)
    local = np.stack([(u - k[0, 2]) / k[0, 0], (v - k[1, 2]) / k[1, 1], np.ones_like(u)], 1)
    return local @ scene.camera.rotation().T


def render(scene: Scene, width: int = WIDTH, height: int = HEIGHT, *, smooth: bool = True,
           light_samples: int = 1, noise_seed: int = 0) -> Frame:
    """Draw a scene.

    Args:
        scene: what to draw.
        width, height: size in pixels; the horizontal field of view stays the camera's.
        smooth: smooth edges in the picture (never in depth, instances or labels).
        light_samples: points of the lamp; 1 gives hard shadows, 8 or more soft ones.
        noise_seed: changes the sensor noise only.

    Raises:
        BadOption: a side is not in 8 .. 4096.
    """
    if not (8 <= width <= _MAX_SIDE and 8 <= height <= _MAX_SIDE):
        raise BadOption('picture size out of range', value=f'{width}x{height}',
                        limit=f'8 .. {_MAX_SIDE}')
    caster = shared_caster()
    caster.load(scene_pieces(scene))
    u, v = _grid(width, height)
    hits = trace(scene, caster, pixel_rays(scene, width, height, u, v))
    colour = (shade(scene, caster, hits, light_samples) * 255).reshape(height, width, 3)
    instance = hits.owner.astype(np.int16).reshape(height, width)
    if smooth:
        _smooth_edges(scene, caster, colour, instance, light_samples)
    of_object = np.array([CLASS_OF_COLOUR[thing.colour] for thing in scene.objects], np.uint8)
    return Frame(_expose(scene, colour, noise_seed),
                 hits.distance.astype(np.float32).reshape(height, width), instance,
                 class_ids(scene, hits, of_object).reshape(height, width),
                 scene.camera.intrinsics(width, height))


def _edges(colour: FloatArray, instance: NDArray[np.int16]) -> NDArray[np.intp]:
    edge = np.zeros(instance.shape, bool)
    across, down = ((np.abs(np.diff(colour[..., 1], axis=axis)) > _EDGE)
                    | (np.diff(instance, axis=axis) != 0) for axis in (1, 0))
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    return np.flatnonzero(edge)


def _smooth_edges(scene: Scene, caster: Caster, colour: FloatArray, instance: NDArray[np.int16],
                  light_samples: int) -> None:
    """Average edge pixels over extra rays, in place."""
    height, width = instance.shape
    rows = _edges(colour, instance)
    u, v = _grid(width, height)
    flat = colour.reshape(-1, 3)
    total = flat[rows].copy()
    for du, dv in _OFFSETS:
        rays = pixel_rays(scene, width, height, u[rows] + du, v[rows] + dv)
        total += shade(scene, caster, trace(scene, caster, rays), light_samples) * 255
    flat[rows] = total / (1 + len(_OFFSETS))


def _expose(scene: Scene, colour: FloatArray, noise_seed: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng([scene.seed, 7919, noise_seed])
    noise = rng.standard_normal(colour.shape, np.float32) * scene.light.noise
    return np.clip(colour + noise + 0.5, 0, 255).astype(np.uint8)
