"""The settings a run was begun with, kept in its folder: it goes on with the same ones."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Mapping

from cooper_ros.errors import BadCheckpoint, BadOption
from cooper_ros.runtime.files import room, write_whole
from cooper_ros.training.checkpoints import REMEDY, has_begun
from cooper_ros.training.settings import TrainSettings
from cooper_ros.training.typed import build

NAME = 'settings.json'
UNSET = 'not set'
SHOWN = 8
# What does not change what is learnt, or is how far: places, pace, and what is shown or exported.
FREE = ('folder', 'steps', 'threads', 'device', 'parallel', 'shards', 'checkpoint_every',
        'preview_every', 'log_every', 'track', 'data.folder', 'data.valid', 'task.flow_points',
        'task.learned', 'task.preview', 'task.recompute', 'task.rollout.together')


def keep_settings(folder: Path, settings: TrainSettings) -> None:
    """Write the settings of a run into its folder, for :func:`check_settings`.

    Raises:
        OutOfDisk: there is no room.
    """
    content = json.dumps(_plain(settings), indent=1).encode()
    if not (folder / NAME).exists() or (folder / NAME).read_bytes() != content:
        folder.mkdir(parents=True, exist_ok=True)
        with room(folder, len(content), NAME, REMEDY):
            write_whole(folder / NAME, content)


def check_settings(folder: Path, settings: TrainSettings) -> None:
    """Compare settings with those of the run they go on with, if there is one that kept them.

    Raises:
        BadCheckpoint: they differ in what is learnt, or the kept ones cannot be read.
    """
    if not has_begun(folder) or not (folder / NAME).exists():  # or of an older version
        return
    kept, now = _flat(_plain(_read(folder / NAME))), _flat(_plain(settings))
    changed = [name for name in sorted({**kept, **now})
               if name not in FREE and kept.get(name, UNSET) != now.get(name, UNSET)]
    if changed:
        raise BadCheckpoint(
            'this run was begun with other settings', value=_listed(changed, now),
            limit=_listed(changed, kept),
            remedy=f'name another folder, or go on with the settings in {folder / NAME}; '
                   '--changed-settings takes the new ones')


def _read(path: Path) -> TrainSettings:
    """Kept settings; those that are newer than they are have their defaults."""
    try:
        return build(TrainSettings, json.loads(path.read_text(encoding='utf-8')))
    except (OSError, ValueError, BadOption) as error:
        raise BadCheckpoint('the settings of this run cannot be read', value=f'{path}: {error}',
                            remedy='--changed-settings goes on without them') from error


def _plain(settings: TrainSettings) -> dict[str, Any]:
    """As JSON gives them back: lists for tuples, text for what it does not know."""
    return json.loads(json.dumps(asdict(settings), default=str))


def _flat(values: Mapping[str, Any], where: str = '') -> dict[str, Any]:
    """Settings by their whole names, such as ``optim.learning_rate``."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= (_flat(value, f'{where}{name}.') if isinstance(value, dict)
                 else {f'{where}{name}': value})
    return flat


def _listed(names: list[str], values: Mapping[str, Any]) -> str:
    shown = [f'{name} {values.get(name, UNSET)}' for name in names[:SHOWN]]
    return ', '.join(shown) + (f' and {len(names) - SHOWN} more' if names[SHOWN:] else '')
