"""Choosing the next token (reference section 6.3)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor


def generator_for(seed: int, use: str, index: int = 0) -> torch.Generator:
    """Random numbers of one use of a request's seed: the same again, like those of no other use.

    Args:
        seed: of the request.
        use: what they are for, such as ``text``.
        index: which of those, such as the turn.
    """
    digest = hashlib.sha256(f'{seed}/{use}/{index}'.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], 'big', signed=True))


@dataclass(frozen=True)
class TextOptions:
    """How text is decoded.

    Attributes:
        sample: draw from the distribution instead of taking the likeliest token.
        temperature: softmax temperature, floored at 1e-6.
        top_p: nucleus mass; the token that crosses it is kept.
        max_tokens: forward passes of one turn at most.
    """

    sample: bool = False
    temperature: float = 0.3
    top_p: float = 1.0
    max_tokens: int = 2048


def token_probabilities(logits: Tensor, temperature: float, top_p: float) -> tuple[Tensor, Tensor]:
    """Return the sampling distribution, sorted, and the ids it is sorted by.

    Args:
        logits: ``[V]`` float32.
        temperature: floored at 1e-6.
        top_p: clamped to (0, 1]; below 1 the smallest prefix of the sorted distribution whose
            mass exceeds it is kept and renormalised.

    Returns:
        Probabilities ``[V]``, descending, zeros where cut; token ids ``[V]``.
    """
    probabilities = torch.softmax(logits / max(temperature, 1e-6), dim=-1)
    ordered, ids = torch.sort(probabilities, descending=True)
    top_p = min(max(top_p, 1e-8), 1.0)
    if top_p < 1.0:
        before = ordered.cumsum(-1) - ordered  # mass in front of each token
        ordered = torch.where(before > top_p, torch.zeros_like(ordered), ordered)
        ordered = ordered / ordered.sum()
    return ordered, ids


def choose_token(logits: Tensor, options: TextOptions,
                 generator: torch.Generator | None = None) -> tuple[int, float]:
    """Return the next token id and the probability the model gave it (temperature 1)."""
    if options.sample:
        probabilities, ids = token_probabilities(logits, options.temperature, options.top_p)
        drawn = torch.multinomial(probabilities.cpu(), 1, generator=generator)
        token = int(ids[drawn.to(ids.device)])
    else:
        token = int(logits.argmax())
    certainty = torch.softmax(logits, dim=-1)[token]
    return token, float(certainty)
