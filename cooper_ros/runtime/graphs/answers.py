"""What the network says when it is probed, kept beside its graphs.

Engines are compared with the network before they are used. With its answers on disk it is not
read for that, and needs no room beside them: on a board, both would not fit.
"""

from __future__ import annotations

import logging
from typing import Callable, Iterable

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cooper_ros.errors import CooperError
from cooper_ros.runtime.graphs.bundle import Bundle
from cooper_ros.runtime.graphs.digest import tensors_digest
from cooper_ros.runtime.graphs.probe import Question
from cooper_ros.runtime.weights import save_tensors

ANSWERS = 'answers.safetensors'
_DIGEST, _TORCH = 'digest', 'torch'
Ask = Callable[[Question], tuple[Tensor, ...]]


class Answers:
    """Answers by question; use as what :func:`~.probe.compare` wants.

    A file that is damaged, or of another torch, counts as none.

    Args:
        bundle: the graphs; their folder belongs to these weights alone.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._path = bundle.folder / ANSWERS
        self._known = self._read()

    def gather(self, questions: Iterable[Question], ask: Callable[[], Ask]) -> None:
        """Have all questions answered, and keep the answers for the next start.

        Args:
            questions: what will be asked.
            ask: makes what asks the network; called only if an answer is missing.
        """
        missing = [question for question in questions
                   if self._names(question)[0] not in self._known]
        if not missing:
            return
        network = ask()
        for question in missing:
            said = network(question)
            self._known |= {name: value.cpu().contiguous()
                            for name, value in zip(self._names(question), said, strict=True)}
        self._keep()

    def __call__(self, question: Question) -> tuple[Tensor, ...]:
        """What the network said to a question that was gathered."""
        return tuple(self._known[name] for name in self._names(question))

    @staticmethod
    def _names(question: Question) -> list[str]:
        return [f'{question.name}/{entry.name}' for entry in question.spec.outputs]

    def _read(self) -> dict[str, Tensor]:
        try:
            if not self._path.is_file():  # a pipe would wait for a writer
                return {}
            with safe_open(self._path, 'pt') as file:
                facts = file.metadata() or {}
                found = {name: file.get_tensor(name) for name in file.keys()}
        except (OSError, SafetensorError):
            return {}
        whole = facts.get(_DIGEST) == tensors_digest(found)
        return found if whole and facts.get(_TORCH) == torch.__version__ else {}

    def _keep(self) -> None:
        try:
            save_tensors(self._known, self._path, {_DIGEST: tensors_digest(self._known),
                                                   _TORCH: torch.__version__})
        except (OSError, SafetensorError, CooperError) as error:
            logging.getLogger(__name__).warning(
                'the network must be read at the next start too, for its answers cannot be kept: '
                '%s', error)
