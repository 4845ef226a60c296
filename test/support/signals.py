"""Children that hear Ctrl-C, wherever the tests were started."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import Iterator


@contextmanager
def sigint(handled: bool) -> Iterator[None]:
    """Let processes started meanwhile have SIGINT at its default, or ignored.

    Background jobs of a script inherit it ignored, and so would their children. A signal with a
    handler is at its default after exec.
    """
    before = signal.signal(signal.SIGINT,
                           signal.default_int_handler if handled else signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
