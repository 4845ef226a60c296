"""Asking a real (tiny, random) network: order of events, limits, reuse, honesty of maps."""

from __future__ import annotations

from typing import Iterator, Sequence

import numpy as np
import pytest
import torch
from support.tiny import PROMPTS, byte_codec, tiny_engine

from cooper_ros.config import CooperConfig
from cooper_ros.engine import settings
from cooper_ros.engine import talk as talk_module
from cooper_ros.engine.engine import CooperEngine
from cooper_ros.engine.events import (
    Answer,
    DepthMap,
    Event,
    Failure,
    MapFinished,
    MapStarted,
    MapStep,
    SegmentationMap,
    TextDelta,
)
from cooper_ros.engine.limits import CancelToken, Limits
from cooper_ros.engine.question import clean_question
from cooper_ros.engine.sampling import TextOptions, generator_for
from cooper_ros.engine.settings import offline
from cooper_ros.errors import BadImage, BadOption, ErrorCode, OutOfMemory

LOOK = '<think>look</think><depth-estimation>d</depth-estimation>'
PARTS = '<think>parts</think><segmentation>s</segmentation>'
DONE = '<think>so</think><answer>It is \\boxed{B}</answer>'


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8)


@pytest.fixture
def engine() -> CooperEngine:
    return tiny_engine()


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Turns the network is made to write; it still runs for every token."""
    script: list[str] = []
    queue: list[int] = []

    def choose(logits: torch.Tensor, options: TextOptions, generator: object
               ) -> tuple[int, float]:
        codec = byte_codec()
        if not queue:
            queue.extend([*codec.encode(script.pop(0)), codec.end])
        return queue.pop(0), 0.5

    monkeypatch.setattr(talk_module, 'choose_token', choose)
    yield script


def ask(engine: CooperEngine, question: str = 'which?', seed: int = 0,
        **changes: object) -> list[Event]:
    return list(engine.ask(picture(seed), question, max_turn_tokens=2048, **changes))


def long_turns(script: Sequence[str], says: list[str]) -> CooperEngine:
    says[:] = script
    return tiny_engine(max_turn_tokens=4096)


def test_the_loop_looks_thinks_and_answers(says: list[str]) -> None:
    engine = long_turns([LOOK, PARTS, DONE], says)
    events = ask(engine)
    kinds = [type(event) for event in events]
    assert kinds.count(MapStarted) == kinds.count(MapFinished) == 2
    assert kinds.count(MapStep) == 2 * 3
    answer = events[-1]
    assert isinstance(answer, Answer)
    assert (answer.text, answer.short, answer.complete) == ('It is \\boxed{B}', 'B', True)
    assert answer.reasoning == (LOOK, PARTS, DONE)
    assert [type(drawn) for drawn in answer.maps] == [DepthMap, SegmentationMap]
    assert answer.confidence == pytest.approx(0.5)
    assert answer.timings.flow_steps == 6
    streamed = ''.join(event.text for event in events if isinstance(event, TextDelta))
    assert streamed == LOOK + PARTS + DONE
    assert all(event.request_id == answer.request_id for event in events)
    elapsed = [event.elapsed for event in events]
    assert elapsed == sorted(elapsed)


def test_no_map_is_drawn_after_the_last_turn(says: list[str]) -> None:
    events = ask(long_turns([LOOK, PARTS], says), max_turns=2)
    answer = events[-1]
    assert isinstance(answer, Answer)
    assert answer.error_code == ErrorCode.NO_ANSWER and not answer.complete
    assert len(answer.maps) == 1 and len(answer.reasoning) == 2


def test_a_stuck_turn_ends_the_loop_unless_repetition_is_wanted(says: list[str]) -> None:
    once = ask(long_turns(['<think>hm</think>'] * 3, says))[-1]
    assert isinstance(once, Answer) and once.reasoning == ('<think>hm</think>',)
    thrice = ask(long_turns(['<think>hm</think>'] * 3, says), repeat_stuck_turns=True)[-1]
    assert isinstance(thrice, Answer) and len(thrice.reasoning) == 3
    assert once.text == thrice.text == 'hm'


def test_maps_mode_draws_both_and_answers(says: list[str]) -> None:
    answer = ask(long_turns(['\\boxed{7}</answer>'], says), mode='maps')[-1]
    assert isinstance(answer, Answer)
    assert [drawn.kind for drawn in answer.maps] == ['depth', 'segmentation']
    assert answer.short == '7' and answer.complete


@pytest.mark.parametrize('mode', ['direct', 'text'])
def test_text_modes_draw_nothing(says: list[str], mode: str) -> None:
    answer = ask(long_turns(['yes'], says), mode=mode)[-1]
    assert isinstance(answer, Answer)
    assert answer.maps == () and answer.text == 'yes' and answer.complete


def test_cancel_within_one_token(engine: CooperEngine) -> None:
    token = CancelToken()
    seen = 0
    for event in engine.ask(picture(), 'q', cancel=token, mode='direct'):
        if isinstance(event, TextDelta):
            seen += 1
            token.cancel()
    assert isinstance(event, Answer) and seen == 1
    assert event.error_code == ErrorCode.CANCELED and not event.complete
    assert event.timings.text_tokens < 12


def test_cancel_within_one_flow_step(engine: CooperEngine) -> None:
    token, steps = CancelToken(), 0
    for event in engine.ask(picture(), 'q', cancel=token, mode='maps', flow_points=50):
        if isinstance(event, MapStep):
            steps += 1
            token.cancel()
    assert steps == 1
    assert isinstance(event, Failure) and event.error_code == ErrorCode.CANCELED


def test_cancel_within_one_piece_of_context(engine: CooperEngine, monkeypatch: pytest.MonkeyPatch
                                            ) -> None:
    token, runtime, encoded = CancelToken(), engine.parts.runtime, []
    encode_vision = runtime.encode_vision

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        encoded.append(pixels)
        token.cancel()
        return encode_vision(pixels)

    monkeypatch.setattr(runtime, 'encode_vision', encode)
    event = list(engine.ask([picture(1), picture(2)], 'q', cancel=token, mode='direct'))[-1]
    assert isinstance(event, Failure) and event.error_code == ErrorCode.CANCELED
    assert len(encoded) == 1  # of two pictures


def test_a_map_drawn_before_the_first_word_is_returned(engine: CooperEngine) -> None:
    token = CancelToken()
    for event in engine.ask(picture(), 'q', cancel=token, mode='maps'):
        if isinstance(event, MapFinished):
            token.cancel()
    assert isinstance(event, Answer) and event.error_code == ErrorCode.CANCELED
    assert [drawn.kind for drawn in event.maps] == ['depth']
    assert (event.text, event.reasoning, event.confidence, event.complete) == ('', (), 0.0, False)


def test_deadline_returns_the_best_so_far(says: list[str], monkeypatch: pytest.MonkeyPatch
                                          ) -> None:
    engine = long_turns([LOOK, DONE], says)
    stream = engine.ask(picture(), 'q', max_turn_tokens=2048, time_budget_s=3600)
    for event in stream:
        if isinstance(event, MapFinished):
            monkeypatch.setattr('time.monotonic', lambda: 1e12)
    assert isinstance(event, Answer)
    assert event.error_code == ErrorCode.DEADLINE and not event.complete
    assert len(event.maps) == 1 and event.reasoning[0] == LOOK
    assert 'time_budget_s' in event.error_msg


def test_follow_up_reads_only_its_own_words_and_changes_nothing(says: list[str]) -> None:
    engine = long_turns([DONE, LOOK, DONE, LOOK, DONE], says)
    ask(engine, 'first?')
    follow = ask(engine, 'second?')[-1]
    fresh_engine = tiny_engine(max_turn_tokens=4096)
    fresh = ask(fresh_engine, 'second?')[-1]
    assert isinstance(follow, Answer) and isinstance(fresh, Answer)
    assert follow.timings.reused_tokens > fresh.timings.reused_tokens
    assert follow.timings.read_tokens < fresh.timings.read_tokens
    assert isinstance(follow.maps[0], DepthMap) and isinstance(fresh.maps[0], DepthMap)
    np.testing.assert_array_equal(follow.maps[0].relative, fresh.maps[0].relative)


def test_real_turns_are_the_same_after_other_questions(engine: CooperEngine) -> None:
    alone = ask(tiny_engine(), 'what?', mode='auto')[-1]
    for question in ('a', 'bb', 'what is it?'):
        ask(engine, question, seed=3)
    again = ask(engine, 'what?', mode='auto')[-1]
    assert isinstance(alone, Answer) and isinstance(again, Answer)
    assert alone.reasoning == again.reasoning


def test_same_seed_same_map_other_picture_other_map(engine: CooperEngine) -> None:
    first, again, seeded = (engine.estimate_depth(picture(), seed=seed) for seed in (1, 1, 2))
    other = engine.estimate_depth(picture(5), seed=1)
    np.testing.assert_array_equal(first.relative, again.relative)
    assert np.abs(first.relative - seeded.relative).max() > 1e-3
    assert np.abs(first.relative - other.relative).max() > 1e-3


def test_metres_only_where_somebody_vouches_for_them() -> None:
    unknown = tiny_engine().estimate_depth(picture())
    assert unknown.metres is None and unknown.range_m is None
    assert 0 <= unknown.relative.min() <= unknown.relative.max() <= 1
    told = tiny_engine(config=CooperConfig(depth_min_m=1.0, depth_max_m=3.0))
    known = told.estimate_depth(picture())
    assert known.range_m == (1.0, 3.0) and known.metres is not None
    np.testing.assert_allclose(known.metres, 1 + 2 * known.relative, rtol=1e-6)


def test_segments_have_a_legend_that_counts_every_pixel(engine: CooperEngine) -> None:
    drawn = engine.segment(picture())
    assert drawn.labels.shape == drawn.rgb.shape[:2] and not drawn.named
    assert sum(label.pixels for label in drawn.legend) == drawn.labels.size


@pytest.mark.parametrize('image, question, changes, code', [
    (np.zeros((0, 5, 3), np.uint8), 'q', {}, ErrorCode.BAD_IMAGE),
    (np.zeros((5, 5), np.uint8), 'q', {}, ErrorCode.BAD_IMAGE),
    ([], 'q', {}, ErrorCode.BAD_IMAGE),
    (picture(), '  ', {}, ErrorCode.BAD_QUESTION),
    (picture(), '\ufeff \u200b', {}, ErrorCode.BAD_QUESTION),
    (picture(), 'q', {'mode': 'loud'}, ErrorCode.BAD_OPTION),
    (picture(), 'q', {'flow_points': 1, 'mode': 'maps'}, ErrorCode.BAD_OPTION),
    (picture(), 'q' * 500, {'context_tokens': 100}, ErrorCode.CONTEXT_FULL)])
def test_bad_requests_fail_clearly_and_cost_nothing_else(
        engine: CooperEngine, image: np.ndarray, question: str, changes: dict,
        code: ErrorCode) -> None:
    events = list(engine.ask(image, question, **changes))
    assert len(events) == 1 and isinstance(events[0], Failure)
    assert events[0].error_code == code and code.name in events[0].error_msg
    assert isinstance(ask(engine)[-1], Answer)


@pytest.mark.parametrize('error', [torch.OutOfMemoryError('CUDA out of memory'), MemoryError(),
                                   OutOfMemory('the device has no memory left')])
def test_memory_error_fails_one_request_and_gives_the_cache_back(
        engine: CooperEngine, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    ask(engine)
    large = engine._reader

    def full(*args: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(type(engine.parts.runtime), 'encode_vision', full)
        failed = list(engine.ask(picture(1), 'Which box is closer?'))[-1]
    assert isinstance(failed, Failure) and failed.error_code == ErrorCode.OUT_OF_MEMORY
    assert large is not None and engine._reader is None
    assert isinstance(ask(engine)[-1], Answer)


def test_map_services_raise_our_errors(engine: CooperEngine) -> None:
    with pytest.raises(BadImage, match='RGB'):
        engine.estimate_depth(np.zeros((2, 2), np.float32))
    with pytest.raises(BadOption, match='unknown setting'):
        engine.segment(picture(), colour='red')


def test_sampled_text_is_seeded(engine: CooperEngine) -> None:
    first, again, other = (
        ask(engine, mode='direct', sample=True, temperature=1.0, seed=seed)[-1]
        for seed in (1, 1, 2))
    assert isinstance(first, Answer) and isinstance(again, Answer) and isinstance(other, Answer)
    assert first.reasoning == again.reasoning != other.reasoning


def test_every_use_of_a_seed_has_random_numbers_of_its_own() -> None:
    """The first map began as the noise its picture was read with, two pictures shared theirs."""
    drawn = [tuple(torch.randn(4, generator=generator_for(seed, use, index)).tolist())
             for seed in (0, 1, 2**31 - 1) for use in ('picture', 'map', 'text')
             for index in (0, 1)]
    assert len(set(drawn)) == len(drawn)
    again = torch.randn(4, generator=generator_for(0, 'picture', 0))
    assert tuple(again.tolist()) == drawn[0]


def test_two_equal_pictures_are_read_with_noise_of_their_own(engine: CooperEngine) -> None:
    talk = engine._talk('x', [picture(), picture()], 'q', engine.config, Limits())
    first, second = (shown.latents.embed() for shown in talk.pictures)
    assert first.shape == second.shape and not torch.equal(first, second)
    assert talk.pictures[0].latents.key != talk.pictures[1].latents.key


def test_a_turn_ends_before_what_its_last_pass_chooses(says: list[str]) -> None:
    """As published: what would have been said at the limit is lost."""
    engine = long_turns(['<answer>12345'], says)
    limit = len('<answer>12345')
    *_, end = engine.ask(picture(), 'q', mode='direct', max_turn_tokens=limit)
    assert isinstance(end, Answer) and end.reasoning[-1].endswith('1234')


THOUGHT = '<think>It is \\boxed{A}, or'
CUT = 'NO_ANSWER: the answer was cut off at max_turn_tokens; got '


@pytest.mark.parametrize(('mode', 'turn', 'short'), [
    ('text', 'purple ball at 88', 'purple ball at 88'), ('direct', 'yes', 'yes'),
    ('maps', 'B', 'B'), ('text', THOUGHT, 'A'), ('direct', THOUGHT, 'A'),
    ('direct', '\\boxed{no} or \\boxed{ye', 'ye'),
    ('text', '<think>so</think><answer>\\boxed{4', '4'), ('auto', '\\boxed{B} it is', 'B')])
def test_an_answer_that_the_limit_cut_off_is_not_complete(says: list[str], mode: str, turn: str,
                                                          short: str) -> None:
    """The words so far are returned, and what to do; the model wanted to go on."""
    engine = long_turns([turn + ' ... 12'], says)
    *_, end = engine.ask(picture(), 'q', mode=mode, max_turn_tokens=len(turn) + 1)
    assert isinstance(end, Answer) and end.short == short and end.reasoning[0].endswith(turn)
    assert (end.complete, end.error_code) == (False, ErrorCode.NO_ANSWER)
    assert end.error_msg.startswith(CUT)
    raised = 'max_turn_tokens or max_turns' if mode == 'auto' else 'max_turn_tokens'
    assert end.error_msg.endswith(f'; allowed: {len(turn) + 1} tokens; remedy: raise {raised}, or '
                                  'ask for a shorter answer or in another mode')


@pytest.mark.parametrize('ours', [12, 50])
def test_a_limit_of_the_model_is_not_to_be_raised(says: list[str], ours: int) -> None:
    says[:] = ['one, two, three, four']
    *_, end = tiny_engine().ask(picture(), 'q', mode='direct', max_turn_tokens=ours)
    assert isinstance(end, Answer) and end.error_msg.startswith(CUT)
    assert end.error_msg.endswith('; allowed: 12 tokens, as the model folder says; remedy: '
                                  'ask for a shorter answer or in another mode')


@pytest.mark.parametrize(('mode', 'turn'), [
    ('text', DONE), ('direct', '\\boxed{4}'), ('maps', '\\boxed{7}'), ('auto', DONE),
    ('text', '<think>so</think><answer>\\boxed{4}'), ('direct', '\\boxed{A} and \\boxed{B} wi')])
def test_a_turn_that_was_cut_off_behind_its_answer_is_complete(says: list[str], mode: str,
                                                               turn: str) -> None:
    engine = long_turns([turn + ' ... 12'], says)
    *_, end = engine.ask(picture(), 'q', mode=mode, max_turn_tokens=len(turn) + 1)
    assert isinstance(end, Answer) and end.complete and not end.error_code, end.error_msg


@pytest.mark.parametrize('mode', ['text', 'direct', 'maps'])
def test_a_turn_may_end_with_its_last_allowed_token(says: list[str], mode: str) -> None:
    engine = long_turns(['yes', 'yes'], says)
    *_, end = engine.ask(picture(), 'q', mode=mode, max_turn_tokens=len('yes') + 1)
    assert isinstance(end, Answer) and end.complete and end.text == 'yes'
    *_, end = engine.ask(picture(), 'q', mode=mode, max_turn_tokens=len('yes'))
    assert isinstance(end, Answer) and not end.complete and end.text == 'ye'


def test_an_end_that_is_spelt_out_ends_the_answer(says: list[str]) -> None:
    said = 'yes<|im_end|> and'
    *_, end = long_turns([said + ' more'], says).ask(picture(), 'q', mode='direct',
                                                     max_turn_tokens=len(said))
    assert isinstance(end, Answer) and end.complete and 'and' not in end.text


def test_settings_for_scores_know_no_limits_but_the_models() -> None:
    config = offline(mode='text')
    assert (config.time_budget_s, config.runtime, config.mode) == (0.0, 'torch', 'text')
    long = tiny_engine(max_turn_tokens=3000)
    assert settings.text_options(config, long.parts.card).max_tokens == 3000
    assert clean_question('q' * 60_000, config.max_question_chars)
    with pytest.raises(BadOption, match='unknown setting'):
        offline(colour='red')


def test_prompts_reach_the_network(engine: CooperEngine) -> None:
    *_, finished, end = engine.draw(picture(), 'depth')
    assert isinstance(finished, MapFinished) and isinstance(end, Answer)
    assert end.maps == (finished.map,) and not end.text and end.timings.flow_steps > 0
    changed = tiny_engine()
    object.__setattr__(changed.parts, 'prompts', type(PROMPTS)(**{**vars(PROMPTS),
                                                                 'depth': 'something else'}))
    assert isinstance(finished.map, DepthMap)
    difference = changed.estimate_depth(picture()).relative - finished.map.relative
    assert np.abs(difference).max() > 1e-4
