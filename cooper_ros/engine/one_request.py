"""One request at a time: other threads wait, the thread at work is refused instead of stuck."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import Iterator

from cooper_ros.errors import Busy


class OneRequest:
    """Held by the request that runs, from its first event to the end of its iterator.

    It belongs to the thread of the first event, which should take the others, too.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holder: tuple[threading.Thread, str] | None = None  # who took it, for which request

    @contextmanager
    def taken(self, name: str) -> Iterator[None]:
        """Hold it for a block, in which a generator may be suspended.

        Args:
            name: of the request, for the error.

        Raises:
            Busy: this thread holds it already, and would wait for itself.
        """
        me, holder = threading.current_thread(), self._holder  # numbers of threads come again
        if holder is not None and holder[0] is me:  # nobody but this thread can have set that
            raise Busy("the iterator of this thread's last request is unfinished",
                       value=f'request {holder[1]}', limit='one request at a time',
                       remedy='exhaust the iterator, or close it')
        with self._lock:
            self._holder = me, name
            try:
                yield
            finally:
                self._holder = None
