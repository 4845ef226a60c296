"""A simulated room with a slowly moving camera: the robot's eye of the demo."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from cooper_ros.errors import BadOption
from cooper_ros.scenes.qa import QuestionAnswer
from cooper_ros.scenes.questions import questions
from cooper_ros.scenes.render import Frame, render
from cooper_ros.scenes.sample import CAMERA_GAP, sample_scene
from cooper_ros.scenes.scene import Camera, FloatArray, Scene

DEMO_SEED = 21
_SWAY_M = 0.18  # how far the camera moves to either side
_PERIOD_S = 24.0
_WALL_GAP = 0.25


class SimulatedRoom:
    """A scene seen by a camera that sways from side to side and keeps looking at the middle.

    Time is given by the caller, so the same time always gives the same frame.

    Args:
        seed: number of the scene within its split.
        split: train, validation or test; the test split was never trained on.
        width, height: picture size in pixels.
        light_samples: points of the lamp; 1 gives hard shadows and is fastest.

    Raises:
        BadOption: unknown split, seed or size out of range.
    """

    def __init__(self, seed: int = DEMO_SEED, split: str = 'test', *, width: int = 320,
                 height: int = 240, light_samples: int = 1) -> None:
        self.width, self.height, self.light_samples = width, height, light_samples
        self._scene = sample_scene(seed, split)
        self._target = self._middle()
        self._sway = self._free_sway()

    @property
    def intrinsics(self) -> FloatArray:
        """K [3, 3] of every frame; the field of view does not change."""
        return self._scene.camera.intrinsics(self.width, self.height)

    def scene(self, t_s: float) -> Scene:
        """Return the scene at a time in seconds, camera moved.

        Raises:
            BadOption: the time is not finite.
        """
        if not math.isfinite(t_s):
            raise BadOption('time is not finite', value=t_s)
        return replace(self._scene, camera=self._camera(
            self._sway * math.sin(2 * math.pi * t_s / _PERIOD_S)))

    def frame(self, t_s: float) -> Frame:
        """Return picture, depth, instances and labels at a time in seconds."""
        scene = self.scene(t_s)  # checks the time
        noise = int(abs(t_s) * 1000) % 2**31
        return render(scene, self.width, self.height, noise_seed=noise,
                      light_samples=self.light_samples)

    def questions(self, t_s: float, *, per_category: int = 1) -> list[QuestionAnswer]:
        """Return questions with their true answers for the frame at a time in seconds."""
        scene = self.scene(t_s)
        return questions(scene, render(scene, self.width, self.height, smooth=False),
                         per_category=per_category)

    def _middle(self) -> FloatArray:
        camera = self._scene.camera
        centres = np.array([thing.centre for thing in self._scene.objects])
        ahead = float(np.median(camera.to_optical(centres)[:, 2]))
        return np.array(camera.position) + ahead * camera.rotation()[:, 2]

    def _camera(self, sway: float) -> Camera:
        start = self._scene.camera
        position = np.array(start.position) + sway * start.rotation()[:, 0]
        dx, dy, dz = self._target - position
        return replace(start, position=(float(position[0]), float(position[1]),
                                        float(position[2])),
                       yaw=math.atan2(-dx, dy), pitch=math.atan2(dz, math.hypot(dx, dy)))

    def _free_sway(self) -> float:
        """Return the widest sway, up to the limit, that keeps clear of walls and objects."""
        for share in (1.0, 0.75, 0.5, 0.25):
            if all(self._clear(self._camera(side * share * _SWAY_M)) for side in (-1, 1)):
                return share * _SWAY_M
        return 0.0

    def _clear(self, camera: Camera) -> bool:
        x, y, z = camera.position
        room = self._scene.room
        inside = abs(x) < room.width / 2 - _WALL_GAP and abs(y) < room.length / 2 - _WALL_GAP
        return inside and all(math.dist((x, y), thing.centre[:2]) > CAMERA_GAP + thing.footprint
                              for thing in self._scene.objects)
