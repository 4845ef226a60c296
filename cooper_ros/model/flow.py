"""Arithmetic of rectified flow and classifier-free guidance (reference section 6.4).

Time runs from 1 (noise) to 0 (picture); a velocity points from picture to noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

GLOBAL, CHANNEL, TEXT_CHANNEL = 'global', 'channel', 'text_channel'
NORM_FLOOR = 1e-8


def shifted(times: Tensor, shift: float) -> Tensor:
    """Move flow times 0..1 towards noise; a shift of 1 changes nothing."""
    return shift * times / (1 + (shift - 1) * times)


def schedule(points: int, shift: float) -> Tensor:
    """Grid of flow times.

    Args:
        points: grid points, at least 2; the network runs ``points - 1`` times.
        shift: time shift.

    Returns:
        float32 ``[points]``, from exactly 1 down to exactly 0.
    """
    return shifted(torch.linspace(1, 0, points), shift)


def euler_step(x: Tensor, velocity: Tensor, time: float, next_time: float) -> Tensor:
    """One step towards the picture; float32 in, float32 out."""
    return x - velocity * (time - next_time)


def noised(clean: Tensor, noise: Tensor, times: Tensor) -> Tensor:
    """Latents on the straight line from picture (0) to noise (1); ``times`` broadcasts."""
    return (1 - times) * clean + times * noise


@dataclass(frozen=True)
class Guidance:
    """How velocities with and without parts of the context are combined.

    Attributes:
        text: scale against the context without the last text; 1 switches guidance off.
        image: scale against the context without images; 1 switches it off. It has no effect
            while ``text`` is 1 (published behaviour).
        low, high: guidance applies where ``low < time <= high``, time after the shift.
        renorm: ``global``, ``channel`` or ``text_channel``.
        renorm_min: smallest factor of the renormalisation; the largest is 1.
    """

    text: float = 4.0
    image: float = 2.0
    low: float = 0.0
    high: float = 1.0
    renorm: str = TEXT_CHANNEL
    renorm_min: float = 0.0

    def uses_text(self, time: float) -> bool:
        """Whether the velocity without the last text is needed at this time."""
        return self.text > 1 and self.low < time <= self.high

    def uses_image(self, time: float) -> bool:
        """Whether the velocity without images is needed at this time."""
        return self.image > 1 and self.uses_text(time)

    def combine(self, full: Tensor, no_text: Tensor | None, no_image: Tensor | None) -> Tensor:
        """The guided velocity.

        Args:
            full: velocity ``[N, P]`` under the whole context.
            no_text: the same without the last text, None when not in use.
            no_image: the same without images, None when not in use.

        Returns:
            ``[N, P]``; float32 with the channel types, the input type with ``global``.
        """
        if no_text is None:
            return full
        guided = no_text + self.text * (full - no_text)
        if self.renorm == TEXT_CHANNEL:
            guided = self._renormed(guided, full)
        if no_image is not None:
            guided = no_image + self.image * (guided - no_image)
        return guided if self.renorm == TEXT_CHANNEL else self._renormed(guided, full)

    def _renormed(self, guided: Tensor, full: Tensor) -> Tensor:
        """Shorten a velocity that guidance has made longer than the plain one."""
        whole = self.renorm == GLOBAL
        before, after = (torch.linalg.vector_norm(v, dim=None if whole else -1,
                                                  keepdim=not whole, dtype=torch.float32)
                         for v in (full, guided))
        return guided * (before / (after + NORM_FLOOR)).clamp(self.renorm_min, 1.0)
