"""The real engine, with a model that knows when to stop: random weights never do.

Every turn ends with its token number ``LENGTH``, but for the question ``LONG``.
"""

from __future__ import annotations

import math
import sys
from typing import Any, Callable, Iterator

import torch

from cooper_ros.engine import talk
from cooper_ros.engine.engine import CooperEngine
from cooper_ros.engine.events import Event
from cooper_ros.engine.sampling import TextOptions, choose_token

LONG = 'tell me all about it'
LENGTH = 8


class BriefEngine(CooperEngine):
    """Answers one request after the other, in one thread."""

    def ask(self, images: Any, question: str, **more: Any) -> Iterator[Event]:
        """As the real one."""
        talk.choose_token = ends_after(math.inf if question == LONG else LENGTH,
                                       self.parts.codec.end)
        yield from super().ask(images, question, **more)


def ends_after(length: float, end: int) -> Callable[..., tuple[int, float]]:
    """Choose as the real one, but the end token when a turn is long enough."""
    chosen = 0

    def choose(logits: torch.Tensor, options: TextOptions, generator: torch.Generator | None
               ) -> tuple[int, float]:
        nonlocal chosen
        token, probability = choose_token(logits, options, generator)
        chosen = (chosen + 1) % length
        return token if chosen else end, probability
    return choose


if __name__ == '__main__':
    from cooper_ros.node.cooper_node import main
    sys.exit(main(engine_factory='support.brief:BriefEngine.from_pretrained'))
