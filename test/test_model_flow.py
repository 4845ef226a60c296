"""Guidance: what it needs, what it returns, and what it never does."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cooper_ros.model.flow import Guidance, euler_step, noised

SCALES = st.floats(1.1, 8.0)
RENORMS = ('global', 'channel', 'text_channel')


def velocities(seed: int = 0) -> torch.Tensor:
    return torch.randn(3, 6, 64, generator=torch.Generator().manual_seed(seed))


def test_interval_is_open_below_and_closed_above() -> None:
    guidance = Guidance(text=4.0, image=2.0, low=0.4, high=0.9)
    assert [guidance.uses_text(t) for t in (0.4, 0.41, 0.9, 0.91)] == [False, True, True, False]


def test_image_scale_alone_does_nothing() -> None:
    guidance = Guidance(text=1.0, image=2.0)
    full, no_text, no_image = velocities()
    assert not guidance.uses_text(0.5) and not guidance.uses_image(0.5)
    assert torch.equal(guidance.combine(full, None, None), full)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 99), SCALES, st.sampled_from(RENORMS), st.floats(0.0, 0.9))
def test_text_guidance_keeps_its_direction_and_never_grows(seed: int, scale: float, renorm: str,
                                                           least: float) -> None:
    full, no_text, _ = velocities(seed)
    raw = no_text + scale * (full - no_text)
    out = Guidance(scale, 1.0, renorm=renorm, renorm_min=least).combine(full, no_text, None)
    factors = out / raw
    assert float(factors.max()) <= 1 + 1e-5 and float(factors.min()) >= least - 1e-5
    if renorm == 'global':
        assert torch.allclose(factors, factors.flatten()[0].expand_as(factors), atol=1e-4)


def test_text_channel_leaves_the_image_step_alone() -> None:
    full, no_text, no_image = velocities()
    with_text = Guidance(4.0, 1.0).combine(full, no_text, None)
    both = Guidance(4.0, 2.0).combine(full, no_text, no_image)
    assert torch.allclose(both, no_image + 2.0 * (with_text - no_image))
    lengths = both.norm(dim=-1) / full.norm(dim=-1)
    assert float(lengths.max()) > 1  # nothing shortens it again


@pytest.mark.parametrize('renorm, dtype', [('global', torch.bfloat16),
                                           ('channel', torch.float32),
                                           ('text_channel', torch.float32)])
def test_number_types_of_the_reference(renorm: str, dtype: torch.dtype) -> None:
    full, no_text, no_image = velocities().bfloat16()
    out = Guidance(4.0, 2.0, renorm=renorm).combine(full, no_text, no_image)
    assert out.dtype == dtype


def test_one_euler_step_along_the_true_velocity_reaches_the_picture() -> None:
    clean, noise, _ = velocities()
    for time in (1.0, 0.6):
        start = noised(clean, noise, torch.tensor(time))
        assert torch.allclose(euler_step(start, noise - clean, time, 0.0), clean, atol=1e-5)
