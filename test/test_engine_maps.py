"""What is drawn becomes a map only if it is made of numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.tiny import tiny_engine

from cooper_ros.config import LEAST_SHIFT
from cooper_ros.engine.engine import CooperEngine
from cooper_ros.engine.events import DEPTH, SEGMENTATION, Answer, Failure
from cooper_ros.errors import CooperError, ErrorCode

RGB = np.arange(24 * 32 * 3, dtype=np.uint8).reshape(24, 32, 3)


@pytest.fixture(params=[float('nan'), float('inf'), -float('inf')])
def eyes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> CooperEngine:
    """An engine whose decoder gives one number that is none, as float16 does beyond 65504."""
    made = tiny_engine(depth_range_m=(0.2, 8.0))
    decode = made.parts.runtime.decode_tokens

    def decoded(tokens: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        pixels = decode(tokens, grid).clone()
        pixels[1, 0, 0] = request.param
        return pixels

    monkeypatch.setattr(made.parts.runtime, 'decode_tokens', decoded)
    return made


@pytest.mark.parametrize('kind', [DEPTH, SEGMENTATION])
def test_what_is_no_number_is_no_map(eyes: CooperEngine, kind: str) -> None:
    """NaN would be metres that nobody can use, or black, which may be a class."""
    with pytest.raises(CooperError, match=f'INTERNAL: the drawn {kind} is no picture; got 1 of '
                       r'\d+ numbers are NaN or infinite; allowed: finite numbers; remedy: set '
                       'dtype to bfloat16 or float32'):
        list(eyes.draw(RGB, kind))
    *_, end = eyes.ask(RGB, 'which?', mode='maps')
    assert isinstance(end, Failure) and end.error_code == ErrorCode.INTERNAL
    *_, end = eyes.ask(RGB, 'which?', mode='direct')  # the engine goes on
    assert isinstance(end, Answer)


def test_the_least_shift_that_a_request_may_ask_for_draws_numbers() -> None:
    drawn = tiny_engine(depth_range_m=(0.2, 8.0)).estimate_depth(RGB, flow_shift=LEAST_SHIFT)
    assert np.isfinite(drawn.metres).all()
