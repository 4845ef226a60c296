"""Supervised attention: which words name what, where it is to be seen, what goes astray."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from support.tiny import tiny_config

from cooper_ros.errors import BadOption
from cooper_ros.model.network import Cooper
from cooper_ros.model.packing import TextItem, VisionItem
from cooper_ros.scenes.palette import COLOURS, SHAPES
from cooper_ros.training.data import FrameStore
from cooper_ros.training.pointing import ANY, Watch, Words, astray, check_heads, pointers
from cooper_ros.training.probe import seen_objects
from cooper_ros.training.tokenizer import build_tokenizer, marker_ids
from cooper_ros.training.tree import Tree, forward_trees, pack_trees

GRID = (9, 12)
TEXTS = [f'is there a {colour} {shape}? count the {shape}s.' for colour in COLOURS
         for shape in SHAPES]
CONFIG = dataclasses.replace(
    tiny_config(), llm=dataclasses.replace(tiny_config().llm, num_layers=4, vocab_size=640),
    vit=dataclasses.replace(tiny_config().vit, image_size=168), vit_max_num_patch_per_side=12)
TOKENIZER = build_tokenizer(TEXTS * 3, 500)
WORDS = Words.of(TOKENIZER)


def tree(store: FrameStore, frame: int, question: str, answer: str) -> Tree:
    pixels = torch.zeros(3, 14 * GRID[0], 14 * GRID[1])
    return Tree((VisionItem(pixels),), ((TextItem(tuple(TOKENIZER.encode(question))),
                                         TextItem(tuple(TOKENIZER.encode(answer)), loss=True)),))


def test_words_name_what_was_said_last() -> None:
    text = 'is the red ball left of anything green or of the cups?'
    ids = TOKENIZER.encode(text)
    named = WORDS.named(ids)
    red, green, ball, cup = (COLOURS.index('red'), COLOURS.index('green'), SHAPES.index('ball'),
                             SHAPES.index('cup'))
    kinds = list(dict.fromkeys(entry[0] for entry in named if entry))
    assert kinds == [(red, ANY), (red, ball), (green, ANY), (ANY, cup)]
    assert named[0] is None and named[-1][0] == (ANY, cup)
    for name, place in filter(None, named):
        word = TOKENIZER.decode([ids[place]]).strip()
        assert word in (COLOURS[name[0]], SHAPES[name[1]], f'{SHAPES[name[1]]}s')


def test_what_is_named_is_looked_for_where_it_shows(store: FrameStore) -> None:
    frame, thing = next((frame, thing) for frame in range(4) for thing in seen_objects(
        store.instance[frame], store.objects[frame]))
    samples = [tree(store, frame, f'is there a {thing.name}?', 'yes'),
               tree(store, frame, 'is it here?', 'no')]
    looking, recalling = pointers(samples, [frame, frame], store, WORDS, CONFIG)
    assert set(looking.rows.tolist()) == set(recalling.rows.tolist()) == {0}
    patches = looking.wanted[-1][1:1 + GRID[0] * GRID[1]].view(GRID).numpy()
    shown = np.isin(store.instance[frame], [
        number for number, row in enumerate(store.objects[frame])
        if tuple(row[:2]) == (thing.colour, thing.shape)])
    rows, columns = (((np.arange(side) + 0.5) * of / side).astype(int)
                     for side, of in zip(GRID, shown.shape))
    assert patches.any() and not looking.wanted[-1][0]
    assert (patches | ~shown[rows[:, None], columns]).mean() > 0.95  # middles of patches
    assert shown.mean() / 2 < patches.mean() < shown.mean() * 4
    assert (recalling.wanted.float().argmax(1)[-5:] == looking.places[-1]).all()


def test_what_is_not_there_is_looked_for_at_the_start_marker(store: FrameStore) -> None:
    there = {(thing.colour, thing.shape) for thing in seen_objects(store.instance[0],
                                                                   store.objects[0])}
    rows = store.objects[0][np.isfinite(store.objects[0]).all(1)]
    missing = next((c, s) for c in range(len(COLOURS)) for s in range(len(SHAPES))
                   if (c, s) not in there and c not in rows[:, 0])
    name = f'{COLOURS[missing[0]]} {SHAPES[missing[1]]}'
    looking, _ = pointers([tree(store, 0, f'is there a {name}?', 'no')], [0], store, WORDS, CONFIG)
    assert looking.wanted.float().argmax(1).tolist() == [0] * len(looking.rows)
    assert (looking.wanted.sum(1) == 1).all()


def test_attention_learns_where_to_look(store: FrameStore) -> None:
    torch.manual_seed(0)
    network = Cooper(CONFIG).initialise(0.2)
    frame = next(f for f in range(4) if seen_objects(store.instance[f], store.objects[f]))
    name = seen_objects(store.instance[frame], store.objects[frame])[0].name
    samples = [tree(store, frame, f'is there a {name}?', 'yes')]
    spots = pointers(samples, [frame], store, WORDS, CONFIG)
    batch, branch = pack_trees(samples, CONFIG, marker_ids(TOKENIZER))
    optimiser, errors = torch.optim.Adam(network.parameters(), 3e-3), []
    for _ in range(20):
        watch = Watch(*spots)
        forward_trees(network, batch, branch, watch)
        error = watch.error()
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
        errors.append(float(error.detach()))
    assert len(watch.errors) == 4 and errors[-1] < 0.4 * errors[0]


def test_the_error_is_what_attention_leaves_out(store: FrameStore) -> None:
    samples = [tree(store, 0, 'is there a red ball?', 'no')]
    batch, _ = pack_trees(samples, CONFIG, marker_ids(TOKENIZER))
    looking, _ = pointers(samples, [0], store, WORDS, CONFIG)
    q, k = torch.randn(2, 1, len(batch.layout.inverse), 16).unbind(0)
    compact, expected = batch.layout.inverse, 0.0
    for place, wanted in zip(looking.places.tolist(), looking.wanted):
        scores = k[0, compact] @ q[0, compact[place]] / 4
        shares = torch.where(batch.allowed[0, place], scores, -torch.inf).softmax(0)
        expected -= float(shares[wanted].sum().log())
    assert float(astray(q, k, batch, looking)) == pytest.approx(expected, rel=1e-4)


def test_a_network_without_such_heads_is_refused() -> None:
    check_heads(CONFIG)
    with pytest.raises(BadOption, match='2 layers, 4 heads.*task.point'):
        check_heads(tiny_config())


def test_spots_of_some_samples(store: FrameStore, tmp_path: Path) -> None:
    samples = [tree(store, frame, 'is there a red ball?', 'no') for frame in range(3)]
    looking, _ = pointers(samples, [0, 1, 2], store, WORDS, CONFIG)
    part = looking.rows_of(range(1, 3))
    assert part.rows.tolist() == [row - 1 for row in looking.rows.tolist() if row]
    assert torch.equal(part.wanted, looking.wanted[looking.rows > 0])
