"""Where the curves of a run are drawn: TensorBoard, Weights & Biases, or nowhere.

``log.jsonl`` and ``previews/`` hold the same numbers and pictures, whatever is chosen here.
"""

from __future__ import annotations

import importlib.util
import os
import uuid
from pathlib import Path
from typing import Any, Mapping, Protocol

import numpy as np
from tqdm import tqdm

from cooper_ros.errors import BadOption
from cooper_ros.runtime.files import write_whole

PROJECT = 'cooper_ros'
ID_NAME = 'wandb_id.txt'


class Curves(Protocol):
    """What a place for curves can do."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of one step."""

    def picture(self, step: int, name: str, pixels: np.ndarray) -> None:
        """One uint8 picture ``[H, W, 3]``."""

    def close(self) -> None:
        """Write what is left."""


class NoCurves:
    """See :class:`Curves`; does nothing."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Nothing."""

    def picture(self, step: int, name: str, pixels: np.ndarray) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class TensorBoard:
    """See :class:`Curves`; event files in ``tensorboard/``, without steps beyond the resumed."""

    def __init__(self, folder: Path, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter
        self._writer = SummaryWriter(str(folder / 'tensorboard'), purge_step=start + 1)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of one step."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def picture(self, step: int, name: str, pixels: np.ndarray) -> None:
        """One picture."""
        self._writer.add_image(name, pixels, step, dataformats='HWC')

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


class Wandb:
    """See :class:`Curves`; one W&B run per run folder, known by an id that is kept there.

    W&B's own variables (``WANDB_PROJECT``, ``WANDB_MODE``) are obeyed.

    Raises:
        BadOption: W&B does not start.
        OutOfDisk: there is no room for the id.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        import wandb
        name = '-'.join(folder.parts[-2:]).strip('/-') or 'run'
        known_as = _kept_id(folder, name)
        try:
            self._run = wandb.init(project=os.environ.get('WANDB_PROJECT', PROJECT), name=name,
                                   id=known_as, resume='allow', dir=str(folder),
                                   config=dict(settings))
        except Exception as error:
            raise BadOption('W&B does not start', value=f'track: wandb, {error}',
                            remedy='wandb login, or set WANDB_MODE=offline') from error
        self._image = wandb.Image

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of one step."""
        self._run.log(dict(values), step=step)

    def picture(self, step: int, name: str, pixels: np.ndarray) -> None:
        """One picture."""
        self._run.log({name: self._image(pixels)}, step=step)

    def close(self) -> None:
        """Write what is left."""
        self._run.finish()


def _kept_id(folder: Path, name: str) -> str:
    """The id of the W&B run of a run folder, made up when it is first asked for. The name alone is
    also that of a run begun anew in the place of a deleted one, or on another machine."""
    path = folder / ID_NAME
    if not path.exists():
        older = (folder / 'wandb').is_dir()  # begun when the name was the id
        write_whole(path, (name if older else uuid.uuid4().hex).encode())
    return path.read_text(encoding='utf-8').strip()


def open_curves(track: str, folder: Path, start: int, settings: Mapping[str, Any]) -> Curves:
    """Where the curves of a run go.

    Args:
        track: ``tensorboard``, ``wandb`` or ``none``.
        folder: of the run.
        start: step it goes on from.
        settings: what W&B shows beside the curves.

    Raises:
        BadOption: W&B was asked for, and is not installed or does not start.
    """
    check_tracker(track)
    if track == 'wandb':
        return Wandb(folder, settings)
    if track == 'none':
        return NoCurves()
    if importlib.util.find_spec('tensorboard') is None:
        tqdm.write('TensorBoard is not installed: the curves are in log.jsonl alone')
        return NoCurves()
    return TensorBoard(folder, start)


def check_tracker(track: str) -> None:
    """Refuse W&B where it is absent; every process asks, so that none waits for another.

    Raises:
        BadOption: W&B was asked for and is not installed.
    """
    if track == 'wandb' and importlib.util.find_spec('wandb') is None:
        raise BadOption('W&B is not installed', value='track: wandb', limit='tensorboard, none',
                        remedy='pip install wandb, or choose track: tensorboard')
