"""What a replay leaves in its folder, and what of it a later one may replace."""

from __future__ import annotations

import re
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

from cooper_ros.errors import BadOption

ANSWERS = 'answers'
BAG, DEMO_MARKER = 'bag', '.cooper_demo'  # of a demo
SHEETS = 'sheets'
SUMMARY_JSON, SUMMARY_MD = 'summary.json', 'summary.md'
MARKER = '.cooper_answers'  # readers go by metadata.yaml and by suffixes, and pass it over
_SAID = 'cooper replay made this folder, and replaces it if told to --overwrite.\n'
_HEADS = {SUMMARY_JSON: '{\n  "bag": ', SUMMARY_MD: '# Replay of '}  # how those of ours begin
_SHEET = re.compile(r'\d{4,}\.png')


def sheet_name(number: int) -> str:
    """File name of the picture sheet of the Nth question."""
    return f'{SHEETS}/{number:04d}.png'


def mark(folder: Path) -> None:
    """Mark a bag of answers as ours; a killed run leaves nothing else to know it by."""
    (folder / MARKER).write_text(_SAID, encoding='utf-8')


def make_folder(out: Path) -> None:
    """Make a folder for what is to come, and see that files can be written there.

    Raises:
        BadOption: they cannot.
    """
    with refusing(out):
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass


@contextmanager
def refusing(out: Path) -> Iterator[None]:
    """Name the option behind a fault of the output folder.

    Raises:
        BadOption: for an OSError.
    """
    try:
        yield
    except OSError as error:
        raise BadOption('the output folder cannot be used', limit='one that can be written to',
                        value=f'{out}: {error.strerror or error}',
                        remedy='give another --out') from error


def check_output(folder: Path, overwrite: bool) -> None:
    """Refuse to write over anything but an older bag of answers, and that only when told.

    Raises:
        BadOption: the folder exists.
    """
    _check(folder, overwrite, (folder / MARKER).is_file(), 'bag of answers')


def check_bag(folder: Path) -> None:
    """Refuse to replace a folder that no demo made: others call theirs `bag`, too.

    Raises:
        BadOption: it exists and is not ours.
    """
    if folder.exists() and not (folder / DEMO_MARKER).is_file():
        raise BadOption('there is a folder that no demo marked as its own, and it is not replaced',
                        value=str(folder), remedy='give another --out, or move it away yourself')


def mark_bag(folder: Path) -> None:
    """Mark the bag of a demo as one that the next demo may replace."""
    text = 'cooper demo made this, and replaces it.\n'
    (folder / DEMO_MARKER).write_text(text, encoding='utf-8')


def check_beside(out: Path, overwrite: bool) -> None:
    """As :func:`check_output`, for the summary and the sheets beside the bag.

    Raises:
        BadOption: one of them exists.
    """
    for name in _HEADS:
        _check(out / name, overwrite, _is_summary(out / name), 'summary')
    _check(out / SHEETS, overwrite, (out / SHEETS).is_dir(), 'folder of sheets')


def clear_beside(out: Path) -> None:
    """Remove the summary and the sheets of an earlier run; what else lies there stays."""
    for name in _HEADS:
        (out / name).unlink(missing_ok=True)
    sheets = out / SHEETS
    if not sheets.is_dir():
        return
    for file in sorted(sheets.iterdir()):
        if _SHEET.fullmatch(file.name):
            file.unlink()
    if not any(sheets.iterdir()):
        sheets.rmdir()


def clear_answers(folder: Path) -> None:
    """Remove a bag of answers, if there is one."""
    if folder.exists():
        shutil.rmtree(folder)


def _check(path: Path, overwrite: bool, ours: bool, what: str) -> None:
    if not path.exists():
        return
    if not overwrite:
        raise BadOption('the output exists', value=str(path),
                        remedy='give another --out, or --overwrite')
    if not ours:
        raise BadOption(f'the output is no {what} of cooper replay, and is not replaced',
                        value=str(path),
                        remedy='give another --out, or move it away yourself')


def _is_summary(path: Path) -> bool:
    head = _HEADS[path.name]
    try:
        with path.open(encoding='utf-8') as source:
            return head.startswith(source.read(len(head)))  # an empty one is no loss
    except (OSError, UnicodeDecodeError):
        return False
