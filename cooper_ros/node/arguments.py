"""What the programs of the node share in reading their command lines. No ROS in here."""

from __future__ import annotations

import argparse
from typing import Callable, Sequence


def asks_for_help(words: Sequence[str]) -> bool:
    """Whether a program is asked what it is; ROS passes such words over and starts the node."""
    return bool({'-h', '--help'} & set(words))


def whole(low: int, high: int) -> Callable[[str], int]:
    """Read a whole number from ``low`` to ``high``; for ``type`` of argparse, which exits."""
    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = low - 1
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(f'{text} is no whole number of {low} .. {high}')
        return number
    return read
