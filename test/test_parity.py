"""Two checkpoints are compared only where their answers can be."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cooper_ros.errors import BadOption
from cooper_ros.evaluation.parity import compare


def engine(vocabulary: int) -> Any:
    return SimpleNamespace(parts=SimpleNamespace(runtime=SimpleNamespace(vocabulary=vocabulary)))


def test_models_that_choose_from_other_tokens_are_not_compared() -> None:
    with pytest.raises(BadOption, match='different vocabularies; got 577 tokens; allowed: 260'):
        next(compare(engine(260), engine(577), count=1))
