"""Rectified flow with guidance: from noise to latent tokens, one step at a time.

Scheduler, guidance and renormalisation stay outside the network (they are cheap, and every
runtime shares them); the branches of one step go through it in one batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator, Sequence

from torch import Tensor

from cooper_ros.engine.limits import Limits
from cooper_ros.model.flow import Guidance, euler_step, schedule
from cooper_ros.runtime.base import Session


@dataclass(frozen=True)
class DrawOptions:
    """How a map is drawn (reference section 6.4).

    Attributes:
        points: grid points from 1 to 0; one network evaluation fewer.
        shift: timestep shift.
        guidance: scales, interval and renormalisation.
    """

    points: int
    shift: float
    guidance: Guidance

    @property
    def steps(self) -> int:
        """Network evaluations."""
        return self.points - 1

    @property
    def guides_text(self) -> bool:
        """Whether any step needs the branch without the text."""
        return any(map(self.guidance.uses_text, self._times()))

    @property
    def guides_image(self) -> bool:
        """Whether any step needs the branch without the picture."""
        return any(map(self.guidance.uses_image, self._times()))

    def _times(self) -> list[float]:
        return schedule(self.points, self.shift).tolist()[:-1]

    def flow(self, session: Session, rows: Sequence[int], noise: Tensor, grid: tuple[int, int],
             limits: Limits) -> Iterator[Tensor]:
        """Yield the latent tokens ``[N, P]`` after every Euler step; the last ones are the map.

        Args:
            session: holds the contexts.
            rows: the rows with everything, without the last text, and without the picture.
            noise: start ``[N, P]``, float32.
            grid: latent grid (rows, columns), N = rows * columns.
            limits: asked before every step.
        """
        tokens = noise
        times = schedule(self.points, self.shift).tolist()
        for now, after in zip(times, times[1:]):
            limits.check()
            velocity = self.velocity(session, rows, tokens, now, grid)
            tokens = euler_step(tokens.to(velocity.device), velocity, now, after)
            yield tokens

    def velocity(self, session: Session, rows: Sequence[int], tokens: Tensor, time: float,
                 grid: tuple[int, int]) -> Tensor:
        """The guided velocity ``[N, P]`` of one step; all branches it needs in one forward."""
        guidance = self.guidance
        used = (True, guidance.uses_text(time), guidance.uses_image(time))
        wanted = [row for row, needed in zip(rows, used) if needed]
        found = iter(session.velocity(wanted, tokens, time, grid))  # [branches, N, P]
        full = next(found)
        return guidance.combine(full, *(next(found) if needed else None for needed in used[1:]))
