"""The cooperative perception-reasoning reward (reference section 11.3), as pure functions.

Its turns are what the model wrote; prompts, maps and reflection texts are not among them.
Three terms are added: is the answer right, is the form right, and did the model look when looking
helps. :func:`cooperative` is the default reward function; a training file may name another one
with the same interface (:mod:`.reward_function`).
"""

from __future__ import annotations

import dataclasses
import math
import re
import statistics
from dataclasses import dataclass, field
from typing import Any, Mapping, Sequence

import numpy as np

from cooper_ros.engine.events import Map
from cooper_ros.errors import BadOption
from cooper_ros.training.typed import check_ranges

POSITIVE, NEGATIVE, BOUNDARY = 'positive', 'negative', 'boundary'
STYLES = ('interleaved', 'text', 'maps')
_ANYTHING = '.*?'  # as published: to the first closing tag, or, if more follows, to a later one
_NO_END = '(?:(?!</(?:think|answer|segmentation|depth-estimation)>).)*'


class _Forms:
    """Legal turns.

    Args:
        inside: pattern of what stands between two tags.
    """

    def __init__(self, inside: str) -> None:
        think, answer, depth, segments = (f'<{tag}>{inside}</{tag}>' for tag in (
            'think', 'answer', 'depth-estimation', 'segmentation'))
        self.tool = re.compile(rf'{think}\s*(?:{segments}|{depth})', re.DOTALL)
        self.last = {'interleaved': re.compile(rf'{think}\s*{answer}', re.DOTALL),
                     'text': re.compile(f'{think}.*', re.DOTALL),
                     'maps': re.compile(answer, re.DOTALL)}


_OURS, _PUBLISHED = _Forms(_NO_END), _Forms(_ANYTHING)


@dataclass(frozen=True)
class RewardOptions:
    """Weights and thresholds; the defaults are the published interleaved recipe.

    Attributes:
        style: form of a legal rollout: ``interleaved``; ``text`` for one thinking turn (the
            published text-only baseline, with ``format_weight`` 0.1); ``maps`` for an answer
            after maps that were always drawn.
        format_weight: reward of a legal form.
        exploration: size of the bonus and of the penalty; 0 switches the term off.
        threshold: tool use is rare while fewer rollouts of a group use tools, and common once
            more do; at exactly this number the term is 0.
        published: repeat the released code, where an interaction of two rewards hides the first
            tool turn of every rollout (quirk Q5), and a turn can be legal that was cut off, or in
            which anything stands between a first pair of tags and a last one.
        function: a reward function of your own, ``my_reward.py:rewards`` (a path from where the
            command is started) or ``package.module:rewards``; empty for :func:`cooperative`.
        settings: whatever that function wants to know; it finds it in ``group.options.settings``.

    Raises:
        BadOption: a value is unknown or out of its range.
    """

    style: str = 'interleaved'
    format_weight: float = 1.0
    exploration: float = 0.2
    threshold: int = 3
    published: bool = False
    function: str = ''
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.style not in STYLES:
            raise BadOption('no such reward style', value=self.style, limit=', '.join(STYLES))
        check_ranges(self, ((name, 0 <= getattr(self, name) < math.inf, '>= 0')
                            for name in ('format_weight', 'exploration', 'threshold')),
                     'task.reward')


@dataclass(frozen=True)
class RewardRollout:
    """One rollout, as a reward function sees it.

    Attributes:
        turns: what the model wrote, turn by turn.
        tokens: of each turn, its end not counted.
        maps: what it drew, in order; in style ``maps`` those that the group shares.
        accuracy: 0 (wrong) to 1 (right), from the checker.
        ended: whether the last turn came to its end before the length limit.
    """

    turns: tuple[str, ...]
    tokens: tuple[int, ...]
    maps: tuple[Map, ...]
    accuracy: float
    ended: bool


@dataclass(frozen=True)
class RewardGroup:
    """All rollouts of one question, as a reward function sees them.

    Attributes:
        data_id: names the question.
        question: as the policy read it.
        truth: its right answer.
        category: of the question; empty where the data do not say.
        flag: ``positive`` where tools help, ``negative`` where they hurt, else ``boundary``.
        image: the camera picture, uint8 ``[H, W, 3]`` RGB.
        rollouts: the group.
        options: of the training file.
    """

    data_id: str
    question: str
    truth: str
    category: str
    flag: str
    image: np.ndarray
    rollouts: tuple[RewardRollout, ...]
    options: RewardOptions


@dataclass(frozen=True)
class Terms:
    """The reward of one rollout, term by term."""

    accuracy: float
    format: float
    exploration: float

    @property
    def total(self) -> float:
        """Sum of the terms."""
        return self.accuracy + self.format + self.exploration


def is_tool_turn(turn: str, published: bool = False) -> bool:
    """Whether a turn is a thought and one well-formed tool call, and nothing else.

    With ``published`` anything may stand between a first call and a last one, calls among it: the
    pattern goes on to a later closing tag where the first one is not the end.

    >>> is_tool_turn('<think>far?</think> <depth-estimation>go</depth-estimation>')
    True
    >>> is_tool_turn('<depth-estimation>go</depth-estimation>')
    False
    >>> twice = '<think>x</think><segmentation>s</segmentation> and <segmentation>t</segmentation>'
    >>> is_tool_turn(twice), is_tool_turn(twice, published=True)
    (False, True)
    """
    forms = _PUBLISHED if published else _OURS
    return forms.tool.fullmatch(turn.strip()) is not None


def format_reward(turns: Sequence[str], style: str = 'interleaved', published: bool = False
                  ) -> float:
    """1 if every turn but the last is a tool turn and the last has the legal form, else 0.

    The last one has one answer, and in style ``text`` anything behind its thoughts. With
    ``published``, see :func:`is_tool_turn`.

    >>> format_reward(['<think>x</think><answer>a</answer>'])
    1.0
    >>> format_reward(['<answer>a</answer>']), format_reward(['<answer>a</answer>'], 'maps')
    (0.0, 1.0)
    """
    if not turns:
        return 0.0
    looked = all(is_tool_turn(turn, published) for turn in turns[:-1])
    last = (_PUBLISHED if published else _OURS).last[style]
    return float(looked and last.fullmatch(turns[-1].strip()) is not None)


def used_tools(turns: Sequence[str], published: bool = False) -> bool:
    """Whether any turn but the last is a well-formed tool turn.

    With ``published`` the first turn is not seen: the released format reward cuts the shared list
    and the exploration reward cuts it again, so one-tool rollouts look as if they had none.

    >>> turn = '<think>x</think><segmentation>s</segmentation>'
    >>> used_tools([turn, 'end']), used_tools([turn, 'end'], published=True)
    (True, False)
    """
    return any(is_tool_turn(turn, published) for turn in turns[int(published):-1])


def exploration_rewards(used: Sequence[bool], flag: str, size: float = 0.2,
                        threshold: int = 3) -> list[float]:
    """Bonus while tool use is rare where tools help; penalty once it is common where they hurt.

    Args:
        used: whether each rollout of one group used a tool.
        flag: ``positive``, ``negative`` or ``boundary``.
        size: of bonus and penalty.
        threshold: rare is fewer, common is more.

    Raises:
        BadOption: no such flag.

    >>> exploration_rewards([True, True, False], 'positive')
    [0.2, 0.2, 0.0]
    >>> exploration_rewards([True] * 3, 'positive'), exploration_rewards([True] * 4, 'negative')
    ([0.0, 0.0, 0.0], [-0.2, -0.2, -0.2, -0.2])
    """
    if flag not in (POSITIVE, NEGATIVE, BOUNDARY):
        raise BadOption('no such flag', value=flag, limit='positive, negative, boundary')
    count, term = sum(used), 0.0
    if count < threshold and flag == POSITIVE:
        term = size
    elif count > threshold and flag == NEGATIVE:
        term = -size
    return [term if tool else 0.0 for tool in used]


def group_rewards(group: Sequence[Sequence[str]], accuracy: Sequence[float], flag: str,
                  options: RewardOptions = RewardOptions(),
                  ended: Sequence[bool] | None = None) -> list[Terms]:
    """Rewards of all rollouts of one question.

    Args:
        group: turns of every rollout.
        accuracy: 0..1 each, from a checker.
        flag: of the question.
        options: weights.
        ended: whether the last turn of each came to its end before the length limit; None: all.
            One that did not has no legal form: the published pattern of style ``text`` lets
            anything follow the thoughts, and a policy learns to go on after its answer.
    """
    used = [used_tools(turns, options.published) for turns in group]
    explored = exploration_rewards(used, flag, options.exploration, options.threshold)
    whole = [True] * len(group) if ended is None or options.published else ended
    legal = [end * format_reward(turns, options.style, options.published)
             for turns, end in zip(group, whole)]
    return [Terms(right, options.format_weight * form, extra)
            for right, form, extra in zip(accuracy, legal, explored)]


def cooperative(group: RewardGroup) -> list[dict[str, float]]:
    """The default reward function: see :func:`group_rewards`.

    Returns:
        ``accuracy``, ``format`` and ``exploration`` of every rollout.
    """
    rollouts = group.rollouts
    found = group_rewards([rollout.turns for rollout in rollouts],
                          [rollout.accuracy for rollout in rollouts], group.flag, group.options,
                          [rollout.ended for rollout in rollouts])
    return [dataclasses.asdict(terms) for terms in found]


def advantages(rewards: Sequence[float], scaled: bool = True) -> list[float]:
    """How much better each rollout of a group is than its sisters.

    Args:
        rewards: of one group.
        scaled: in standard deviations of the group, as published: answers that differ by a hair
            then push as hard as right and wrong. Otherwise in units of the reward.

    Raises:
        BadOption: fewer than two rewards.

    >>> [round(value, 3) for value in advantages([1.0, 0.0, 0.0, 1.0])]
    [0.866, -0.866, -0.866, 0.866]
    >>> advantages([1.0, 0.5], scaled=False), advantages([0.5, 0.5])
    ([0.25, -0.25], [0.0, 0.0])
    """
    if len(rewards) < 2:
        raise BadOption('a group needs two rollouts', value=len(rewards), limit='>= 2')
    mean = statistics.fmean(rewards)
    unit = statistics.stdev(rewards) + 1e-4 if scaled else 1.0
    return [(reward - mean) / unit for reward in rewards]


def flag_of(with_tools: float, without: float, margin: float = 0.0) -> str:
    """What to encourage, from the accuracy of both ways of answering.

    The published file came without the rule; its names say this one (reference section 17).

    >>> flag_of(0.75, 0.25), flag_of(0.25, 0.75), flag_of(0.5, 0.5)
    ('positive', 'negative', 'boundary')
    """
    if with_tools - without > margin:
        return POSITIVE
    return NEGATIVE if without - with_tools > margin else BOUNDARY
