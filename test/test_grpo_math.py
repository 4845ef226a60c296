"""Rollouts and their log-probabilities, on a tiny network in float32."""

from __future__ import annotations

import itertools
from typing import Sequence

import numpy as np
import pytest
import torch
from support.tiny import PROMPTS, SPECIALS, byte_codec, tiny_card, tiny_runtime

from cooper_ros.config import CooperConfig
from cooper_ros.engine.engine import Parts
from cooper_ros.engine.limits import Limits
from cooper_ros.engine.settings import draw_options
from cooper_ros.model import layout
from cooper_ros.model.packing import LatentItem, TextItem, VisionItem, pack
from cooper_ros.model.training_forward import forward_train
from cooper_ros.runtime.torch_runtime import TorchRuntime
from cooper_ros.training import actor as actor_module
from cooper_ros.training import tree
from cooper_ros.training.actor import Actor
from cooper_ros.training.batched import draw_together
from cooper_ros.training.grpo import Scored, grpo_loss, log_prob_gap, score_group
from cooper_ros.training.policy import PolicyRuntime
from cooper_ros.training.rewards import advantages
from cooper_ros.training.rollouts import Group, RolloutOptions
from cooper_ros.training.sharding import gathered

IMAGE = np.random.default_rng(5).integers(0, 256, (48, 64, 3), dtype=np.uint8)
DRAW = b'<think>a</think><depth-estimation>b</depth-estimation>'
LOOK = b'<think>c</think><segmentation>d</segmentation>'
ANSWER = b'<think>e</think><answer>f</answer>'


def actor(std: float = 0.2, **changes: object) -> Actor:
    values = dict(group=4, max_turn_tokens=6, temperature=0.7)
    card = tiny_card()
    return Actor(Parts(tiny_runtime(std=std), byte_codec(), PROMPTS, card),
                 RolloutOptions(**{**values, **changes}), draw_options(CooperConfig(), card))


def scripted(monkeypatch: pytest.MonkeyPatch, scripts: Sequence[Sequence[bytes]]) -> None:
    """Choose the sampled tokens; everything else, the log-probabilities too, stays real.

    A script without a final ``\\0`` is cut by the length limit.
    """
    queues = {row: iter([SPECIALS.eos if byte == 0 else byte for turn in script for byte in turn])
              for row, script in enumerate(scripts)}
    sample = actor_module._SideBySide._sample

    def choose(self, rows, fed):
        order = iter(rows)

        def multinomial(probabilities, count, generator):
            return torch.tensor([[next(queues[next(order)])] for _ in probabilities])
        with monkeypatch.context() as patch:
            patch.setattr(torch, 'multinomial', multinomial)
            return sample(self, rows, fed)
    monkeypatch.setattr(actor_module._SideBySide, '_sample', choose)


def scripted_group(monkeypatch: pytest.MonkeyPatch) -> tuple[Actor, Group]:
    """No map, one map, two maps, and a turn that is cut off right after its tool call."""
    end = b'\0'
    scripts = [[ANSWER + end], [DRAW + end, ANSWER + end], [LOOK + end, DRAW + end, ANSWER + end],
               [DRAW + b'!', ANSWER + end]]
    made = actor(max_turn_tokens=len(DRAW) + 1)
    scripted(monkeypatch, scripts)
    return made, made.group(IMAGE, 'how far?', torch.Generator().manual_seed(3))


def score(made: Actor, group: Group) -> Scored:
    return score_group(made.runtime.network, group, SPECIALS, made.runtime.vocabulary,
                       temperature=made.options.temperature)


def test_rollouts_look_and_answer_as_their_turns_say(monkeypatch: pytest.MonkeyPatch) -> None:
    _, group = scripted_group(monkeypatch)
    assert [len(rollout.turns) for rollout in group.rollouts] == [1, 2, 3, 2]
    assert [[drawn.kind for drawn in rollout.maps] for rollout in group.rollouts] == [
        [], ['depth'], ['segmentation', 'depth'], ['depth']]
    assert [type(item) for item in group.rollouts[1].items] == [TextItem, VisionItem, TextItem,
                                                                TextItem]
    assert [type(item) for item in group.prefix] == [TextItem, LatentItem, VisionItem, TextItem]
    assert group.rollouts[1].texts == [DRAW.decode(), ANSWER.decode()]
    assert [turn.ended for turn in group.rollouts[3].turns] == [False, True]
    assert group.rollouts[3].texts == [DRAW.decode(), ANSWER.decode()]  # `!` was the last allowed


def test_training_log_probs_equal_those_of_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    made, group = scripted_group(monkeypatch)
    scored = score(made, group)
    for number, rollout in enumerate(group.rollouts):
        decoded = [value for turn in rollout.turns for value in turn.log_probs]
        trained = scored.log_probs[scored.owner == number].detach()
        assert len(trained) == len(decoded)
        assert trained.tolist() == pytest.approx(decoded, abs=2e-4)
    # the cut-off turn has no end token to score
    assert len(group.rollouts[3].turns[0].log_probs) == len(DRAW)
    assert len(group.rollouts[1].turns[0].log_probs) == len(DRAW) + 1
    spread = scored.log_probs.detach().std()
    assert spread > 0.5, 'a network without opinions would pass with any mask'


@pytest.mark.parametrize('large', [False, True])
def test_sharing_the_prefix_changes_nothing(large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every rollout on its own, as one plain packed sequence."""
    made, group = scripted_group(monkeypatch)
    if large:
        few_rows_at_a_time(monkeypatch)
    scored = score(made, group)
    network, temperature = made.runtime.network, made.options.temperature
    for number, rollout in enumerate(group.rollouts):
        batch = pack([[*group.prefix, *rollout.items]], network.config, SPECIALS)
        hidden = forward_train(network, batch).last_hidden[0, batch.layout.ce_index]
        logits = network.logits(hidden, made.runtime.vocabulary) / temperature
        alone = torch.log_softmax(logits, -1).gather(1, batch.labels[0][:, None])[:, 0]
        kept = [flag for turn in rollout.turns for flag in [True] * len(turn.ids) + [turn.ended]]
        assert torch.allclose(alone[torch.tensor(kept)],
                              scored.log_probs[scored.owner == number], atol=2e-4)


def few_rows_at_a_time(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(tree, 'LARGE', 0)
    patch.setattr(tree, 'SCORES', 1000)  # some blocks of a picture fall into several parts


@pytest.mark.parametrize('recompute', [False, True])
def test_a_large_group_has_the_gradients_of_a_small_one(recompute: bool,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    """And no mask of all tokens, nor more scores at a time than allowed."""
    made, group = scripted_group(monkeypatch)
    network, grads, scores = made.runtime.network, [], []
    attention = tree._attention
    for large in (False, True):
        if large:
            few_rows_at_a_time(monkeypatch)
            monkeypatch.setattr(layout, 'attention_allowed', None)
            monkeypatch.setattr(tree, '_attention', lambda q, k, v, allowed: scores.append(
                allowed.numel()) or attention(q, k, v, allowed))
            layout.build_layout.cache_clear()
        network.zero_grad(set_to_none=True)
        scored = score_group(network, group, SPECIALS, 260, recompute=recompute)
        scored.log_probs.square().sum().backward()
        grads.append({name: value.grad for name, value in network.named_parameters()
                      if value.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    for name, value in grads[0].items():
        torch.testing.assert_close(grads[1][name], value, atol=1e-3, rtol=1e-3, msg=name)
    assert len(scores) > 40 and max(scores) <= 1000


def test_maps_drawn_together_are_those_drawn_alone() -> None:
    made = actor()
    group = made.group(IMAGE, 'q', torch.Generator().manual_seed(2))
    session = made.runtime.session(rows=6, capacity=200)
    for row in range(6):
        for item in group.prefix[:row + 1]:
            if isinstance(item, TextItem):
                session.append_text(row, item.ids)
        session.append_text(row, [row, 40])
    noise, grid = torch.randn(2, 12, 64), (3, 4)
    together = draw_together(made.runtime, session, made.drawing, [(0, 1, 2), (3, 4, 5)], noise,
                             grid)
    for rows, start, found in zip(((0, 1, 2), (3, 4, 5)), noise, together):
        alone = list(made.drawing.flow(session, rows, start, grid, Limits()))[-1]
        assert torch.allclose(found, alone, atol=1e-5)
    assert made.drawing.guides_text and made.drawing.guides_image
    assert (together[0] - together[1]).abs().max() > 0.1


@pytest.mark.parametrize('style, kinds', [
    ('text', [TextItem, VisionItem, TextItem]),
    ('maps', [TextItem, LatentItem, VisionItem, TextItem, TextItem, VisionItem, TextItem,
              VisionItem, TextItem])])
def test_other_styles_sample_one_turn_and_score_it(style: str, kinds: list[type]) -> None:
    made = actor(style=style)
    group = made.group(IMAGE, 'how far?', torch.Generator().manual_seed(1))
    assert [type(item) for item in group.prefix] == kinds
    assert all(len(rollout.turns) == 1 for rollout in group.rollouts)
    assert [len(rollout.maps) for rollout in group.rollouts] == [2 * (style == 'maps')] * 4
    decoded = [value for rollout in group.rollouts for turn in rollout.turns
               for value in turn.log_probs]
    assert score(made, group).log_probs.tolist() == pytest.approx(decoded, abs=2e-4)


def test_sampling_repeats_with_its_seed_and_varies_within_a_group() -> None:
    made = actor(max_turns=1, temperature=1.5)
    first, again, other = (made.group(IMAGE, 'q', torch.Generator().manual_seed(seed))
                           for seed in (4, 4, 5))
    ids = [[rollout.turns[0].ids for rollout in group.rollouts] for group in (first, again, other)]
    assert ids[0] == ids[1] != ids[2]
    assert len({tuple(turn) for turn in ids[0]}) > 1


def test_sampled_tokens_follow_the_distribution() -> None:
    """First tokens: their frequencies are the network's probabilities at the temperature."""
    made = actor(group=600, max_turns=1, max_turn_tokens=2, temperature=0.5)
    group = made.group(IMAGE, 'q', torch.Generator().manual_seed(6))
    turns = [rollout.turns[0] for rollout in group.rollouts]
    tokens = [turn.ids[0] if turn.ids else SPECIALS.eos for turn in turns]
    probability = {token: np.exp(turn.log_probs[0]) for token, turn in zip(tokens, turns)}
    for token, share in probability.items():
        spread = 4 * np.sqrt(share * (1 - share) / 600) + 1e-3
        assert abs(tokens.count(token) / 600 - share) < spread
    assert max(probability.values()) > 0.02


@pytest.mark.parametrize('style', ['interleaved', 'text', 'maps'])
def test_groups_written_side_by_side_are_those_written_alone(style: str) -> None:
    def asked() -> list[tuple[np.ndarray, str, torch.Generator]]:
        return [(IMAGE, question, torch.Generator().manual_seed(seed))
                for seed, question in enumerate(['q', 'how far is the blue cup?', 'which?'])]
    alone = actor(style=style, temperature=1.5).groups(asked())
    together = actor(style=style, temperature=1.5, together=2).groups(asked())
    for one, other in zip(alone, together, strict=True):
        assert [type(item) for item in one.prefix] == [type(item) for item in other.prefix]
        for mine, theirs in zip(one.rollouts, other.rollouts, strict=True):
            assert [turn.ids for turn in mine.turns] == [turn.ids for turn in theirs.turns]
            assert [value for turn in mine.turns for value in turn.log_probs] == pytest.approx(
                [value for turn in theirs.turns for value in turn.log_probs], abs=1e-4)
    assert alone[0].rollouts[0].turns[0].ids != alone[1].rollouts[0].turns[0].ids


def test_groups_side_by_side_look_each_at_its_own_map(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 0 of the first group answers, its sister draws; the second group the other way round."""
    end = b'\0'
    scripts = [[ANSWER + end], [DRAW + end, ANSWER + end], [LOOK + end, ANSWER + end],
               [ANSWER + end]]
    made = actor(group=2, together=2, max_turn_tokens=len(DRAW) + 1)
    scripted(monkeypatch, scripts)
    noises = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    first, second = made.groups([(IMAGE, 'how far?', noises[0]), (IMAGE, 'what?', noises[1])])
    assert [len(rollout.maps) for group in (first, second) for rollout in group.rollouts] == [
        0, 1, 1, 0]
    assert first.rollouts[1].maps[0].kind != second.rollouts[0].maps[0].kind
    for group in (first, second):
        decoded = [value for rollout in group.rollouts for turn in rollout.turns
                   for value in turn.log_probs]
        assert score(made, group).log_probs.tolist() == pytest.approx(decoded, abs=2e-4)


def test_maps_drawn_one_by_one_are_those_drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """In fewer rows of the cache, and whichever rows draw."""
    end, sizes = b'\0', []
    scripts = [[LOOK + end, ANSWER + end], [ANSWER + end], [DRAW + end, LOOK + end, ANSWER + end],
               [DRAW + end, ANSWER + end]]
    session = TorchRuntime.session
    monkeypatch.setattr(TorchRuntime, 'session', lambda self, **given: sizes.append(
        given['rows']) or session(self, **given))
    groups = []
    for together in (0, 1, 2):
        made = actor(max_turn_tokens=len(DRAW) + 1, maps_together=together)
        with monkeypatch.context() as patch:
            scripted(patch, scripts)
            groups.append(made.group(IMAGE, 'how far?', torch.Generator().manual_seed(3)))
    assert sizes == [4 + 2 * 4, 4 + 2 * 1, 4 + 2 * 2]
    for group in groups[1:]:
        for mine, theirs in zip(group.rollouts, groups[0].rollouts, strict=True):
            assert len(mine.maps) == len(theirs.maps)
            for drawn, other in zip(mine.maps, theirs.maps):
                colours = [made.shown(one).pixels for one in (drawn, other)]
                assert (colours[0] - colours[1]).abs().max() < 0.02
            assert [value for turn in mine.turns for value in turn.log_probs] == pytest.approx(
                [value for turn in theirs.turns for value in turn.log_probs], abs=1e-3)


@pytest.mark.parametrize('changes, rows', [
    ({'style': 'text'}, 4), ({'style': 'maps'}, 4 + 2), ({'max_turns': 1}, 4),
    ({'together': 2}, 8 + 2 * 4)])
def test_a_cache_has_no_rows_that_nothing_is_drawn_in(changes: dict, rows: int,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, session = [], TorchRuntime.session
    monkeypatch.setattr(TorchRuntime, 'session', lambda self, **given: sizes.append(
        given['rows']) or session(self, **given))
    asked = [(IMAGE, 'q', torch.Generator().manual_seed(1))] * changes.get('together', 1)
    actor(**changes).groups(asked)
    assert sizes == [rows]


def test_rollouts_can_be_sampled_in_bfloat16_from_a_copy() -> None:
    """Weights and cache; the network that trains stays as it is, and knows how far that is off."""
    base, types = tiny_runtime(), []
    network = base.network.requires_grad_(True)
    runtime = PolicyRuntime(network, base.vae, specials=SPECIALS, vocabulary=260)
    made = Actor(Parts(runtime, byte_codec(), PROMPTS, tiny_card()),
                 RolloutOptions(style='maps', group=4, max_turn_tokens=6),
                 draw_options(CooperConfig(), tiny_card()))
    for dtype in (torch.bfloat16, torch.float32, torch.bfloat16):
        with gathered(network, dtype):
            session = runtime.session(rows=1, capacity=4)
            types += [session.cache.keys.dtype, runtime.vae.decoder.conv_in.weight.dtype]
            group = made.group(IMAGE, 'q', torch.Generator().manual_seed(1))
            scored = score_group(network, group, SPECIALS, 260)
            gap = float(log_prob_gap(scored, group))
            assert (1e-3 < gap < 0.5) if dtype == torch.bfloat16 else gap < 2e-4
            assert (runtime.network is network) == (dtype == torch.float32)
    assert types == [torch.bfloat16] * 2 + [torch.float32] * 2 + [torch.bfloat16] * 2
    assert runtime.network is network and network.vae2llm.weight.dtype == torch.float32
    scored.log_probs.sum().backward()


def test_common_noise_draws_once_what_was_asked_for_in_the_same_words(
        monkeypatch: pytest.MonkeyPatch) -> None:
    """Twins share a map and go on apart; other words get a map of their own from that noise."""
    end, other = b'\0', DRAW.replace(b'>a<', b'>z<')
    scripts = [[DRAW + end, ANSWER + end], [other + end, ANSWER + end],
               [DRAW + end, LOOK + end, ANSWER + end], [ANSWER + end]]
    made = actor(max_turn_tokens=len(DRAW) + 1, common_noise=True)
    scripted(monkeypatch, scripts)
    starts = []
    monkeypatch.setattr(actor_module, 'draw_together', lambda *args: starts.append(args[4]) or
                        draw_together(*args))
    group = made.group(IMAGE, 'how far?', torch.Generator().manual_seed(3))
    maps = [rollout.maps for rollout in group.rollouts]
    assert [len(drawn) for drawn in maps] == [1, 1, 2, 0]
    assert maps[0][0] is maps[2][0] and maps[2][1].kind == 'segmentation'
    assert np.abs(maps[0][0].relative - maps[1][0].relative).max() > 1e-4
    assert [len(noise) for noise in starts] == [2, 1] and torch.equal(*starts[0])
    decoded = [value for rollout in group.rollouts for turn in rollout.turns
               for value in turn.log_probs]
    assert score(made, group).log_probs.tolist() == pytest.approx(decoded, abs=2e-4)


def test_loss_gives_each_rollout_the_same_weight_and_clips() -> None:
    log_probs = torch.tensor([-1.0, -2.0, -3.0, -0.5], requires_grad=True)
    scored = Scored(log_probs, torch.zeros(4), torch.tensor([0, 0, 0, 1]))
    grpo_loss(scored, torch.tensor([1.0, -2.0])).backward()
    assert log_probs.grad.tolist() == pytest.approx([-1 / 3, -1 / 3, -1 / 3, 2.0])
    old = log_probs.detach() + torch.tensor([-0.5, 0.5, 0.0, 0.5])
    log_probs.grad = None
    grpo_loss(scored, torch.tensor([1.0, -2.0]), old=old).backward()
    # a ratio beyond 1.2 earns no more; one below 0.8 is not pushed down further
    assert log_probs.grad[0] == 0 and log_probs.grad[3] == 0
    assert log_probs.grad[1] == pytest.approx(-np.exp(-0.5) / 3)


def test_unbiased_loss_is_the_gradient_of_the_expected_reward() -> None:
    """One word, three outcomes: the mean over all groups of the estimator is the exact gradient,
    but for the factor (G - 1) / G of a baseline that contains the rollout itself."""
    logits = torch.tensor([0.3, -0.4, 1.1], dtype=torch.float64, requires_grad=True)
    rewards = torch.tensor([1.0, 0.9, 0.0], dtype=torch.float64)
    probability = torch.softmax(logits, 0)
    (probability @ rewards).backward()
    exact, total = logits.grad.clone(), torch.zeros(3, dtype=torch.float64)
    for first, second in itertools.product(range(3), repeat=2):
        logits.grad = None
        log_probs = torch.log_softmax(logits, 0)[[first, second]]
        gain = torch.tensor(advantages(rewards[[first, second]].tolist(), scaled=False))
        scored = Scored(log_probs, torch.zeros(2), torch.arange(2))
        (grpo_loss(scored, gain, length=4) / 2).backward()
        total -= 4 * logits.grad * probability.detach()[first] * probability.detach()[second]
    torch.testing.assert_close(total, exact / 2)


def test_a_toy_reward_is_learned() -> None:
    """Reward: share of sampled tokens below 100. A wrong sign or a shifted label fails."""
    torch.manual_seed(0)
    made = actor(std=0.05, group=16, max_turns=1, max_turn_tokens=4, temperature=1.0)
    network = made.runtime.network
    optimiser = torch.optim.Adam([p for name, p in network.named_parameters()
                                  if not name.startswith('vit_model')], lr=1e-2)
    history = []
    for step in range(16):
        group = made.group(IMAGE, 'q', torch.Generator().manual_seed(step))
        rewards = [np.mean([token < 100 for token in rollout.turns[0].ids] or [0.0])
                   for rollout in group.rollouts]
        history.append(np.mean(rewards))
        loss = grpo_loss(score(made, group), torch.tensor(advantages(rewards))) / len(rewards)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert np.mean(history[:2]) < 0.55 and np.mean(history[-3:]) > 0.85, history
