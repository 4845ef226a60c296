"""Questions: true by brute force, clear, balanced, and in the published turn grammar."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import replace
from typing import Iterator

import numpy as np
import pytest

from cooper_ros.errors import BadOption
from cooper_ros.scenes.generate import Sample, generate, make_sample
from cooper_ros.scenes.palette import COLOURS, SHAPES
from cooper_ros.scenes.qa import STYLES, QuestionAnswer
from cooper_ros.scenes.questions import CATEGORIES, questions
from cooper_ros.scenes.render import render
from cooper_ros.scenes.sample import sample_scene
from cooper_ros.scenes.scene import SceneObject
from cooper_ros.scenes.splits import (
    COMMON_PAIRS,
    HELD_OUT,
    SPLIT_SIZE,
    SPLITS,
    absolute_seed,
    names_held_out,
    split_of,
    split_of_pairs,
)
from cooper_ros.training.rewards import format_reward

NAME = re.compile(rf'\b({"|".join(COLOURS)}) ({"|".join(SHAPES)})\b')


@pytest.fixture(scope='module')
def samples() -> list[Sample]:
    return list(generate(0, 260, 'train', smooth=False, per_category=2))


def asked(samples: list[Sample], category: str) -> Iterator[tuple[Sample, QuestionAnswer]]:
    found = [(s, q) for s in samples for q in s.questions if q.category == category]
    assert len(found) >= 60, category
    yield from found


def things(sample: Sample, text: str) -> list[SceneObject]:
    """The objects a text names, in order; every name must mean exactly one object."""
    found = []
    for colour, shape in NAME.findall(text):
        match = [t for t in sample.scene.objects if (t.colour, t.shape) == (colour, shape)]
        assert len(match) == 1, text
        found.append(match[0])
    return found


def option(question: QuestionAnswer) -> str:
    """The text behind the right letter."""
    parts = re.split(r'\(([a-d])\) ', question.question)
    return dict(zip(parts[1::2], (part.strip() for part in parts[2::2])))[question.answer]


def eye(sample: Sample) -> np.ndarray:
    return np.array(sample.scene.camera.position)


def length(a: object, b: object) -> float:
    return float(np.linalg.norm(np.array(a, float) - np.array(b, float)))


def test_every_category_and_both_answers_occur(samples: list[Sample]) -> None:
    answers = defaultdict(set)
    for sample in samples:
        for question in sample.questions:
            answers[question.category].add(question.answer)
            if question.kind == 'yes_no':
                answers[question.category, 'yes_no'].add(question.answer)
    assert set(CATEGORIES) <= set(answers)
    for category in ('height', 'existence', 'relation_camera', 'relation_object', 'reach',
                     'occlusion', 'situational'):
        assert answers[category, 'yes_no'] == {'yes', 'no'}, category


def test_distances_are_euclidean(samples: list[Sample]) -> None:
    for sample, q in asked(samples, 'camera_distance'):
        thing, = things(sample, q.question)
        assert abs(float(q.answer) - length(thing.centre, eye(sample))) <= 0.0051
    for sample, q in asked(samples, 'object_distance'):
        a, b = things(sample, q.question)
        assert abs(float(q.answer) - length(a.centre, b.centre)) <= 0.0051


def test_relative_distance_is_clear_and_right(samples: list[Sample]) -> None:
    for sample, q in asked(samples, 'relative_distance'):
        stem, options = q.question.split('?')
        base = things(sample, stem)
        origin = base[0].centre if base else eye(sample)
        ranked = sorted(things(sample, options), key=lambda t: length(t.centre, origin),
                        reverse='far' in stem)
        best, second = (length(t.centre, origin) for t in ranked[:2])
        assert option(q) == ranked[0].name
        assert max(best, second) >= 1.0999 * min(best, second)


def test_sizes_and_heights(samples: list[Sample]) -> None:
    for sample, q in asked(samples, 'object_size'):
        if q.kind == 'number':
            assert abs(int(q.answer) / 100 - things(sample, q.question)[0].size[2]) <= 0.0051
            continue
        a, b = things(sample, q.question)
        measure = (lambda t: t.size[2]) if 'taller' in q.question else \
            (lambda t: float(np.prod(t.size)))
        assert option(q) == max((a, b), key=measure).name
    for sample, q in asked(samples, 'height'):
        tops = [t.centre[2] + t.size[2] / 2 for t in things(sample, q.question)]
        if q.kind == 'number':
            assert abs(float(q.answer) - tops[0]) <= 0.0051
        elif q.kind == 'mcq':
            assert 'ab'[int(np.argmax(tops))] == q.answer
        else:
            assert (q.answer == 'yes') == (tops[0] > tops[1])


def test_counts(samples: list[Sample]) -> None:
    for sample, q in asked(samples, 'counting'):
        text, seen = q.question, np.unique(sample.frame.instance)
        shown = [t for i, t in enumerate(sample.scene.objects) if i in seen]
        colour = next((c for c in COLOURS if c in text), None)
        shape = next((s for s in SHAPES if re.search(rf'\b{s}(s|es)\b', text)), None)
        chosen = [t for t in shown if (colour is None or t.colour == colour)
                  and (shape is None or t.shape == shape)
                  and ('on the table' not in text or t.on_table)]
        assert q.answer == str(len(chosen)), text


def test_existence(samples: list[Sample]) -> None:
    for sample, q in asked(samples, 'existence'):
        words = set(re.findall('[a-z]+', q.question))
        found = [t for t in sample.scene.objects
                 if not (words & set(COLOURS)) - {t.colour}
                 and not (words & set(SHAPES)) - {t.shape}]
        assert (q.answer == 'yes') == bool(found), q.question


def test_left_and_right_of_the_camera_follow_the_picture(samples: list[Sample]) -> None:
    checked = Counter()
    for sample, q in asked(samples, 'relation_camera'):
        text = q.question if q.kind == 'yes_no' else f'{q.question.split(" seen")[0]} {option(q)}'
        a, b = things(sample, text)
        u_a, u_b = (sample.scene.camera.project(np.array(t.centre), 128, 96)[0] for t in (a, b))
        near = length(a.centre[:2], eye(sample)[:2]) < length(b.centre[:2], eye(sample)[:2])
        word = next(w for w in ('left of', 'right of', 'in front of', 'behind') if w in text)
        true = {'left of': u_a < u_b, 'right of': u_a > u_b, 'in front of': near,
                'behind': not near}[word]
        assert true == (q.kind == 'mcq' or q.answer == 'yes'), q.question
        checked[word] += 1
    assert len(checked) == 4


def turned(origin: object, facing: object, other: object) -> tuple[float, float]:
    """How far ahead and how far to the left ``other`` is, in the frame looking at ``facing``."""
    o, f, p = (np.array(v, float)[:2] for v in (origin, facing, other))
    ahead = (f - o) / np.linalg.norm(f - o)
    left = np.array([[0, -1], [1, 0]]) @ ahead
    return float((p - o) @ ahead), float((p - o) @ left)


def check_side(word: str, ahead: float, left: float, said: bool) -> None:
    value = {'left': left, 'right': -left, 'front': ahead, 'behind': -ahead}[word]
    assert (value > 0) == said
    assert abs(value) > 0.4 * np.hypot(ahead, left)  # clear: at least 25 degrees from the line


def test_object_frame_relations(samples: list[Sample]) -> None:
    for sample, q in asked(samples, 'relation_object'):
        a, b = things(sample, q.question)
        text = option(q) if q.kind == 'mcq' else q.question.split('. ')[1]
        word, = re.findall('left|right|front|behind', text)
        check_side(word, *turned(a.centre, eye(sample), b.centre),
                   q.kind == 'mcq' or q.answer == 'yes')


def test_situational(samples: list[Sample]) -> None:
    for sample, q in asked(samples, 'situational'):
        a, b, c = things(sample, q.question)
        text = option(q) if q.kind == 'mcq' else q.question.split('. ')[1]
        word, = re.findall('left|right', text)
        check_side(word, *turned(a.centre, b.centre, c.centre),
                   q.kind == 'mcq' or q.answer == 'yes')


def test_reach(samples: list[Sample]) -> None:
    for sample, q in asked(samples, 'reach'):
        named = things(sample, q.question)
        origin = eye(sample) if 'at the camera' in q.question else named.pop(0).centre
        arm = float(re.search(r'(\d+\.\d+) meters', q.question)[1])
        distance = length(named[0].centre, origin)
        assert (q.answer == 'yes') == (distance <= arm)
        assert max(distance, arm) >= 1.08 * min(distance, arm)
        assert q.answer == 'yes' or surface_gap(named[0], origin) > arm


def surface_gap(thing: SceneObject, origin: object) -> float:
    """Least distance from a point to the box around a thing, metres."""
    turn = np.array([[np.cos(thing.yaw), np.sin(thing.yaw), 0],
                     [-np.sin(thing.yaw), np.cos(thing.yaw), 0], [0, 0, 1]])
    local = turn @ (np.array(origin, float) - thing.centre)
    return float(np.linalg.norm(np.maximum(np.abs(local) - np.array(thing.size) / 2, 0)))


def test_occlusion(samples: list[Sample]) -> None:
    for sample, q in list(asked(samples, 'occlusion'))[:50]:
        thing = things(sample, q.question)[0]
        index = sample.scene.objects.index(thing)
        alone = replace(sample.scene, objects=(thing,), table=None)
        whole = render(alone, smooth=False).instance == 0
        shown = Counter(sample.frame.instance[whole].tolist())
        if q.kind == 'yes_no':
            assert (q.answer == 'yes') == (1 - shown[index] / whole.sum() > 0.1)
            continue
        hider, = things(sample, option(q))
        del shown[index]
        assert shown.most_common(1)[0][0] == sample.scene.objects.index(hider)


def test_grid_cells(samples: list[Sample]) -> None:
    rows, columns = ('top', 'middle', 'bottom'), ('left', 'center', 'right')
    for sample, q in asked(samples, 'spatial_grid'):
        thing = things(sample, q.question)[0]
        v, u = np.nonzero(sample.frame.instance == sample.scene.objects.index(thing))
        row, column = int(v.mean() // 32), int(u.mean() * 3 // 128)
        if q.kind == 'number_int':
            assert int(q.answer) == row * 3 + column + 1
        else:
            assert option(q) == f'{rows[row]} {columns[column]}'


def test_answers_are_balanced(samples: list[Sample]) -> None:
    yes_no, letters, options = Counter(), Counter(), Counter()
    for sample in samples:
        for q in sample.questions:
            if q.kind == 'yes_no':
                yes_no[q.answer] += 1
            if q.kind == 'mcq':
                size = len(re.findall(r'\([a-d]\)', q.question))
                letters[size, q.answer] += 1
                options[size] += 1
    assert abs(yes_no['yes'] / yes_no.total() - 0.5) < 0.05
    for (size, letter), count in letters.items():
        spread = np.sqrt(options[size] * (1 / size) * (1 - 1 / size))
        assert abs(count - options[size] / size) < 4 * spread, (size, letter)


def test_words_of_a_question_tell_no_answer(samples: list[Sample]) -> None:
    """New names are there as often as others, and either side of a thing is right as often."""
    sides = Counter(q.facts.rsplit(': ')[-1] for _, q in asked(samples, 'relation_object'))
    for one, other in (('left.', 'right.'), ('in front.', 'behind.')):
        assert abs(sides[one] - sides[other]) < 4 * np.sqrt(sides[one] + sides[other])
    there = Counter[tuple[bool, str]]()
    for sample in generate(0, 300, 'test', smooth=False, per_category=2):
        there.update((names_held_out(q.question, 'test'), q.answer) for q in sample.questions
                     if q.category == 'existence' and NAME.search(q.question))
    for new in (False, True):
        yes, no = there[new, 'yes'], there[new, 'no']
        assert yes + no > 40 and abs(yes - no) < 4 * np.sqrt(yes + no), there


def test_counts_and_cells_have_no_safe_guess(samples: list[Sample]) -> None:
    for category in ('counting', 'spatial_grid'):
        answers = Counter(q.answer for _, q in asked(samples, category) if q.kind == 'number_int')
        assert answers.most_common(1)[0][1] / answers.total() < 0.55, category
        assert len(answers) >= 5


def test_wording_is_small_and_lower_case(samples: list[Sample]) -> None:
    words = set()
    for sample in samples:
        for q in sample.questions:
            for text in (q.question, q.facts):
                assert text == text.lower() and len(text) < 180
                words |= set(re.findall('[a-z]+', text))
    assert len(words) < 150


def test_traces_end_in_what_was_asked(samples: list[Sample]) -> None:
    """Whoever can read needs nothing but the last words of the trace to answer."""
    seen: Counter[str] = Counter()
    for sample in samples:
        for q in sample.questions:
            numbers, _, said = q.facts.removesuffix('.').rpartition(': ')
            if numbers and q.kind == 'mcq':
                assert option(q).startswith(said), q
            elif numbers and q.kind == 'yes_no':
                words = re.split(r'[^a-z]+', q.question.replace('reaches', ''))
                there = ('reach' in said) if q.category == 'reach' else said.split()[-1] in words
                assert there == (q.answer == 'yes'), q
            elif numbers:
                assert said.split()[0] == q.answer, q
            seen[q.category] += bool(numbers)
    assert set(seen) - {category for category, count in seen.items() if not count} == {
        'object_distance', 'relative_distance', 'object_size', 'height', 'counting',
        'relation_camera', 'relation_object', 'reach', 'situational'}


def test_hours_tell_left_from_right(samples: list[Sample]) -> None:
    """Twelve is where the camera looks, three its right; less than six more is right."""
    agree = []
    for _, q in asked(samples, 'situational'):
        ahead, there = (int(hour) for hour in re.findall(r'at (\d+)', q.facts))
        assert 1 <= ahead <= 12 and 1 <= there <= 12
        turn = (there - ahead) % 12
        agree.append(turn in (0, 6) or (turn < 6) == q.facts.endswith('right.'))
        x, z = map(float, re.search(r'ahead x (\S+) z (\S+)', q.facts).groups())
        if abs(x) > 2 * abs(z):
            assert (ahead in (2, 3, 4)) if x > 0 else (ahead in (8, 9, 10)), q
    assert all(agree)


def test_traces_name_things_in_the_order_of_the_question(samples: list[Sample]) -> None:
    for category in ('relation_camera', 'relation_object', 'situational', 'object_distance'):
        for _, q in asked(samples, category):
            stem = re.split(r' \(a\) ', q.question)[0]
            names = NAME.findall(stem)
            assert NAME.findall(q.facts)[:len(names)] == names, q


def test_traces_follow_the_turn_grammar(samples: list[Sample]) -> None:
    for sample in samples[:80]:
        for q in sample.questions:
            assert tuple(trace.style for trace in q.traces) == STYLES
            direct, text, interleaved, maps = q.traces
            assert direct.turns == (f'<answer>\\boxed{{{q.answer}}}</answer>',)
            assert text.tools == () and len(text.turns) == 1
            assert interleaved.tools == q.tools
            assert maps.tools == ('depth', 'segmentation')
            for trace in (text, interleaved, maps):
                assert len(trace.turns) == len(trace.tools) + 1
                assert format_reward(trace.turns) == 1  # the grammar that a policy is held to
                for turn, tool in zip(trace.turns, trace.tools):
                    assert ('<depth-estimation>' in turn) == (tool == 'depth')


def test_unknown_styles_and_categories_are_refused(samples: list[Sample]) -> None:
    sample = samples[0]
    with pytest.raises(BadOption, match='unknown trace style; got loud'):
        sample.questions[0].trace('loud')
    with pytest.raises(BadOption, match='unknown category; got taste'):
        questions(sample.scene, sample.frame, categories=['taste'])


def test_questions_are_repeatable_and_differ_within_a_scene(samples: list[Sample]) -> None:
    again = make_sample(7, 'train', per_category=2, smooth=False)
    assert again.questions == samples[7].questions
    for sample in samples:
        texts = [(q.category, q.question) for q in sample.questions]
        assert len(set(texts)) == len(texts)


def test_worker_processes_give_the_same_samples() -> None:
    alone = list(generate(3, 4, 'test', width=32, height=24))
    shared = list(generate(3, 4, 'test', width=32, height=24, workers=1))
    assert [s.scene for s in alone] == [s.scene for s in shared]
    assert all(np.array_equal(a.frame.rgb, b.frame.rgb) for a, b in zip(alone, shared))
    assert [s.questions for s in alone] == [s.questions for s in shared]


# --- splits -------------------------------------------------------------------------------------

def pairs_of(split: str, seed: int) -> set[tuple[str, str]]:
    return {(t.colour, t.shape) for t in sample_scene(seed, split).objects}


def test_split_seed_ranges_do_not_overlap() -> None:
    ranges = {split: range(absolute_seed(0, split), absolute_seed(SPLIT_SIZE - 1, split) + 1)
              for split in SPLITS}
    ordered = sorted(ranges.values(), key=lambda r: r.start)
    assert all(a.stop <= b.start for a, b in zip(ordered, ordered[1:]))
    for split, seeds in ranges.items():
        assert split_of(seeds.start) == split_of(seeds.stop - 1) == split
        assert split_of(sample_scene(11, split).seed) == split


def test_every_scene_shows_by_its_objects_which_split_it_is_from() -> None:
    """Validation and test scenes hold a reserved pair, so no other split can contain them."""
    for split in SPLITS:
        for seed in range(150):
            pairs = pairs_of(split, seed)
            assert split_of_pairs(pairs) == split
            others = {pair for name in SPLITS if name != split for pair in HELD_OUT[name]}
            assert not pairs & others


def test_reserved_pairs_are_never_spoken_of_in_training(samples: list[Sample]) -> None:
    reserved = {pair for pairs in HELD_OUT.values() for pair in pairs}
    for sample in samples:
        for q in sample.questions:
            assert not set(NAME.findall(q.question)) & reserved


def test_reserved_pairs_leave_every_word_in_training() -> None:
    assert {colour for colour, _ in COMMON_PAIRS} == set(COLOURS)
    assert {shape for _, shape in COMMON_PAIRS} == set(SHAPES)
    assert not set(HELD_OUT['test']) & set(HELD_OUT['validation'])


def test_bad_seeds_and_splits_are_refused() -> None:
    with pytest.raises(BadOption, match="unknown split; got 'dev'; allowed: train, validation"):
        sample_scene(0, 'dev')
    with pytest.raises(BadOption, match='scene seed out of range; got -1'):
        sample_scene(-1)
    with pytest.raises(BadOption, match='absolute scene seed out of range'):
        split_of(3 * SPLIT_SIZE)
    with pytest.raises(BadOption, match='reserved for two splits'):
        split_of_pairs([HELD_OUT['test'][0], HELD_OUT['validation'][0]])
    assert names_held_out('how tall is the green egg?', 'test')
    assert not names_held_out('how tall is the green egg?', 'validation')
    assert not names_held_out('how tall is the green can, left of the red egg?', 'test')
