"""An engine that misbehaves on request: for faults that a real one cannot be brought to show.

The question is the script, one word: ``crash``, ``hang``, ``memory``, ``slow``, ``bug``; anything
else is answered at once with the mean colour of the picture.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, Iterator

import numpy as np

from cooper_ros.config import CooperConfig
from cooper_ros.engine.events import Answer, Event, Failure, TextDelta
from cooper_ros.engine.limits import CancelToken
from cooper_ros.errors import BadCheckpoint, ErrorCode, OutOfMemory


class ScriptedEngine:
    """Has the methods that the worker calls."""

    lost = False

    def __init__(self, folder: str, config: CooperConfig) -> None:
        if (Path(folder) / 'broken').exists():
            raise BadCheckpoint('key missing', value='a.weight', remedy='download it again')
        if (Path(folder) / 'deadly').exists():
            os.kill(os.getpid(), signal.SIGKILL)

    def ask(self, image: np.ndarray, question: str, *, request_id: str, cancel: CancelToken,
            **changes: Any) -> Iterator[Event]:
        """Follow the script."""
        yield TextDelta(request_id, 0.0, 1, 'I see ')
        if question == 'crash':
            os.kill(os.getpid(), signal.SIGKILL)
        if question == 'hang':
            threading.Event().wait()
        if question == 'fault' or self.lost:
            self.lost = True
            raise RuntimeError('CUDA error: an illegal memory access was encountered')
        if question == 'bug':
            raise RuntimeError('a defect')
        if question == 'memory':
            error = OutOfMemory('no memory left for this request')
            yield Failure(request_id, 0.0, int(error.code), str(error))
        elif question == 'slow':
            yield from self._slow(request_id, cancel)
        else:
            colour = ' '.join(str(int(value)) for value in image.mean(axis=(0, 1)))
            yield _answer(request_id, f'{colour} seed {changes["seed"]}', ErrorCode.NONE)

    def _slow(self, request_id: str, cancel: CancelToken) -> Iterator[Event]:
        start = time.monotonic()
        while not cancel.cancelled:
            yield TextDelta(request_id, time.monotonic() - start, 1, 'and ')
            time.sleep(0.01)
        yield _answer(request_id, '', ErrorCode.CANCELED)

    def device_lost(self) -> bool:
        """Whether the script has broken it."""
        return self.lost

    def draw(self, image: np.ndarray, kind: str, **options: Any) -> Iterator[Event]:
        """Not scripted."""
        raise OutOfMemory('no memory left for this map')


def _answer(request_id: str, text: str, code: ErrorCode) -> Answer:
    return Answer(request_id, 0.1, text=text, short='', reasoning=('I see ' + text,),
                  confidence=0.5, complete=code == ErrorCode.NONE, error_code=int(code),
                  error_msg='' if code == ErrorCode.NONE else f'{code.name}: scripted')


if __name__ == '__main__':
    from cooper_ros.node.cooper_node import main
    sys.exit(main(engine_factory='support.scripted:ScriptedEngine'))
