"""Rollouts: what is sampled for a question, and how.

A rollout is what the model wrote, turn by turn, and what it drew; :mod:`.actor` samples them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cooper_ros.engine.events import Map
from cooper_ros.errors import BadOption
from cooper_ros.model.packing import Item
from cooper_ros.training.rewards import STYLES


@dataclass(frozen=True)
class RolloutOptions:
    """How a group is sampled; defaults as published (reference section 11.5).

    Attributes:
        style: ``interleaved``, COOPER's own; ``text``, one thinking turn without maps; ``maps``,
            an answer after both maps, which the whole group shares.
        group: rollouts per question.
        max_turns: text turns at most; one map fewer.
        max_turn_tokens: tokens of one turn.
        temperature: of the softmax that is sampled and scored. There is no top-p cut: the scored
            distribution would not be the sampled one.
        together: groups that are written side by side: faster where a pass over few rows is
            mostly overhead, and as many times the cache.
        maps_together: maps of a group that are drawn side by side, 0 for all that are asked for:
            each has two more rows of the cache while it is drawn. Which maps come out does not
            depend on it.
        common_noise: maps of a group start from the same noise, so that what sets its members
            apart is what they wrote; those that have written the same share one map, drawn and
            read once. Published: off.

    Raises:
        BadOption: a value is unknown or out of its range.
    """

    style: str = 'interleaved'
    group: int = 8
    max_turns: int = 3
    max_turn_tokens: int = 4096
    temperature: float = 1.0
    together: int = 1
    maps_together: int = 0
    common_noise: bool = False

    def __post_init__(self) -> None:
        if self.style not in STYLES:
            raise BadOption('no such rollout style', value=self.style, limit=', '.join(STYLES))
        for name, least in (('group', 2), ('max_turns', 1), ('max_turn_tokens', 1),
                            ('together', 1), ('maps_together', 0)):
            if getattr(self, name) < least:
                raise BadOption(f'{name} is too small', value=getattr(self, name),
                                limit=f'>= {least}')
        if not self.temperature > 0:
            raise BadOption('temperature must be positive', value=self.temperature, limit='> 0')

    @property
    def most_turns(self) -> int:
        """Text turns of a rollout at most."""
        return self.max_turns if self.style == 'interleaved' else 1

    @property
    def most_maps(self) -> int:
        """Maps that a rollout reads at most."""
        return {'interleaved': self.max_turns - 1, 'text': 0, 'maps': 2}[self.style]

    @property
    def drawn_together(self) -> int:
        """Maps that are drawn side by side at most; those of style ``maps`` are the group's."""
        if self.style == 'maps' or not self.most_maps:
            return min(1, self.most_maps)
        return min(self.maps_together or self.group, self.group)


@dataclass
class Turn:
    """One turn as it was sampled.

    Attributes:
        ids: sampled ids without the end token.
        log_probs: of every sampled token, the end token included, when it was sampled.
        ended: whether the end token was sampled; False when the length limit came first.
        text: the ids as text.
    """

    ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    ended: bool = False
    text: str = ''


@dataclass
class Rollout:
    """One member of a group.

    Attributes:
        turns: what it wrote.
        items: everything behind the group's prefix, for training; written turns carry the loss.
        maps: what it drew.
    """

    turns: list[Turn] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    maps: list[Map] = field(default_factory=list)

    @property
    def texts(self) -> list[str]:
        """The turns as text."""
        return [turn.text for turn in self.turns]


@dataclass(frozen=True)
class Group:
    """All rollouts of one question behind their common prefix."""

    prefix: tuple[Item, ...]
    rollouts: tuple[Rollout, ...]
