"""What the readers give: typed samples, one kind per stage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

FLAGS = ('positive', 'negative', 'boundary')


@dataclass(frozen=True)
class Pair:
    """One picture and the file its target is made from, not read yet.

    Attributes:
        rgb: the picture.
        target: the depth or segmentation file.
        data_id: names it in logs and problems.
        row: number inside both files, where one file holds many pictures; else -1.
        root: folder of the set, from which messages name its files.
        listed: ``file:line`` of the list that names the pair, where one does.
    """

    rgb: Path
    target: Path
    data_id: str
    row: int = -1
    root: Path | None = None
    listed: str = ''

    def inside(self, path: Path) -> str:
        """A file of the pair as it lies in the set; the whole path where it lies elsewhere."""
        known = self.root is not None and path.is_relative_to(self.root)
        name = path.relative_to(self.root).as_posix() if known else str(path)
        return f'{name} row {self.row}' if self.row >= 0 else name


@dataclass(frozen=True)
class DrawSample:
    """Stage 1: a picture, and the map the model shall draw of it (reference section 10.1).

    Attributes:
        kind: ``depth`` or ``segmentation``.
        data_id: where it came from.
        vae: the picture for the VAE, float32 ``[3, H, W]`` in -1..1.
        vit: the picture for the vision encoder, float32 ``[3, h, w]`` in -1..1; resized once.
        target: float32 ``[3, H, W]`` in -1..1; for depth three equal channels.
    """

    kind: str
    data_id: str
    vae: np.ndarray
    vit: np.ndarray
    target: np.ndarray


@dataclass(frozen=True)
class TalkItem:
    """One entry of an interleaved conversation: a text or a picture.

    Attributes:
        text: the text, or None for a picture.
        image: uint8 ``[H, W, 3]``, or None for a text.
        need_loss: whether the model is taught to write this text.
    """

    text: str | None = None
    image: np.ndarray | None = None
    need_loss: bool = False


@dataclass(frozen=True)
class TalkSample:
    """Stage 2: a conversation in file order, without the system prompt (reference 10.2)."""

    data_id: str
    items: tuple[TalkItem, ...]


@dataclass(frozen=True)
class RlSample:
    """GRPO: a question to be answered freely (reference 11.1).

    Attributes:
        data_id: names the group of rollouts.
        question: text given to the policy and to the judge.
        answer: ground truth.
        image: uint8 ``[H, W, 3]``.
        flag: ``positive`` where tools help, ``negative`` where they hurt, else ``boundary``.
        category: kind of question, for reward functions; empty where the data do not say.
    """

    data_id: str
    question: str
    answer: str
    image: np.ndarray
    flag: str = 'boundary'
    category: str = ''
