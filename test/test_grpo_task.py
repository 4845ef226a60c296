"""Stage grpo on the training loop, and the flags it explores by; a tiny model folder on disk."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Iterator

import numpy as np
import pytest
import torch
from model_folder import write_model_folder
from PIL import Image
from support.tiny import tiny_engine

from cooper_ros.engine.engine import CooperEngine
from cooper_ros.engine.events import Answer, Event, Failure
from cooper_ros.errors import BadCheckpoint, BadData, BadOption, ContextFull
from cooper_ros.runtime.checkpoint import read_model_folder
from cooper_ros.runtime.deferred import is_drawing
from cooper_ros.scoring.judge import EASY, Claim, Judge, JudgeSettings
from cooper_ros.training import grpo_task
from cooper_ros.training.checker import JudgeChecker
from cooper_ros.training.data import FrameStore, frame_store
from cooper_ros.training.data_cli import flags as flags_command
from cooper_ros.training.datasets.cooper_set import RlSet
from cooper_ros.training.flags import FlagOptions, write_flags
from cooper_ros.training.grpo_task import GrpoTask, grpo_options
from cooper_ros.training.questions import (
    SceneQuestions,
    hold_out,
    read_flags,
    scattered,
    with_flags,
)
from cooper_ros.training.settings import DataSettings, Optim, TrainSettings
from cooper_ros.training.trainer import Trainer

TASK = {'rollout': {'group': 4, 'max_turns': 1, 'max_turn_tokens': 5}, 'valid_questions': 2,
        'drawing': {'flow_points': 2, 'cfg_text': 1.0}}


def questions(folder: Path, count: int = 6) -> Path:
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(2).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / 'p.png')
    rows = [{'question': f'how many are there in row {row}?', 'answer': 'yes', 'image': 'p.png',
             'data_id': f'g{row}', 'flag': 'positive'} for row in range(count)]
    (folder / 'RL_data.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    return folder


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


class ByMode:
    """Right in some modes only, so that flags can be told apart."""

    def __init__(self, right: dict[str, set[str]]) -> None:
        self.right, self.asked = right, 0

    def scores(self, claims: list[Claim]) -> list[float]:
        mode = 'with' if self.asked % 2 == 0 else 'without'
        self.asked += 1
        return [float(claims[0].question.rstrip('?')[-1] in self.right[mode])] * len(claims)


def test_flags_compare_both_ways_and_resume(tmp_path: Path) -> None:
    rows, out = RlSet(questions(tmp_path / 'set')), tmp_path / 'flags.jsonl'
    checker = ByMode({'with': {'0', '2'}, 'without': {'1', '2'}})
    options = FlagOptions(with_mode='text', without_mode='direct')
    engine = tiny_engine()
    write_flags(engine, rows, out, options, checker, limit=2)
    asked = checker.asked
    counts = write_flags(engine, rows, out, options, checker, limit=4)
    assert asked == 4 and checker.asked == 8  # the first two were not asked again
    assert read_flags(out) == {'g0': 'positive', 'g1': 'negative', 'g2': 'boundary',
                               'g3': 'boundary'}
    assert counts == {'positive': 1, 'negative': 1, 'boundary': 2}
    out.write_bytes(out.read_bytes()[:-30])  # killed while it wrote the last line
    assert write_flags(engine, rows, out, options, checker, limit=4) == counts
    assert checker.asked == 10 and len(read_flags(out)) == 4
    first = json.loads(out.read_text().splitlines()[0])
    assert (first['with_tools'], first['without_tools']) == (1.0, 0.0)
    assert {name: first[name] for name in asdict(options)} == asdict(options)


def test_a_line_that_lacks_nothing_but_its_end_is_kept(tmp_path: Path) -> None:
    rows, out = RlSet(questions(tmp_path / 'set')), tmp_path / 'flags.jsonl'
    out.write_text('{"data_id": "g0", "flag": "negative"}')
    options = FlagOptions(with_mode='text', without_mode='direct')
    write_flags(tiny_engine(), rows, out, options, limit=2)
    assert list(read_flags(out)) == ['g0', 'g1']


def test_another_file_is_left_as_it_is(tmp_path: Path) -> None:
    rows, out = RlSet(questions(tmp_path / 'set')), tmp_path / 'notes.jsonl'
    for text in ('{"data": 1}\n{"data": ', 'weights\x00', '{"data_id": "g0"}\n'):
        out.write_text(text)
        with pytest.raises(BadData):
            write_flags(tiny_engine(), rows, out)
        assert out.read_text() == text


def test_flags_of_two_models_do_not_mix(tmp_path: Path) -> None:
    rows, out = RlSet(questions(tmp_path / 'set')), tmp_path / 'flags.jsonl'
    out.write_text('{"data_id": "g0", "flag": "negative"}\n')  # as older versions wrote it
    options, engine = FlagOptions(with_mode='text', without_mode='direct'), tiny_engine()
    for limit in (2, 3):
        write_flags(engine, rows, out, options, limit=limit, model='abc')
    assert [json.loads(line).get('model') for line in out.read_text().splitlines()] == [
        None, 'abc', 'abc']
    with pytest.raises(BadOption, match=r'another model; got flags.jsonl:2: model abc; allowed: '
                                        'model xyz; remedy: give another --out'):
        write_flags(engine, rows, out, options, limit=4, model='xyz')
    assert len(read_flags(out)) == 3


@pytest.mark.parametrize('changes, words', [
    ({'with_mode': 'auto'}, 'flags.jsonl:2: with_mode text; allowed: with_mode auto; remedy: '
                            'give another --out, or delete .*flags.jsonl'),
    ({'without_mode': 'maps'}, 'without_mode direct; allowed: without_mode maps'),
    ({'tries': 2, 'margin': 0.5}, 'tries 1, margin 0.0; allowed: tries 2, margin 0.5')])
def test_flags_measured_in_other_ways_do_not_mix(changes: dict, words: str,
                                                 tmp_path: Path) -> None:
    rows, out = RlSet(questions(tmp_path / 'set')), tmp_path / 'flags.jsonl'
    out.write_text('{"data_id": "g5", "flag": "negative"}\n')  # as older versions wrote it
    options = FlagOptions(with_mode='text', without_mode='direct')
    write_flags(tiny_engine(), rows, out, options, limit=2)
    before = out.read_bytes()
    with pytest.raises(BadOption, match=f'measured in another way; got .*{words}'):
        write_flags(tiny_engine(), rows, out, replace(options, **changes), limit=3)
    assert out.read_bytes() == before
    assert with_flags(rows, out).sample(5).flag == 'negative'  # training reads both kinds of rows


class Refusing:
    """An engine that cannot answer one question."""

    def __init__(self, number: int) -> None:
        self.number, self.engine = number, tiny_engine()

    def ask(self, image: np.ndarray, question: str, **changes: object) -> Iterator[Event]:
        if f'row {self.number}?' in question:
            return iter([Failure('r', 0.0, 307, 'CONTEXT_FULL: no room for it')])
        return self.engine.ask(image, question, **changes)


def test_a_question_the_engine_refuses_has_no_flag(tmp_path: Path) -> None:
    """It would count as wrong both ways, or in one of both if just that one fails."""
    rows, out = RlSet(questions(tmp_path / 'set')), tmp_path / 'flags.jsonl'
    options = FlagOptions(with_mode='text', without_mode='direct')
    with pytest.raises(ContextFull, match='not answered; got g1 in mode text: CONTEXT_FULL: no '
                                          'room for it; remedy: .*the same command then goes on'):
        write_flags(Refusing(1), rows, out, options)
    assert list(read_flags(out)) == ['g0']
    write_flags(tiny_engine(), rows, out, options, limit=2)
    assert list(read_flags(out)) == ['g0', 'g1']


@pytest.mark.parametrize('changes, words', [
    ({'with_mode': 'nope'}, 'with_mode is out of range; got nope; allowed: auto, direct, text, '
                            'maps'),
    ({'without_mode': ''}, 'without_mode is out of range; .*allowed: auto, direct'),
    ({'with_mode': 'text'}, 'without_mode is out of range; got text; allowed: another than'),
    ({'tries': 0}, 'tries is out of range; got 0'), ({'margin': -0.1}, 'margin is out of range'),
    ({'margin': float('nan')}, 'margin is out'), ({'temperature': 0.0}, 'temperature is out')])
def test_flags_cannot_be_measured_in_any_way(changes: dict, words: str) -> None:
    with pytest.raises(BadOption, match=words):
        FlagOptions(**changes)


def test_a_wrong_mode_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match='with_mode is out of range; got nope'):
        flags_command('gone', tmp_path / 'f.jsonl', tmp_path / 'gone', with_mode='nope')
    assert not list(tmp_path.iterdir())


def test_flags_of_other_questions_are_refused(tmp_path: Path, store: FrameStore,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    asked, path = SceneQuestions(store, 'train/0'), tmp_path / 'flags.jsonl'
    for text in ('{"data_id": "train/0/3/1", "flag": "positive"}\n', ''):
        path.write_text(text)
        with pytest.raises(BadData, match='of other questions.*such as train/0/0/.*cooper data '
                                          'flags.*docs/training.md'):
            with_flags(asked, path)
    name = asked.data_id(5)
    path.write_text(text := f'{{"data_id": "{name}", "flag": "positive"}}\n')
    assert text and with_flags(asked, path).sample(5).flag == 'positive'
    assert f'flags: 1 of {len(asked)} questions have one (1 %)' in capsys.readouterr().err


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


def test_the_flags_command(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from cooper_ros.training.data_cli import app
    outcome = CliRunner().invoke(app, [
        'flags', '--model', str(write_model_folder(tmp_path / 'model')), '--questions',
        str(questions(tmp_path / 'set')), '--out', str(tmp_path / 'f.jsonl'), '--limit', '2',
        '--with-mode', 'text', '--without-mode', 'direct'])
    assert outcome.exit_code == 0 and '2 boundary' in outcome.output, outcome.output
    rows = [json.loads(line) for line in (tmp_path / 'f.jsonl').read_text().splitlines()]
    assert rows[0]['model'] == rows[1]['model'] and len(rows[0]['model']) == 16


@pytest.fixture(autouse=True)
def quiet_progress(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv('TQDM_DISABLE', '1')
    yield
