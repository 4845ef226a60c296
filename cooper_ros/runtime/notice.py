"""What loading has to say while it goes on: which runtime answers, why, and what is prepared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable


@dataclass(frozen=True)
class Notice:
    """The state of the runtime, whole in every notice.

    Attributes:
        text: for the log; empty for a mere step of progress.
        runtime: what answers now; empty while nothing does.
        preparing: what is made ready meanwhile, and how far it is; empty when nothing is.
        choice: why this runtime and no other, one clause per candidate.
        error: whether something went wrong.
    """

    text: str = ''
    runtime: str = ''
    preparing: str = ''
    choice: str = ''
    error: bool = False


Tell = Callable[[Notice], None]


def silent(notice: Notice) -> None:
    """Tell nobody."""
