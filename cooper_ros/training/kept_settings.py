"""The settings a run was begun with, kept in its folder: it goes on with the same ones.

The name of a reward function stands among them; with it goes a digest of its file, for the name
does not say what is learnt.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Callable, Mapping

from cooper_ros.errors import BadCheckpoint, BadOption
from cooper_ros.runtime.files import room, write_whole
from cooper_ros.training.checkpoints import REMEDY, has_begun
from cooper_ros.training.reward_function import current_digest, loaded_digest
from cooper_ros.training.settings import TrainSettings
from cooper_ros.training.typed import build

NAME = 'settings.json'
DIGESTS = 'sha256'  # beside the settings: name of a setting -> digest of the file it names
FUNCTION = 'task.reward.function'
UNSET = 'not set'
SHOWN = 8
# Settings that do not change what is learnt, or only how far: places, pace, previews, exports.
# Not all of them in every run, and in some one more: see `_is_free`.
FREE = ('folder', 'steps', 'threads', 'device', 'parallel', 'shards', 'checkpoint_every',
        'preview_every', 'log_every', 'track', 'data.folder', 'data.valid', 'task.flow_points',
        'task.learned', 'task.learned_together', 'task.preview', 'task.recompute',
        'task.rollout.together', 'task.rollout.maps_together')


def keep_settings(folder: Path, settings: TrainSettings) -> None:
    """Write the settings of a run into its folder, for :func:`check_settings`.

    Raises:
        OutOfDisk: there is no room.
    """
    digests = _digests(settings, loaded_digest)
    values = {**_plain(settings), **({DIGESTS: digests} if digests else {})}
    content = json.dumps(values, indent=1).encode()
    if not (folder / NAME).exists() or (folder / NAME).read_bytes() != content:
        folder.mkdir(parents=True, exist_ok=True)
        with room(folder, len(content), NAME, REMEDY):
            write_whole(folder / NAME, content)


def check_settings(folder: Path, settings: TrainSettings) -> None:
    """Compare settings with those of the run they go on with, if there is one that kept them.

    Raises:
        BadCheckpoint: they differ in what is learnt, a file they name has changed, or the kept
            ones cannot be read.
    """
    if not has_begun(folder) or not (folder / NAME).exists():  # or of an older version
        return
    begun, digests = _read(folder / NAME)
    kept, now = _flat(_plain(begun)), _flat(_plain(settings))
    for name, digest in _digests(settings, current_digest).items():
        if name in digests:  # older versions kept none
            kept[f'{name}.{DIGESTS}'], now[f'{name}.{DIGESTS}'] = digests[name], digest
    changed = [name for name in sorted({**kept, **now})
               if not _is_free(name, settings) and kept.get(name, UNSET) != now.get(name, UNSET)]
    if changed:
        raise BadCheckpoint(
            'this run was begun with other settings', value=_listed(changed, now),
            limit=_listed(changed, kept),
            remedy=f'name another folder, or go on with the settings in {folder / NAME}; '
                   '--changed-settings takes the new ones')


def _is_free(name: str, settings: TrainSettings) -> bool:
    """Whether a run may go on with another value of a setting."""
    if name == 'task.flow_points' and settings.task.get('own_maps'):
        return False  # the maps that it learns from are drawn with them
    return name in FREE or (name == 'batch' and settings.mixes)


def _read(path: Path) -> tuple[TrainSettings, dict[str, str]]:
    """Kept settings, and digests of files; settings newer than the run have their defaults."""
    try:
        values = json.loads(path.read_text(encoding='utf-8'))
        digests = values.pop(DIGESTS, {}) if isinstance(values, dict) else {}
        if not isinstance(digests, dict):
            raise ValueError(f'{DIGESTS} is no object')
        return build(TrainSettings, values), digests
    except (OSError, ValueError, BadOption) as error:
        raise BadCheckpoint('the settings of this run cannot be read', value=f'{path}: {error}',
                            remedy='--changed-settings goes on without them') from error


def _digests(settings: TrainSettings, digest: Callable[[str], str]) -> dict[str, str]:
    """Digests of the files that settings name and that decide what is learnt."""
    reward = settings.task.get('reward')
    name = reward.get('function') if isinstance(reward, Mapping) else None
    found = digest(name) if isinstance(name, str) else ''
    return {FUNCTION: found} if found else {}  # one that is not there is named when it is loaded


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
