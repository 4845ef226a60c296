"""Shards, mixtures and sequences; the stages on published sets, with a tiny model folder."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from model_folder import write_model_folder
from test_data_readers import cooper_tree, ramp, rgb, save, talk_row

from cooper_ros.engine.engine import CooperEngine
from cooper_ros.errors import BadData, BadOption
from cooper_ros.model.packing import LatentItem, TextItem, VisionItem, piece_of
from cooper_ros.training.corpus_task import CorpusTask
from cooper_ros.training.datasets.cooper_set import TalkSet
from cooper_ros.training.datasets.find import scene_by_scene
from cooper_ros.training.datasets.samples import Pair
from cooper_ros.training.datasets.stream import Batches, Draw, Source, shard_order
from cooper_ros.training.settings import Optim, TrainSettings
from cooper_ros.training.task import sample_generators
from cooper_ros.training.trainer import Trainer


def test_shards_are_equal_parts_of_one_order() -> None:
    parts = [shard_order(23, rank, 4) for rank in range(4)]
    assert [len(part) for part in parts] == [5] * 4
    together = list(itertools.chain(*parts))
    assert len(set(together)) == 20 and together != sorted(together)
    assert shard_order(23, 0, 1)[:5] == parts[0]
    with pytest.raises(BadData):
        shard_order(3, 0, 4)


def lengths(index: int) -> int:
    return 10 + (index * 37) % 61


def batches(**changes: int) -> Batches:
    sources = [Source('a', 3.0, 40, lengths), Source('b', 1.0, 40, lambda index: 30)]
    return Batches(sources, **{'max_tokens': 100, 'seed': 1, **changes})


def test_no_draw_is_lost_and_none_waits_for_ever() -> None:
    made, given = batches(), list[Draw]()
    made._draws = (given.append(draw) or draw for draw in made._draws)
    taken = {id(draw) for step in range(200) for draw in made.sequence(step)}
    assert len(taken) == sum(len(made.sequence(step)) for step in range(200))
    assert {id(draw) for draw in given[:-60]} <= taken  # only the newest may still wait


def test_sequences_stay_within_the_limit_and_are_well_filled() -> None:
    made = batches()
    used = [sum(made.sources[draw.source].tokens(draw.index) for draw in made.sequence(step))
            for step in range(100)]
    assert max(used) <= 100 and np.mean(used) > 93


def test_a_step_is_the_same_in_any_run_and_differs_between_lanes() -> None:
    straight = [batches().sequence(step) for step in range(20)]
    resumed = batches()
    assert resumed.sequence(19) == straight[19] and resumed.sequence(3) == straight[3]
    assert batches(lane=1, lanes=2).sequence(0) != batches(lane=0, lanes=2).sequence(0)
    seen = [{(draw.source, draw.index) for step in range(60)
             for draw in batches(lane=lane, lanes=2).sequence(step)} for lane in range(2)]
    assert not seen[0] & seen[1]


def test_the_mixture_follows_its_weights() -> None:
    made = batches()
    counts = Counter(draw.source for step in range(500) for draw in made.sequence(step))
    assert counts[0] / counts.total() == pytest.approx(0.75, abs=0.05)


def test_long_samples_are_left_out_and_only_long_ones_are_an_error(
        capsys: pytest.CaptureFixture[str]) -> None:
    made = batches(max_tokens=50)
    assert all(lengths(draw.index) <= 50 for step in range(50) for draw in made.sequence(step)
               if draw.source == 0)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and 'that are longer than 50 tokens: a sample' in said[0]
    with pytest.raises(BadData, match='got part 0, a sample . of 99 tokens.*raise max_tokens'):
        Batches([Source('a', 1.0, 5, lambda index: 99)], 50).sequence(0)


def settings(tmp_path: Path, sets: dict, **changes: object) -> TrainSettings:
    model = tmp_path / 'model'
    if not model.exists():
        write_model_folder(model)
    task = {'sets': sets, 'max_tokens': 700, 'valid': 1, 'drawing': {'flow_points': 2},
            **changes.pop('task', {})}
    return TrainSettings('amg', str(tmp_path / 'run'), start=str(model), task=task,
                         optim=Optim(1e-3, warmup=1, bfloat16=False),
                         **{'steps': 2, 'batch': 1, 'preview_every': 2, **changes})


def draw_sets(tmp_path: Path) -> dict:
    for number in range(4):
        scene = tmp_path / 'hypersim' / f'ai_001_00{number}'
        save(scene / 'rgb_cam_00_fr0000.png', rgb())
        save(scene / 'depth_plane_cam_00_fr0000.png', ramp(600, 65000))
        folder = tmp_path / 'ade' / 'images'
        save(folder / f'ADE_train_{number:08d}.jpg', rgb(64, 48))
        save(folder / f'ADE_train_{number:08d}_seg.png', rgb(64, 48))
    return {'hypersim': {'place': str(tmp_path / 'hypersim'), 'weight': 0.5},
            'ade20k': {'place': str(tmp_path / 'ade'), 'weight': 0.5}}


def frames_of(tmp_path: Path, kind: str, frames: dict[str, int], valid: int = 2) -> CorpusTask:
    """A task on one set with so many frames in each folder."""
    names = {'hypersim': ('rgb_cam_00_fr{:04d}.png', 'depth_plane_cam_00_fr{:04d}.png'),
             'ade20k': ('ADE_train_{:08d}.jpg', 'ADE_train_{:08d}_seg.png')}[kind]
    for folder, count in frames.items():
        for number in range(count):
            save(tmp_path / kind / folder / names[0].format(number), rgb())
            save(tmp_path / kind / folder / names[1].format(number),
                 ramp(600, 65000) if kind == 'hypersim' else rgb())
    return CorpusTask(settings(tmp_path, {kind: {'place': str(tmp_path / kind)}},
                               task={'valid': valid}))


@pytest.mark.parametrize('kind, frames, trained', [
    ('hypersim', {'train/ai_001': 9, 'train/ai_002': 6, 'train/ai_003': 5}, 15),
    ('hypersim', {'ai_001': 30, 'ai_002': 6, 'ai_003': 1}, 30),  # one of each of two is held out
    ('hypersim', {'ai_001': 9, 'ai_002': 9}, 16),  # a scene is too much of this set
    ('hypersim', {'ai_001': 9}, 7), ('ade20k', {'bath': 9, 'hall': 6, 'zoo': 5}, 18)])
def test_frames_of_a_held_out_scene_do_not_train(tmp_path: Path, kind: str,
                                                 frames: dict[str, int], trained: int) -> None:
    task = frames_of(tmp_path, kind, frames)
    assert [source.count for source in task.lanes[0].sources] == [trained]


@pytest.mark.parametrize('absolute', [False, True])
def test_frames_of_a_held_out_scene_of_a_list_do_not_train(tmp_path: Path, absolute: bool) -> None:
    """Ids that name no scene, and a list that is shuffled."""
    place, lines = tmp_path / 'set', []
    for scene in ('ai_001', 'ai_002', 'ai_003', 'ai_004'):
        for number in range(5):
            rgb_path = save(place / 'train' / scene / f'rgb_cam_00_fr{number:04d}.png', rgb())
            depth = save(rgb_path.with_name(f'depth_{number}.png'), ramp(600, 65000))
            names = [path if absolute else path.relative_to(place) for path in (rgb_path, depth)]
            lines.append(json.dumps({'rgb_image': str(names[0]), 'depth_image': str(names[1]),
                                     'data_id': str(len(lines))}))
    np.random.default_rng(2).shuffle(lines)
    (place / 'train.jsonl').write_text('\n'.join(lines))
    task = CorpusTask(settings(tmp_path, {'hypersim': {'place': str(place)}}, task={'valid': 2}))
    pairs, trained = task.corpora[0].rows.pairs, task.lanes[0].sources[0].count
    held = {pair.rgb.parent.name for pair in pairs[-2:]}
    assert len(pairs) == 20 and pairs[-1].data_id == json.loads(lines[-1])['data_id']
    assert len(held) == 1 and not held & {pair.rgb.parent.name for pair in pairs[:trained]}
    assert trained == 15


def test_a_list_that_is_scene_by_scene_keeps_its_order(tmp_path: Path) -> None:
    pairs = [Pair(tmp_path / scene / f'{number}.png', tmp_path, '') for scene in ('b', 'a', 'c')
             for number in (2, 1)]
    assert scene_by_scene(pairs) == pairs
    assert scene_by_scene([*pairs[1:], pairs[0]]) == [*pairs[2:], pairs[1], pairs[0]]


def test_stage_one_samples_and_their_token_counts(tmp_path: Path) -> None:
    task = CorpusTask(settings(tmp_path, draw_sets(tmp_path)))
    for corpus, prompt in zip(task.corpora, ('draw depth', 'draw segments')):
        items = corpus.items(0, False, torch.Generator().manual_seed(0))
        assert [type(item) for item in items] == [LatentItem, VisionItem, TextItem, LatentItem]
        assert [getattr(item, 'loss', False) for item in items] == [False, False, False, True]
        assert task.policy.decode(items[2].ids) == prompt
        pieces = [piece_of(item, task.module.config).tokens for item in items]
        assert corpus.tokens(0) == sum(pieces)


def test_stage_one_learns_and_exports(tmp_path: Path) -> None:
    run = settings(tmp_path, draw_sets(tmp_path), steps=2)
    task = CorpusTask(run)
    before = {name: value.clone() for name, value in task.module.state_dict().items()}
    Trainer(task, run).run()
    moved = {name for name, value in task.module.state_dict().items()
             if not torch.equal(value, before[name])}
    assert 'llm2vae.weight' in moved and 'language_model.model.embed_tokens.weight' in moved
    assert not any(name.startswith(('vit_model', 'latent_pos_embed')) for name in moved)
    names = {path.stem for path in (tmp_path / 'run' / 'previews').iterdir()}
    assert names == {'0000002_hypersim', '0000002_ade20k'}
    task.export(tmp_path / 'out', task.module.state_dict())
    assert CooperEngine.from_pretrained(tmp_path / 'out').estimate_depth(rgb()) is not None


def test_a_stopped_run_goes_on_as_if_it_had_not(tmp_path: Path) -> None:
    sets, weights = draw_sets(tmp_path), []
    for folder, stops in (('whole', (2,)), ('stopped', (1, 2))):
        run = replace(settings(tmp_path, sets, task={'preview': False}),
                      folder=str(tmp_path / folder), checkpoint_every=1)
        for stop in stops:
            task = CorpusTask(run)
            Trainer(task, run).run(until=stop)
        weights.append(task.module.state_dict())
    assert all(torch.allclose(weights[0][name], weights[1][name], atol=1e-7)
               for name in weights[0])


def test_several_sequences_add_up_to_the_same_gradient(tmp_path: Path) -> None:
    sets = draw_sets(tmp_path)
    task = CorpusTask(settings(tmp_path, sets, batch=2, task={'mirror': 0.0}))
    losses = task.loss(1, torch.Generator().manual_seed(5))
    assert not losses['loss'].requires_grad  # taken already
    found = task.module.llm2vae.weight.grad.clone()
    task.module.zero_grad()
    noises = sample_generators(2, torch.Generator().manual_seed(5))
    packed = [task._packed(lane.sequence(0), noise) for lane, noise in zip(task.lanes, noises)]
    count = sum(len(batch.layout.mse_index) for batch in packed)
    whole = sum(task._losses(batch, [1, count])['loss'] for batch in packed)
    whole.backward()
    assert torch.allclose(found, task.module.llm2vae.weight.grad, atol=1e-6)
    assert float(losses['loss'].detach()) == pytest.approx(float(whole.detach()), rel=1e-5)


@pytest.mark.parametrize('map_latents, kinds', [
    (True, [TextItem, LatentItem, VisionItem, TextItem, TextItem, LatentItem, VisionItem]),
    (False, [TextItem, LatentItem, VisionItem, TextItem, TextItem, VisionItem])])
def test_stage_two_samples(tmp_path: Path, map_latents: bool, kinds: list[type]) -> None:
    folder = cooper_tree(tmp_path / 'set', [talk_row(rgb()) for _ in range(3)], [])
    task = CorpusTask(settings(tmp_path, {'cooper': {'place': str(folder)}},
                               task={'map_latents': map_latents}))
    corpus = task.corpora[0]
    items = corpus.items(0, False, torch.Generator().manual_seed(0))
    assert [type(item) for item in items] == kinds
    texts = [(task.policy.decode(item.ids), item.loss) for item in items
             if isinstance(item, TextItem)]
    assert texts == [(task.policy.prompts.interleave_system, False), ('How far?', False),
                     ('<think>look</think>', True)]
    assert corpus.tokens(0) == sum(piece_of(item, task.module.config).tokens for item in items)
    losses = task.loss(1, torch.Generator().manual_seed(0))
    assert losses['ce'] > 1 and losses['mse'] == 0 and isinstance(corpus.rows, TalkSet)


def test_stage_two_reads_pictures_as_inference_reads_a_first_one(tmp_path: Path) -> None:
    """Each encoder resizes the picture itself (reference section 5.2), and is counted so."""
    odd = np.random.default_rng(0).integers(0, 256, (33, 50, 3), dtype=np.uint8)
    folder = cooper_tree(tmp_path / 'set', [talk_row(odd)] * 3, [])
    task = CorpusTask(settings(tmp_path, {'cooper': {'place': str(folder)}}))
    items = task.corpora[0].items(0, False, torch.Generator().manual_seed(0))
    seen = next(item.pixels for item in items if isinstance(item, VisionItem))
    vae, vit = task.maker.rules
    assert np.array_equal(seen, vit(odd)) and not np.array_equal(vit(odd), vit(vae.pixels(odd)))
    assert task.corpora[0].tokens(0) == sum(
        piece_of(item, task.module.config).tokens for item in items)


def test_stage_two_shows_how_it_answers(tmp_path: Path) -> None:
    folder = cooper_tree(tmp_path / 'set', [talk_row(rgb()) for _ in range(3)], [])
    task = CorpusTask(settings(tmp_path, {'cooper': {'place': str(folder)}}))
    with torch.no_grad():
        sheets = task.validate()[1]
    assert list(sheets) == ['cooper'] and sheets['cooper'].dtype == np.uint8


def test_two_files_of_one_kind_are_mixed(tmp_path: Path) -> None:
    places = [cooper_tree(tmp_path / name, [talk_row(rgb())] * count, []) / 'Interleaved_SFT.jsonl'
              for name, count in (('a', 3), ('b', 5))]
    mine = places[1].rename(tmp_path / 'mine.jsonl')
    task = CorpusTask(settings(tmp_path, {
        'cooper': {'place': str(places[0])},
        'mine': {'kind': 'cooper', 'place': str(mine), 'weight': 3}}))
    assert [(source.name, source.weight, source.count) for source in task.lanes[0].sources] == [
        ('cooper', 1.0, 2), ('mine', 3.0, 4)]
    with torch.no_grad():
        assert set(task.validate()[0]) == {'valid_ce_cooper', 'valid_mse_cooper',
                                           'valid_ce_mine', 'valid_mse_mine'}


@pytest.mark.parametrize('sets, error', [
    ({'hypersim': {'weight': 1}}, BadOption), ({'imagenet': {'place': '.'}}, BadOption),
    ({'nyu': {'place': 'nowhere'}}, BadData)])
def test_wrong_sets_are_refused(tmp_path: Path, sets: dict, error: type[Exception]) -> None:
    with pytest.raises(error):
        CorpusTask(settings(tmp_path, sets))


@pytest.fixture(autouse=True)
def quiet_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('TQDM_DISABLE', '1')
