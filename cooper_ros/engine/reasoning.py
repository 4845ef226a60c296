"""The routes: in which order the model reads, writes and draws (reference section 7).

Four modes, one function each:

* ``auto``: the interleaved loop, COOPER's own; the model decides when to look and when to think.
* ``maps``: both maps always, then an answer without thinking ("perception enhancement").
* ``text``: one thinking turn, no maps ("reasoning enhancement").
* ``direct``: one turn, no system prompt, no maps.

Deviation from the published loop (its quirk Q13): a turn that neither draws nor answers leaves the
context as it was, so a greedy model writes the same turn again until the limit. We stop instead:
the last turn, and with it the answer, is the same. ``repeat_stuck_turns`` restores the published
behaviour, and sampled text always repeats, since it may differ.
"""

from __future__ import annotations

from typing import Sequence

from cooper_ros.engine.answers import ANSWER_START, find_tool_call, has_answer
from cooper_ros.engine.contexts import Piece
from cooper_ros.engine.events import DEPTH, SEGMENTATION
from cooper_ros.engine.talk import Branches, Steps, Talk

Pieces = Sequence[Piece]


def interleaved(talk: Talk, max_turns: int, repeat_stuck: bool) -> Steps:
    """Think, look, think again: at most ``max_turns`` turns and one map fewer (section 7.1)."""
    system, question = talk.text(talk.prompts.interleave_system), talk.text(talk.question)
    full: Pieces = [system, *talk.images(latents=True), question]
    no_image: Pieces = [system, question]
    for remaining in range(max_turns - 1, -1, -1):
        yield from talk.write(full)
        turn = talk.turns[-1].text
        call = find_tool_call(turn)
        if has_answer(turn) or not remaining:
            return
        if call is None:
            if repeat_stuck or talk.text_options.sample:
                continue
            return
        no_text = [*full, talk.text(call.rest)]
        full, no_image = [*full, talk.text(turn)], [*no_image, talk.text(turn)]
        yield from talk.draw(call.kind, Branches(full, no_text, no_image))
        seen = [talk.see(talk.maps[-1]), talk.text(talk.prompts.reflection)]
        full, no_image = [*full, *seen], [*no_image, *seen]


def both_maps(talk: Talk) -> Steps:
    """Draw depth and segmentation, then answer directly (section 7.2)."""
    system, question = talk.text(talk.prompts.image_system), talk.text(talk.question)
    full: Pieces = [system, *talk.images(latents=True), question]
    no_image: Pieces = [system, question]
    for kind, prompt in ((DEPTH, talk.prompts.depth), (SEGMENTATION, talk.prompts.segmentation)):
        no_text = full
        full, no_image = [*full, talk.text(prompt)], [*no_image, talk.text(prompt)]
        yield from talk.draw(kind, Branches(full, no_text, no_image))
        seen = talk.see(talk.maps[-1])
        full, no_image = [*full, seen], [*no_image, seen]
    yield from talk.write([*full, talk.text(ANSWER_START)])
    talk.turns[-1].text = ANSWER_START + talk.turns[-1].text


def thinking(talk: Talk) -> Steps:
    """One turn behind the thinking prompt, picture through the ViT only (section 7.2)."""
    system = talk.text(talk.prompts.think_system)
    yield from talk.write([system, *talk.images(latents=False), talk.text(talk.question)])


def direct(talk: Talk) -> Steps:
    """One turn on picture and question alone."""
    yield from talk.write([*talk.images(latents=False), talk.text(talk.question)])


def one_map(talk: Talk, kind: str) -> Steps:
    """One map of the picture, no question (section 7.2, direct drawing)."""
    prompt = talk.prompts.depth if kind == DEPTH else talk.prompts.segmentation
    yield from edit(talk, kind, prompt, think=False)


def edit(talk: Talk, kind: str, instruction: str, think: bool) -> Steps:
    """Draw what an instruction asks for, behind one turn of planning if ``think``."""
    system = [talk.text(talk.prompts.gen_think_system)] if think else []
    no_text = [*system, *talk.images(latents=True)]
    no_image = [*system, talk.text(instruction)]
    full = [*no_text, talk.text(instruction)]
    if think:
        yield from talk.write(full)
        full = [*full, talk.text(talk.turns[-1].text)]
    yield from talk.draw(kind, Branches(full, no_text, no_image))
