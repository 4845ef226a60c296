"""What TensorRT says of its own errors: only its logger hears why something did not work."""

from __future__ import annotations

import functools
import logging
from collections import deque
from typing import Any

KEPT = 16  # errors; a fault brings a few, a broken driver one in every call
_LOG = logging.getLogger(__name__)


class Words:
    """Keeps TensorRT's errors for our messages instead of printing them.

    Args:
        module: TensorRT.
    """

    def __init__(self, module: Any) -> None:
        lines: deque[str] = deque(maxlen=KEPT)
        errors = (module.ILogger.INTERNAL_ERROR, module.ILogger.ERROR)

        class Handle(module.ILogger):  # type: ignore[name-defined,misc]
            """What TensorRT calls."""

            def __init__(self) -> None:
                module.ILogger.__init__(self)  # pybind refuses super() here

            def log(self, severity: Any, message: str) -> None:
                """Keep errors, drop the rest."""
                if severity in errors:
                    lines.append(message)
                    _LOG.info('TensorRT: %s', message)

        self.handle, self._lines = Handle(), lines

    def forget(self) -> None:
        """What was said so far belongs to something else; call before what may fail."""
        self._lines.clear()

    def last(self) -> str:
        """The last errors; empty where there are none."""
        return '; '.join(list(self._lines)[-3:])[-600:]


@functools.cache
def words_of(module: Any) -> Words:
    """The one of a TensorRT: it goes on using the first logger that it was ever given."""
    return Words(module)
