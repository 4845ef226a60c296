"""What the model reads and writes in each kind of training sample.

The formats are those of inference, one recipe per route of :mod:`cooper_ros.engine.reasoning`:

=============  ============================================================================
``draw``       [picture: VAE, ViT] then per branch [map prompt] [noised map]*
``sketch``     [picture: ViT] then per branch [map prompt] [noised map]*
``describe``   [picture: ViT] [request] [every object: colour, place, distance]
``probe``      [picture: ViT] then per branch [one lookup] [its answer]
``auto``       [system] [picture: VAE, ViT] then per branch [question] ([turn] [noised map]
               [map: ViT] [reflection])* [last turn]
``direct``     [picture: ViT] then per branch [question] [answer]
``text``       [think system] [picture: ViT] then per branch [question] [thoughts and answer]
``maps``       [image system] [picture: VAE, ViT] then per branch [question] ([map prompt]
               [noised map] [map: ViT])* [``<answer>``] [answer]
=============  ============================================================================

Only assistant turns and noised maps carry a loss. Drawn maps are shown through the ViT alone, as
at inference (the published training showed them through the VAE too, quirk Q7).
"""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass, field
from operator import attrgetter
from typing import Any, Callable, Mapping, Sequence

import numpy as np
import torch

from cooper_ros.engine.answers import ANSWER_START
from cooper_ros.engine.prompts import Prompts
from cooper_ros.model.packing import Item, LatentItem, TextItem, VisionItem
from cooper_ros.scenes.phrasing import rephrase
from cooper_ros.scenes.qa import QuestionAnswer
from cooper_ros.training.data import STEPS_PER_METRE, FrameStore
from cooper_ros.training.describe import DESCRIBE, describe_objects
from cooper_ros.training.pictures import PictureCache
from cooper_ros.training.probe import probes
from cooper_ros.training.tree import Tree
from cooper_ros.training.vae_task import DEPTH, LABELS, RGB

KIND_OF_TOOL = {'depth': DEPTH, 'segmentation': LABELS}
Question = Mapping[str, Any]


@dataclass(frozen=True)
class DrawnItem(LatentItem):
    """A map to be drawn, and which one it is."""

    kind: int = field(kw_only=True)


@dataclass(frozen=True)
class Source:
    """Frames of one split with all that samples are made of.

    Attributes:
        encode: text to ids.
        conclude: categories whose traces over maps state the conclusion alone.
        rephrase: share of the questions that are put in other words.
    """

    store: FrameStore
    cache: PictureCache
    prompts: Prompts
    encode: Callable[[str], Sequence[int]]
    conclude: Sequence[str] = ()
    rephrase: float = 0.0

    @functools.cached_property
    def usable(self) -> dict[str, list[int]]:
        """Frames that each recipe can use."""
        return {name: recipe.usable(self) for name, recipe in RECIPES.items()}

    @functools.cached_property
    def asked(self) -> list[int]:
        """Frames with questions."""
        return [frame for frame, asked in enumerate(self.store.questions) if asked]

    @property
    def coded(self) -> list[int]:
        """Frames with latents."""
        return list(range(0 if self.cache.latents is None else len(self.cache.latents)))

    def text(self, text: str, loss: bool = False) -> TextItem:
        """A text segment."""
        return TextItem(tuple(self.encode(text)), loss)

    def seen(self, frame: int, kind: int) -> VisionItem:
        """A picture or map as the vision tower reads it."""
        return VisionItem(self.cache.pixels(frame, kind))

    def picture(self, frame: int) -> tuple[Item, Item]:
        """The camera picture, VAE block first."""
        return LatentItem(self.cache.latent(frame, RGB)), self.seen(frame, RGB)

    def drawn(self, frame: int, kind: int) -> DrawnItem:
        """A map to be drawn."""
        return DrawnItem(self.cache.latent(frame, kind), loss=True, kind=kind)


def draw(source: Source, frame: int, count: int, draw: torch.Generator) -> Tree:
    """Both maps from their prompts (reference section 10.1), ``count`` times: picture and prompt
    are read but once, and every copy meets noise of its own, for noised maps are hidden from
    each other and take up no position."""
    return Tree(source.picture(frame), _maps_to_draw(source, frame, count))


def sketch(source: Source, frame: int, count: int, draw: torch.Generator) -> Tree:
    """Both maps from what the vision tower sees alone, from the prefix of ``direct``.

    Shown the picture's latents too, the generation expert copies from them, and what answers are
    read from learns little. No mode draws like this at inference.
    """
    return Tree((source.seen(frame, RGB),), _maps_to_draw(source, frame, count))


def _maps_to_draw(source: Source, frame: int, count: int) -> tuple[tuple[Item, ...], ...]:
    prompts = source.prompts
    return ((source.text(prompts.depth), *(source.drawn(frame, DEPTH),) * count),
            (source.text(prompts.segmentation), *(source.drawn(frame, LABELS),) * count))


def auto(source: Source, frame: int, count: int, draw: torch.Generator) -> Tree:
    """The interleaved loop: ``count`` questions with one map and half as many without."""
    asked = source.store.questions[frame]
    with_map = _choose(source, [q for q in asked if len(q['tools']) == 1], count, draw)
    without = _choose(source, [q for q in asked if not q['tools']], (count + 1) // 2, draw)
    branches = [_interleaved(source, frame, question, number == 0)
                for number, question in enumerate(with_map)]
    branches += [_interleaved(source, frame, question, False) for question in without]
    system = source.text(source.prompts.interleave_system)
    return Tree((system, *source.picture(frame)), tuple(branches))


def direct(source: Source, frame: int, count: int, draw: torch.Generator) -> Tree:
    """Answers without thinking."""
    chosen = _by_length(_choose(source, source.store.questions[frame], count, draw))
    return Tree((source.seen(frame, RGB),), tuple(
        (source.text(q['question']), source.text(boxed(q), loss=True)) for q in chosen))


def text(source: Source, frame: int, count: int, draw: torch.Generator) -> Tree:
    """Thinking in words only."""
    chosen = _by_length(_choose(source, source.store.questions[frame], count, draw))
    system = source.text(source.prompts.think_system)
    return Tree((system, source.seen(frame, RGB)), tuple(
        (source.text(q['question']), source.text(reasoned(q), loss=True)) for q in chosen))


def maps(source: Source, frame: int, count: int, draw: torch.Generator) -> Tree:
    """Both maps always, then the answer."""
    chosen = _choose(source, source.store.questions[frame], count, draw)
    system = source.text(source.prompts.image_system)
    return Tree((system, *source.picture(frame)), tuple(
        _both_maps(source, frame, question, number == 0)
        for number, question in enumerate(chosen)))


def describe(source: Source, frame: int, count: int, draw: torch.Generator) -> Tree:
    """A list of what is to be seen, the quickest way to connect pixels and words."""
    listed = describe_objects(np.asarray(source.store.labels[frame]),
                              source.store.depth[frame].astype(np.float32) / STEPS_PER_METRE)
    return Tree((source.seen(frame, RGB),),
                ((source.text(DESCRIBE), source.text(listed, loss=True)),))


def probe(source: Source, frame: int, count: int, draw: torch.Generator) -> Tree:
    """Single lookups: which objects are there, where, how far, how tall."""
    asked = probes(source.store.instance[frame], source.store.objects[frame], count, draw)
    return Tree((source.seen(frame, RGB),), tuple(
        (source.text(question), source.text(answer, loss=True)) for question, answer in asked))


def _with_objects(source: Source) -> list[int]:
    known = bool(np.isfinite(source.store.objects).any())
    return list(range(len(source.store) if known else 0))


def _coded_and_asked(source: Source) -> list[int]:
    return sorted(set(source.coded) & set(source.asked))


def _asked_both_ways(source: Source) -> list[int]:
    return [frame for frame in source.coded if {0, 1} <= {
        len(question['tools']) for question in source.store.questions[frame]}]


@dataclass(frozen=True)
class RecipeKind:
    """One kind of sample. A new one is a function above and an entry below; ``task.recipes`` of a
    YAML file then knows its name.

    Attributes:
        tree: makes a sample: source, frame, questions, random numbers -> tree.
        usable: the frames of a source that it can use.
        needs: what these have, for the message where there are none.
        latents: whether it reads or draws latents.
    """

    tree: Callable[[Source, int, int, torch.Generator], Tree]
    usable: Callable[[Source], list[int]]
    needs: str
    latents: bool = False


RECIPES = {
    'draw': RecipeKind(draw, attrgetter('coded'), 'frames with latents', latents=True),
    'sketch': RecipeKind(sketch, attrgetter('coded'), 'frames with latents', latents=True),
    'describe': RecipeKind(describe, lambda source: list(range(len(source.store))), 'frames'),
    'probe': RecipeKind(probe, _with_objects, 'objects, which frames without questions lack'),
    'auto': RecipeKind(auto, _asked_both_ways, 'frames with latents, a question with one map and '
                       'one without', latents=True),
    'direct': RecipeKind(direct, attrgetter('asked'), 'frames with questions'),
    'text': RecipeKind(text, attrgetter('asked'), 'frames with questions'),
    'maps': RecipeKind(maps, _coded_and_asked, 'frames with latents and questions',
                       latents=True),
}


def boxed(question: Question) -> str:
    """The answer turn without thoughts."""
    return f'{ANSWER_START}\\boxed{{{question["answer"]}}}</answer>'


def reasoned(question: Question) -> str:
    """Thoughts, then the answer turn."""
    return f'<think>{question["facts"]}</think>{boxed(question)}'


def _interleaved(source: Source, frame: int, question: Question,
                 with_noise: bool) -> tuple[Item, ...]:
    asked = QuestionAnswer(**question)
    if asked.category in source.conclude:
        asked = asked.concluded
    trace = asked.trace('interleaved')
    items: list[Item] = [source.text(question['question'])]
    for turn, tool in zip(trace.turns, trace.tools):
        kind = KIND_OF_TOOL[tool]
        items.append(source.text(turn, loss=True))
        items += [source.drawn(frame, kind)] if with_noise else []
        items += [source.seen(frame, kind), source.text(source.prompts.reflection)]
    return (*items, source.text(trace.turns[-1], loss=True))


def _both_maps(source: Source, frame: int, question: Question,
               with_noise: bool) -> tuple[Item, ...]:
    items: list[Item] = [source.text(question['question'])]
    for prompt, kind in ((source.prompts.depth, DEPTH), (source.prompts.segmentation, LABELS)):
        items.append(source.text(prompt))
        items += [source.drawn(frame, kind)] if with_noise else []
        items.append(source.seen(frame, kind))
    answer = boxed(question)[len(ANSWER_START):]
    return (*items, source.text(ANSWER_START), source.text(answer, loss=True))


def _choose(source: Source, asked: Sequence[Question], count: int, draw: torch.Generator
            ) -> list[dict[str, Any]]:
    """``count`` questions, different ones as long as there are enough."""
    order: list[int] = []
    while asked and len(order) < count:
        order += torch.randperm(len(asked), generator=draw).tolist()
    chosen = [dict(asked[place], tools=tuple(asked[place]['tools'])) for place in order[:count]]
    return [_worded(question, draw, source.rephrase) for question in chosen]


def _worded(question: dict[str, Any], draw: torch.Generator, share: float) -> dict[str, Any]:
    """The question as it is, or by that chance in other words."""
    if not share or torch.rand((), generator=draw) >= share:
        return question
    return asdict(rephrase(QuestionAnswer(**question),
                           lambda end: int(torch.randint(end, (), generator=draw))))


def _by_length(chosen: list[Question]) -> list[Question]:
    """Branches of like length meet in one column of the batch, which saves padding."""
    return sorted(chosen, key=lambda question: len(question['question']) + len(question['facts']))
