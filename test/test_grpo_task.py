"""Stage grpo on the training loop, and the flags it explores by; a tiny model folder on disk."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Iterator

import numpy as np
import pytest
import torch
from model_folder import write_model_folder
from support.rl_data import questions

from cooper_ros.engine.engine import CooperEngine
from cooper_ros.engine.events import Answer
from cooper_ros.errors import BadCheckpoint, BadData, BadOption
from cooper_ros.runtime.checkpoint import read_model_folder
from cooper_ros.runtime.deferred import is_drawing
from cooper_ros.scoring.judge import EASY, Claim, Judge, JudgeSettings
from cooper_ros.training import grpo_task
from cooper_ros.training.checker import JudgeChecker
from cooper_ros.training.data import FrameStore, frame_store
from cooper_ros.training.grpo_task import GrpoTask, grpo_options
from cooper_ros.training.kept_settings import check_settings, keep_settings
from cooper_ros.training.questions import (
    SceneQuestions,
    hold_out,
    scattered,
)
from cooper_ros.training.settings import DataSettings, Optim, TrainSettings
from cooper_ros.training.trainer import Trainer

TASK = {'rollout': {'group': 4, 'max_turns': 1, 'max_turn_tokens': 5}, 'valid_questions': 2,
        'drawing': {'flow_points': 2, 'cfg_text': 1.0}}


def settings(tmp_path: Path, folder: str = 'run', **task: object) -> TrainSettings:
    model = tmp_path / 'model'
    if not model.exists():
        write_model_folder(model)
        questions(tmp_path / 'set')
    # the task does not look at the stage's name
    return TrainSettings('sft', str(tmp_path / folder), steps=3, batch=2, start=str(model),
                         checkpoint_every=1, preview_every=3,
                         optim=Optim(1e-3, warmup=1, bfloat16=False),
                         task={**TASK, 'questions': str(tmp_path / 'set'), **task})


class LikesLow:
    """A checker that likes characters below 'd'; every rollout gets another score."""

    def scores(self, claims: list[Claim]) -> list[float]:
        return [float(np.mean([letter < 'd' for letter in claim.response] or [0]))
                for claim in claims]


@pytest.fixture
def likes_low(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpo_task, 'make_checker', lambda values: LikesLow())


def weights(task: GrpoTask) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in task.module.state_dict().items()}


def test_a_run_learns_logs_and_resumes_as_if_never_stopped(tmp_path: Path,
                                                           likes_low: None) -> None:
    task = GrpoTask(settings(tmp_path))
    before = weights(task)
    Trainer(task, settings(tmp_path)).run()
    whole = weights(task)
    assert any(not torch.equal(before[name], whole[name]) for name in before)
    assert torch.equal(before['latent_pos_embed.pos_embed'], whole['latent_pos_embed.pos_embed'])
    stopped = settings(tmp_path, 'stopped')
    Trainer(GrpoTask(stopped), stopped).run(until=1)
    again = GrpoTask(stopped)
    Trainer(again, stopped).run()
    for name, value in weights(again).items():
        assert torch.allclose(value, whole[name], atol=1e-6), name
    lines = [json.loads(line) for line in (tmp_path / 'run/log.jsonl').read_text().splitlines()]
    assert 'valid_accuracy' in lines[-1] and list((tmp_path / 'run/previews').glob('*.png'))


def test_losses_and_statistics_of_one_step(tmp_path: Path, likes_low: None) -> None:
    task = GrpoTask(settings(tmp_path, freeze=['vit_model', 'language_model.lm_head']))
    found = task.loss(1, torch.Generator().manual_seed(1))
    assert not found['loss'].requires_grad  # gradients are there already, group by group
    grads = {name: p.grad for name, p in task.module.named_parameters()}
    assert grads['language_model.lm_head.weight'] is None
    assert grads['language_model.model.embed_tokens.weight'].abs().sum() > 0
    assert grads['connector.fc1.weight'].abs().sum() > 0
    assert found['turns'] == 1 and found['maps'] == 0 and 0 < found['tokens'] <= 5
    assert found['reward'] == pytest.approx(float(found['reward_accuracy']))
    assert 0 < found['entropy'] < np.log(260)


def test_a_group_is_learned_from_in_parts(tmp_path: Path, likes_low: None) -> None:
    """With the same gradients; and the log-probabilities are those of sampling."""
    found = []
    for together in (0, 3):
        task = GrpoTask(settings(tmp_path, learned_together=together))
        values = task.loss(1, torch.Generator().manual_seed(1))
        assert 0 < values['log_prob_gap'] < 1e-3
        found.append((float(values['loss']), float(values['entropy']),
                      {name: p.grad for name, p in task.module.named_parameters()
                       if p.grad is not None}))
    assert found[0][:2] == pytest.approx(found[1][:2], abs=1e-5)
    assert found[0][2].keys() == found[1][2].keys()
    for name, value in found[0][2].items():
        torch.testing.assert_close(found[1][2][name], value, atol=1e-5, rtol=1e-3, msg=name)


def test_a_frozen_generation_expert_keeps_every_bit(tmp_path: Path, likes_low: None) -> None:
    """It reads the picture, so the reward reaches it; what it draws must not change by that."""
    moved = {}
    for name, frozen in (('free', False), ('frozen', True)):
        task = GrpoTask(settings(tmp_path, name, freeze_gen=frozen))
        before = weights(task)
        Trainer(task, task.settings).run(until=2)
        moved[name] = {key for key, value in weights(task).items()
                       if not torch.equal(value, before[key])}
    gen, und = (f'language_model.model.layers.0.self_attn.k_proj{suffix}.weight'
                for suffix in ('_moe_gen', ''))
    assert {gen, und} <= moved['free'] and und in moved['frozen']
    assert not [key for key in moved['frozen'] if is_drawing(key)]


def test_without_a_signal_nothing_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = settings(tmp_path)  # a random network never says yes: every reward is 0
    task = GrpoTask(run)
    before = weights(task)
    Trainer(task, run).run(until=1)
    assert all(torch.equal(before[name], value) for name, value in weights(task).items())


def test_export_is_a_model_folder(tmp_path: Path) -> None:
    task = GrpoTask(settings(tmp_path))
    task.export(tmp_path / 'out', task.module.state_dict())
    engine = CooperEngine.from_pretrained(tmp_path / 'out')
    last = list(engine.ask(np.zeros((48, 64, 3), np.uint8), 'q', mode='direct'))[-1]
    assert isinstance(last, Answer)


def test_export_part_of_the_way(tmp_path: Path) -> None:
    task = GrpoTask(settings(tmp_path, learned=0.25))
    start = {name: value.to(torch.bfloat16) for name, value in weights(task).items()}
    task.export(tmp_path / 'out', {name: value.float() + 4 for name, value in start.items()})
    found = read_model_folder(tmp_path / 'out', dtype=torch.float32).network.state_dict()
    for name, value in start.items():
        torch.testing.assert_close(found[name], value.float() + 1, atol=0.01, rtol=0.01)


def test_an_export_over_the_start_can_be_given_again(tmp_path: Path) -> None:
    """As after a kill: the way is measured from where the run set out, not from what it wrote."""
    values = settings(tmp_path, learned=0.5)
    task, model = GrpoTask(values), Path(values.start)
    trainer = Trainer(task, values)
    trainer.save()
    name = 'language_model.lm_head.weight'
    start = read_model_folder(model).network.state_dict()
    end = {key: value.float() + 4 for key, value in start.items()}
    for _ in range(2):
        GrpoTask(values).export(model, end)
        found = read_model_folder(model).network.state_dict()[name]
        torch.testing.assert_close(found.float(), start[name].float() + 2, atol=0.02, rtol=0.02)


def test_how_far_an_export_goes_may_be_chosen_after_training(tmp_path: Path) -> None:
    """Also where the run has exported in the place of its start before."""
    values = settings(tmp_path)
    task, model = GrpoTask(values), Path(values.start)
    Trainer(task, values).save()
    name = 'language_model.lm_head.weight'
    start = read_model_folder(model).network.state_dict()
    end = {key: value.float() + 4 for key, value in start.items()}
    task.export(model, end)
    GrpoTask(settings(tmp_path, learned=0.5)).export(tmp_path / 'out', end)
    found = read_model_folder(tmp_path / 'out').network.state_dict()[name]
    torch.testing.assert_close(found.float(), start[name].float() + 2, atol=0.02, rtol=0.02)


def test_a_network_in_shards_keeps_its_start_only_if_asked_to(tmp_path: Path) -> None:
    """That file is as large as the network. What could not be exported rightly is refused."""
    for name, learned in (('all', 1.0), ('half', 0.5)):
        GrpoTask(replace(settings(tmp_path, name, learned=learned), parallel='fsdp'))
        (tmp_path / name / 'checkpoint.pt').parent.mkdir(exist_ok=True)
        (tmp_path / name / 'checkpoint.pt').touch()  # it has begun
    assert not (tmp_path / 'all' / 'start.safetensors').exists()
    GrpoTask(settings(tmp_path, 'half', learned=0.25))
    with pytest.raises(BadCheckpoint, match='did not keep the weights that it set out from'):
        GrpoTask(settings(tmp_path, 'all', learned=0.25))


def test_a_start_of_weights_and_prompts_has_the_rest_in_the_base(tmp_path: Path) -> None:
    values = settings(tmp_path, learned=0.5)
    bare = tmp_path / 'bare'
    bare.mkdir()
    for name in ('ema.safetensors', 'prompts.yaml', 'cooper.json'):
        shutil.copy(tmp_path / 'model' / name, bare)
    task = GrpoTask(replace(values, start=str(bare), vae=str(tmp_path / 'model')))
    task.export(tmp_path / 'out', weights(task))
    assert read_model_folder(tmp_path / 'out').vocabulary


def test_a_validation_asks_about_many_rooms(tmp_path: Path) -> None:
    data = DataSettings(str(tmp_path / 'data'), seed=0, train=1, valid=8, questions=1)
    task = GrpoTask(replace(settings(tmp_path, questions='', valid_questions=8), data=data))
    asked = [task.valid.sample(index).data_id.split('/') for index in range(len(task.valid))]
    assert len(asked) == 8 and len({frame for _, _, frame, *_ in asked}) >= 5
    assert len({category for *_, category, _ in asked}) >= 4


@pytest.mark.parametrize('count, wanted', [(104, 8), (13, 13), (5, 9), (3, 0), (0, 4)])
def test_places_are_scattered_over_a_list(count: int, wanted: int) -> None:
    found = scattered(count, wanted)
    assert len(found) == min(count, wanted) and found == scattered(count, wanted)
    assert [place * len(found) // count for place in found] == list(range(len(found)))
    assert not found or count == len(found) or len({place % 13 for place in found}) > 2


def test_held_out_questions_do_not_train(tmp_path: Path) -> None:
    task = GrpoTask(settings(tmp_path))
    trained = {task.train.sample(index).data_id for index in range(len(task.train))}
    held = {task.valid.sample(index).data_id for index in range(len(task.valid))}
    assert trained == {'g0', 'g1', 'g2', 'g3'} and held == {'g4', 'g5'}


def test_pictures_of_held_out_questions_do_not_train() -> None:
    train, valid = hold_out(range(7), ['a', 'b', 'c', 'a', 'd', 'e', 'b'], 2)
    assert (list(train.places), list(valid.places)) == ([0, 2, 3, 4], [5, 6])
    train, _ = hold_out(range(5), ['a', 'a', 'b', 'a', 'a'], 1)
    assert list(train.places) == [0, 1, 2, 3]  # a set must not lose so much
    train, valid = hold_out(range(3), ['a', 'b', 'c'], 9)
    assert (list(train.places), list(valid.places)) == ([0, 1], [2])


@pytest.mark.parametrize('name', ['sample_posterior', 'time_budget_s'])
def test_what_rollouts_do_not_follow_is_refused(name: str) -> None:
    with pytest.raises(BadOption, match=f'task.drawing.{name} cannot be set.*end by tokens'):
        grpo_options({'drawing': {name: 1}})


def test_only_some_categories_are_asked(store: FrameStore) -> None:
    every = SceneQuestions(store, 'train/0')
    some = SceneQuestions(store, 'train/0', ('counting', 'reach'))
    ids = by_id(every)
    assert len(ids) == len(every) > 60
    assert {name.split('/')[3] for name in by_id(some)} == {'counting', 'reach'}
    assert by_id(some).items() <= ids.items()  # a flag file fits both


def by_id(questions: SceneQuestions) -> dict[str, str]:
    rows = [questions.sample(index) for index in range(len(questions))]
    return {row.data_id: row.question for row in rows}


def test_no_id_ever_means_another_question(store: FrameStore, tmp_path: Path) -> None:
    """Whatever else is asked about a frame, and however often."""
    more = SceneQuestions(frame_store(tmp_path, 'train', 0, 8, 2), 'train/0')
    few, many = by_id(SceneQuestions(store, 'train/0')), by_id(more)
    assert few.items() <= many.items() and len(many) == len(more) > 1.5 * len(few)
    other = SceneQuestions(frame_store(tmp_path, 'train', 8, 8, 1), 'train/0')  # wrong seed
    assert not set(by_id(other)) & set(few)


def test_an_unknown_category_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match='unknown category; got smell; .*counting'):
        GrpoTask(settings(tmp_path, questions='', categories=['counting', 'smell']))


def test_a_run_without_questions_is_refused_before_it_begins(tmp_path: Path) -> None:
    data = DataSettings(str(tmp_path / 'data'), train=1, valid=1, questions=0)
    with pytest.raises(BadData, match='there is nothing to train on.*raise data.questions'):
        GrpoTask(replace(settings(tmp_path, questions=''), data=data))


@pytest.mark.parametrize('wrong', [{'rollout': {'group': 1}}, {'reward': {'style': 'x'}},
                                   {'tools': True}, {'freeze': ['eyes']}, {'learned': 0}])
def test_wrong_settings_are_refused(tmp_path: Path, wrong: dict) -> None:
    with pytest.raises(BadOption):
        GrpoTask(settings(tmp_path, **wrong))


def judged(monkeypatch: pytest.MonkeyPatch, verdict: str, easy: str = 'true') -> None:
    """A judge that says this of one row, and that to what it is asked first; nothing where it is
    not there."""
    def said(self: Judge, claim: Claim, *prompts: str) -> str:
        if claim == EASY and easy:
            return easy
        if not verdict:
            raise ConnectionError
        return verdict if 'row 1' in claim.question else 'perhaps'
    monkeypatch.setattr(Judge, '_ask', said)
    monkeypatch.setattr(grpo_task, 'make_checker', lambda values: JudgeChecker(Judge(
        JudgeSettings('http://judge/v1'), lambda seconds: None)))


def test_a_judge_that_fails_shows_in_the_curves(tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    judged(monkeypatch, 'true')
    task = GrpoTask(settings(tmp_path))
    failed = {step: float(task.loss(step, torch.Generator().manual_seed(step))['judge_failed'])
              for step in (1, 2)}
    assert sorted(failed.values()) == [0.5, 1.0]  # row 1 is in one of both batches


@pytest.mark.parametrize('easy', ['', 'perhaps'])
def test_a_judge_that_does_not_judge_is_noticed_before_anything_is_loaded(
        easy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged(monkeypatch, '', easy)
    monkeypatch.setattr(grpo_task, 'open_policy', None)
    with pytest.raises(BadOption, match='the judge does not judge; got an easy question failed, '
                                        'qwen2.5-vl-72b at http://judge/v1; .*without '
                                        'task.checker.judge rules decide'):
        GrpoTask(settings(tmp_path))


def test_a_judge_that_goes_away_stops_the_run(tmp_path: Path,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    judged(monkeypatch, '')
    run = settings(tmp_path)
    task = GrpoTask(run)
    before = weights(task)
    with pytest.raises(BadOption, match='the judge has judged nothing; got 8 of 8 claims failed, '
                                        'qwen2.5-vl-72b at http://judge/v1; .*url, model'):
        Trainer(task, run).run()
    assert all(torch.equal(before[name], value) for name, value in weights(task).items())


def test_without_a_judge_nothing_is_said_of_one(tmp_path: Path, likes_low: None) -> None:
    found = GrpoTask(settings(tmp_path)).loss(1, torch.Generator().manual_seed(1))
    assert 'judge_failed' not in found


def test_flags_reach_the_reward(tmp_path: Path) -> None:
    run = settings(tmp_path)
    (tmp_path / 'flags.jsonl').write_text('{"data_id": "g1", "flag": "negative"}\n')
    task = GrpoTask(settings(tmp_path, flags=str(tmp_path / 'flags.jsonl')))
    assert [task.train.sample(index).flag for index in range(3)] == ['positive', 'negative',
                                                                     'positive']
    (tmp_path / 'flags.jsonl').write_text('{"data_id": "g1", "flag": "sometimes"}\n')
    with pytest.raises(BadData):
        GrpoTask(settings(tmp_path, flags=str(tmp_path / 'flags.jsonl')))
    assert run.batch == 2


def test_only_questions_with_a_flag_train_where_that_is_wanted(tmp_path: Path) -> None:
    run = settings(tmp_path, flags=str(tmp_path / 'flags.jsonl'), flagged_only=True)
    (tmp_path / 'flags.jsonl').write_text(''.join(
        f'{{"data_id": "g{number}", "flag": "negative"}}\n' for number in (1, 3, 5)))
    task = GrpoTask(run)
    rows = [task.train.sample(index) for index in range(len(task.train))]
    assert [(row.data_id, row.flag) for row in rows] == [('g1', 'negative'), ('g3', 'negative')]
    assert len(task.valid) == 2  # g4 and g5, flagged or not
    with pytest.raises(BadOption, match='flagged_only needs a file of flags; .*cooper data flags'):
        GrpoTask(settings(tmp_path, flagged_only=True))


def test_which_questions_train_is_kept_with_a_run(tmp_path: Path) -> None:
    run = settings(tmp_path, flags='f')
    keep_settings(tmp_path / 'run', run)
    (tmp_path / 'run' / 'checkpoint.pt').touch()
    check_settings(tmp_path / 'run', run)
    with pytest.raises(BadCheckpoint, match='other settings; got task.flagged_only True; '
                                            'allowed: task.flagged_only not set'):
        check_settings(tmp_path / 'run', settings(tmp_path, flags='f', flagged_only=True))


@pytest.fixture(autouse=True)
def quiet_progress(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv('TQDM_DISABLE', '1')
    yield
