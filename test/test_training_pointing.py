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
from cooper_ros.runtime.tokenizer import special_tokens
from cooper_ros.scenes.palette import COLOURS, SHAPES
from cooper_ros.training.data import FrameStore
from cooper_ros.training.naming import ANY, Words
from cooper_ros.training.pointing import MEASURES, Spots, lessons, measures
from cooper_ros.training.probe import seen_objects
from cooper_ros.training.tokenizer import build_tokenizer
from cooper_ros.training.tree import Tree, forward_trees, pack_trees
from cooper_ros.training.watching import Watch, astray, check_heads, untold

GRID = (9, 12)
TEXTS = [f'is there a {colour} {shape}? count the {shape}s.' for colour in COLOURS
         for shape in SHAPES]
CONFIG = dataclasses.replace(
    tiny_config(), llm=dataclasses.replace(tiny_config().llm, num_layers=6, num_heads=6,
                                           num_kv_heads=3, hidden_size=96, vocab_size=640),
    vit=dataclasses.replace(tiny_config().vit, image_size=168), vit_max_num_patch_per_side=12)
TOKENIZER = build_tokenizer(TEXTS * 3, 500)
WORDS = Words.of(TOKENIZER)


def tree(store: FrameStore, frame: int, question: str, answer: str) -> Tree:
    pixels = torch.zeros(3, 14 * GRID[0], 14 * GRID[1])
    return Tree((VisionItem(pixels),), ((TextItem(tuple(TOKENIZER.encode(question))),
                                         TextItem(tuple(TOKENIZER.encode(answer)), loss=True)),))


def known_at(text: str, word: str) -> list[tuple[int, int]]:
    """Names known at the last token that spells a word, the last one first."""
    ids = TOKENIZER.encode(text)
    place = max(place for place, token in enumerate(ids)
                if TOKENIZER.decode([token]).strip() == word)
    return [named.name for named in WORDS.named(ids)[place]]


def test_words_name_what_was_said_last() -> None:
    text = 'is the red ball left of anything green or of the cups?'
    ids = TOKENIZER.encode(text)
    named = WORDS.named(ids)
    red, green, ball, cup = (COLOURS.index('red'), COLOURS.index('green'), SHAPES.index('ball'),
                             SHAPES.index('cup'))
    kinds = list(dict.fromkeys(entry[0].name for entry in named if entry))
    assert kinds == [(red, ANY), (red, ball), (green, ANY), (ANY, cup)]
    assert named[0] == () and named[-1][0].name == (ANY, cup)
    for name, place, _ in (entry[0] for entry in named if entry):
        word = TOKENIZER.decode([ids[place]]).strip()
        assert word in (COLOURS[name[0]], SHAPES[name[1]], f'{SHAPES[name[1]]}s')


def test_what_was_named_before_stays_known() -> None:
    red, green, blue = (COLOURS.index(name) for name in ('red', 'green', 'blue'))
    cup, ball = SHAPES.index('cup'), SHAPES.index('ball')
    text = 'is the red cup left of the green ball? the blue cup'
    assert known_at(text, 'red') == [(red, ANY)]
    assert known_at(text, 'ball') == [(green, ball), (red, cup)]
    assert known_at(text, 'cup') == [(blue, cup), (green, ball), (red, cup)]
    again = f'{text}, the red cup, the blue ball'
    assert known_at(again, 'cup') == [(red, cup), (blue, cup), (green, ball)]
    assert known_at(again, 'ball') == [(blue, ball), (red, cup), (blue, cup)]


def test_what_is_named_again_knows_where_it_was_named() -> None:
    ids = TOKENIZER.encode('is there a red cup? the green ball, the red cup, the red ball, red')
    named = WORDS.named(ids)
    cups = [place for place, token in enumerate(ids) if TOKENIZER.decode([token]).strip() == 'cup']
    assert named[cups[0]][0].earlier is None
    assert named[cups[1]][0].earlier == cups[0]
    assert named[-1][0].name == (COLOURS.index('red'), ANY) and named[-1][0].earlier is None


def test_options_and_the_one_that_was_answered() -> None:
    ids = TOKENIZER.encode('which? (a) red cup (b) in front (c) the green ball')
    options = WORDS.options(ids)
    assert {TOKENIZER.decode([letter]): TOKENIZER.decode(ids[place.start:place.stop]).strip()
            for letter, place in options.items()} == {
                'a': 'red cup', 'b': 'in front', 'c': 'the green ball'}
    places, answer = WORDS.answered(TOKENIZER.encode('so: in front. \\boxed{b}.')) or ((), 0)
    assert answer in options and TOKENIZER.decode([answer]) == 'b'
    assert len(places) == 1 and places[0] > 3
    assert WORDS.options(TOKENIZER.encode('is it (here)?')) == {}
    assert WORDS.answered(TOKENIZER.encode('boxed')) is None


def test_an_answer_looks_at_the_option_it_names(store: FrameStore) -> None:
    question, answer = 'where is it? (a) red cup (b) in front (c) left', 'so. \\boxed{b}'
    samples = [tree(store, 0, question, answer), tree(store, 1, 'is it?', '\\boxed{b}')]
    choosing = lessons(samples, [0, 1], store, WORDS, CONFIG).choosing
    first = GRID[0] * GRID[1] + 3  # behind the picture, its two markers and the begin marker
    ids = TOKENIZER.encode(question)
    words = [ids[place - first] for place in choosing.wanted[0].nonzero()[:, 0].tolist()]
    assert choosing.rows.tolist() == [0] and TOKENIZER.decode(words).strip() == 'in front'
    said = TOKENIZER.encode(answer)
    assert choosing.places.tolist() == [first + len(ids) + 2 + len(said) - 3]


def test_the_last_word_of_the_thoughts_looks_at_the_option_too() -> None:
    ids = TOKENIZER.encode('<think>red cup: in front.</think><answer>\\boxed{b}</answer>')
    (word, box), answer = WORDS.answered(ids) or ((0, 0), 0)
    assert TOKENIZER.decode(ids[:word + 1]) == '<think>red cup: in front'
    assert TOKENIZER.decode(ids[:box + 1]).endswith('.</think><answer>\\boxed{')
    assert ids[box + 1] == answer and TOKENIZER.decode([answer]) == 'b'


def test_what_is_named_is_looked_for_where_it_shows(store: FrameStore) -> None:
    frame, thing = next((frame, thing) for frame in range(4) for thing in seen_objects(
        store.instance[frame], store.objects[frame]))
    samples = [tree(store, frame, f'is there a {thing.name}?', 'yes'),
               tree(store, frame, 'is it here?', 'no')]
    found = lessons(samples, [frame, frame], store, WORDS, CONFIG)
    looking, recalling = found.looking, found.recalling[0]
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
    found = lessons([tree(store, 0, f'is there a {name}?', 'no')], [0], store, WORDS, CONFIG)
    looking = found.looking
    assert looking.wanted.float().argmax(1).tolist() == [0] * len(looking.rows)
    assert (looking.wanted.sum(1) == 1).all()
    assert (found.knowing.wanted[:, 0] == 0).all()  # how many there are
    assert found.knowing.wanted[:, 1:].isnan().all()


def test_words_know_where_and_how_large(store: FrameStore) -> None:
    frame = next(f for f in range(4) if len(seen_objects(store.instance[f], store.objects[f])) > 1)
    first, second = seen_objects(store.instance[frame], store.objects[frame])[:2]
    question = f'is the {first.name} left of the {second.name}?'
    knowing = lessons([tree(store, frame, question, f'{first.name}, {second.name}')], [frame],
                      store, WORDS, CONFIG).knowing
    alone = [row for row in knowing.wanted if row.isfinite().all()]
    for thing in (first, second):
        distance = float(np.linalg.norm(thing.position))
        wanted = torch.tensor([1, *thing.position[:2], thing.position[2] - 2, distance - 2,
                               thing.tall, thing.top, 2 * thing.across - 1, 2 * thing.down - 1])
        assert min(float((row - wanted).abs().max()) for row in alone) < 0.02


def test_measures_are_of_the_picture() -> None:
    mask = np.zeros((96, 128), np.float32)
    mask[:24, 96:] = 1  # a corner
    row = np.array([0, 0, 3, 0, 4, 0.5, 0.7])
    assert measures(row, mask) == pytest.approx([1, 3, 0, 2, 3, 0.5, 0.7, 0.75, -0.75], abs=0.02)


def test_attention_learns_where_to_look_and_what_to_know(store: FrameStore) -> None:
    torch.manual_seed(0)
    network = Cooper(CONFIG).initialise(0.2)
    frame = next(f for f in range(4) if len(seen_objects(store.instance[f], store.objects[f])) > 1)
    names = [thing.name for thing in seen_objects(store.instance[frame], store.objects[frame])[:2]]
    samples = [tree(store, frame, 'is the {} left of the {}?'.format(*names), names[0])]
    learn = lessons(samples, [frame], store, WORDS, CONFIG)
    batch, branch = pack_trees(samples, CONFIG, special_tokens(TOKENIZER))
    optimiser, errors = torch.optim.Adam(network.parameters(), 3e-3), []
    for _ in range(30):
        watch = Watch(learn)
        forward_trees(network, batch, branch, watch)
        error = torch.stack([watch.error(), watch.ignorance()])
        optimiser.zero_grad()
        error.sum().backward()
        optimiser.step()
        errors.append(error.detach())
    assert len(watch.errors) == 10 and len(watch.unknown) == 5
    assert (errors[-1] < 0.4 * errors[0]).all()


def test_the_error_is_what_attention_leaves_out(store: FrameStore) -> None:
    samples = [tree(store, 0, 'is there a red ball?', 'no')]
    batch, _ = pack_trees(samples, CONFIG, special_tokens(TOKENIZER))
    looking = lessons(samples, [0], store, WORDS, CONFIG).looking
    q, k = torch.randn(2, 1, len(batch.layout.inverse), 16).unbind(0)
    compact, expected = batch.layout.inverse, 0.0
    for place, wanted in zip(looking.places.tolist(), looking.wanted):
        scores = k[0, compact] @ q[0, compact[place]] / 4
        shares = torch.where(batch.allowed[0, place], scores, -torch.inf).softmax(0)
        expected -= float(shares[wanted].sum().log())
    assert float(astray(q, k, batch, looking)) == pytest.approx(expected, rel=1e-4)


def test_nothing_is_asked_of_a_measure_that_does_not_exist(store: FrameStore) -> None:
    batch, _ = pack_trees([tree(store, 0, 'is it?', 'no')], CONFIG, special_tokens(TOKENIZER))
    wanted = torch.full((1, len(MEASURES)), torch.nan)
    wanted[0, 0] = 2
    spots = Spots(torch.tensor([0]), torch.tensor([3]), wanted)
    v = torch.full((1, len(batch.layout.inverse), 16), 9.0, requires_grad=True)
    told = v * 1
    error = untold(told, batch, spots)
    error.backward()
    assert float(error.detach()) == pytest.approx(7 - 0.05)
    assert v.grad.count_nonzero() == 1


def test_a_network_without_such_heads_is_refused() -> None:
    check_heads(CONFIG)
    with pytest.raises(BadOption, match='heads of 16.*6 layers, 5 heads of 9.*task.point'):
        check_heads(tiny_config())


def test_spots_of_some_samples(store: FrameStore, tmp_path: Path) -> None:
    samples = [tree(store, frame, 'is there a red ball?', 'no') for frame in range(3)]
    looking = lessons(samples, [0, 1, 2], store, WORDS, CONFIG).looking
    part = looking.rows_of(range(1, 3))
    assert part.rows.tolist() == [row - 1 for row in looking.rows.tolist() if row]
    assert torch.equal(part.wanted, looking.wanted[looking.rows > 0])
