"""Parts d (text) and e (mixed context) of a recording: caches, logits, decoding."""

from __future__ import annotations

import re
from typing import Any, Iterator, Sequence

import torch
from torch import Tensor

from cooper_ros.engine.sampling import TextOptions, choose_token, token_probabilities
from cooper_ros.evaluation.conformance_golden import Golden, Part, Rows, guarded
from cooper_ros.evaluation.conformance_rows import compare_number, exact, general_tolerance
from cooper_ros.model.mot import HIDDEN
from cooper_ros.runtime.torch_runtime import TorchSession

SPARE = 64  # tokens beyond what the recording says


def check_text(golden: Golden) -> Rows:
    """Part d: prefill, cache, greedy decoding, distributions, two rows together."""
    part = golden.part('d_text')
    session = open_session(golden, 1, part.value('prompts')[-1]['kv_len_after']
                           + part.value('decode')['max_length'])
    yield from guarded('d_text.prefill', _prefill_rows(golden, part, session))
    yield from guarded('d_text.decode', decode_rows(part, 'decode', part.value('decode'), session,
                                                    golden.specials.bos))
    yield from guarded('d_text.decode_with_stop', _stop_rows(golden, part, session))
    yield from guarded('d_text.sampling', _sampling_rows(golden, part, session))
    yield from guarded('d_text.batch', _batch_rows(golden, part))


def open_session(golden: Golden, rows: int, tokens: int) -> TorchSession:
    """Empty contexts with room to spare."""
    return golden.runtime.session(rows=rows, capacity=tokens + SPARE)


def _prefill_rows(golden: Golden, part: Part, session: TorchSession) -> Rows:
    for index, prompt in enumerate(part.value('prompts')):
        fed = [golden.specials.bos, *prompt['input_ids'], golden.specials.eos]
        yield exact(f'd_text.prompts.{index}.fed_ids', fed, prompt['fed_ids'])
        hidden = feed_text(golden, session, 0, prompt['input_ids'])
        with torch.inference_mode():
            logits = golden.runtime.network.logits(hidden)
        yield part.compare(f'prefill_{index}.hidden', hidden)
        yield part.compare(f'prefill_{index}.logits', logits)
        yield exact(f'd_text.prompts.{index}.end', end_of(session, 0),
                    [prompt['kv_len_after'], prompt['rope_after']])
    yield from cache_rows(part, 'cache.', session, 0)


@torch.inference_mode()
def feed_text(golden: Golden, session: TorchSession, row: int, ids: Sequence[int]) -> Tensor:
    """Append a text as ``append_text`` does; return its hidden states ``[n, D]``."""
    fed = [golden.specials.bos, *ids, golden.specials.eos]
    return session.feed_text(row, fed, HIDDEN).und[0]


def end_of(session: TorchSession, row: int) -> list[int]:
    """Cache length and next position."""
    cursor = session.cursor(row)
    return [cursor.length, cursor.rope]


def cache_rows(part: Part, prefix: str, session: TorchSession, start: int) -> Rows:
    """Keys and values of row 0 from token ``start`` on, layer by layer."""
    end = session.cursor(0).length
    for store, name in ((session.cache.keys, 'key'), (session.cache.values, 'value')):
        for layer, heads in enumerate(store[:, 0, :, start:end]):  # [kv heads, n, d]
            yield part.compare(f'{prefix}{name}_{layer}', heads.transpose(0, 1))


def greedy(session: TorchSession, row: int, start: int) -> Iterator[tuple[int, Tensor, int]]:
    """Endless greedy decoding: (id that was fed, its logits, id chosen)."""
    token = start
    while True:
        logits = session.step(row, token)
        chosen, _ = choose_token(logits, TextOptions())
        yield token, logits, chosen
        token = chosen


def decode_rows(part: Part, item: str, recorded: dict[str, Any], session: TorchSession,
                start: int) -> Rows:
    """Greedy decoding behind the present context, which is left as it was."""
    before, start = session.cursor(0), recorded.get('start_token', start)
    run = greedy(session, 0, start)
    steps = [next(run) for _ in range(recorded['max_length'])]
    session.rewind(0, before)
    fed, logits = [step[0] for step in steps], torch.stack([step[1] for step in steps])
    yield part.compare(f'{item}.logits', logits)
    item = f'{part.name}.{item}'
    yield exact(f'{item}.returned_ids', fed, recorded['returned_ids'])
    if 'argmax_after_last' in recorded:
        yield exact(f'{item}.argmax_after_last', steps[-1][2], recorded['argmax_after_last'])
    best = logits.topk(2, dim=-1).values  # [steps, 2]
    yield compare_number(f'{item}.min_top1_top2_gap', float((best[:, 0] - best[:, 1]).min()),
                         recorded['min_top1_top2_gap'], 2 * general_tolerance(logits))


def _stop_rows(golden: Golden, part: Part, session: TorchSession) -> Rows:
    recorded, before = part.value('decode_with_stop'), session.cursor(0)
    fed: list[int] = []
    for token, _, chosen in greedy(session, 0, golden.specials.bos):
        fed.append(token)
        if chosen == recorded['end_token_id'] or len(fed) == recorded['max_length']:
            break
    session.rewind(0, before)
    yield exact('d_text.decode_with_stop', [fed, len(fed)],
                [recorded['returned_ids'], recorded['forward_steps']])


def _sampling_rows(golden: Golden, part: Part, session: TorchSession) -> Rows:
    before = session.cursor(0)
    logits = session.step(0, golden.specials.bos)
    session.rewind(0, before)
    for index, options in enumerate(part.value('sampling')):
        ordered, ids = token_probabilities(logits, options['temperature'], options['top_p'])
        yield exact(f'd_text.sampling.{index}.nonzero', int((ordered > 0).sum()),
                    options['nonzero'])
        if f'out.sampling_{index}.sorted_probs' in part.tensors:
            yield part.compare(f'sampling_{index}.sorted_probs', ordered)
        else:
            by_id = torch.zeros_like(ordered).scatter(0, ids, ordered)
            yield part.compare(f'sampling_{index}.probs_by_id', by_id)


def _batch_rows(golden: Golden, part: Part) -> Rows:
    """Prompts of unequal length in rows of one session, decoded in turn."""
    recorded = part.value('batch')
    prompts, steps = recorded['prompts'], recorded['max_length']
    session = open_session(golden, len(prompts), max(map(len, prompts)) + steps)
    for row, ids in enumerate(prompts):
        session.append_text(row, ids)
    ends = [end_of(session, row) for row in range(len(prompts))]
    yield exact('d_text.batch.ends', ends, [list(end) for end in zip(recorded['kv_lens'],
                                                                     recorded['ropes'])])
    runs = [greedy(session, row, golden.specials.bos) for row in range(len(prompts))]
    rounds = [[next(run) for run in runs] for _ in range(steps)]
    yield part.compare('batch.logits', torch.stack(
        [torch.stack([logits for _, logits, _ in turn]) for turn in rounds]))
    yield exact('d_text.batch.returned_ids', [[fed for fed, _, _ in turn] for turn in rounds],
                recorded['returned_ids_step_by_row'])


def check_context(golden: Golden) -> Rows:
    """Part e: every scenario, then the lone sampled autoencoder update."""
    part = golden.part('e_context')
    for name, scenario in part.values.items():
        if 'updates' in scenario:
            yield from guarded(f'e_context.{name}', _scenario_rows(golden, part, name, scenario))
    yield from guarded('e_context.vae_sampled', _sampled_rows(golden, part))


def _scenario_rows(golden: Golden, part: Part, name: str, scenario: dict[str, Any]) -> Rows:
    decode = scenario['decode']
    session = open_session(golden, 1, scenario['updates'][-1]['kv_len_after']
                           + decode['max_length'])
    for index, update in enumerate(scenario['updates']):
        start, item = session.cursor(0).length, f'{name}.update_{index}'
        yield part.compare(f'{item}.hidden', _update(golden, session, update))
        yield exact(f'e_context.{item}.ends', [start, *end_of(session, 0)],
                    [update['kv_len_before'], update['kv_len_after'], update['rope_after']])
        yield from cache_rows(part, f'{item}.', session, start)
    yield from decode_rows(part, f'{name}.decode', decode, session, golden.specials.bos)


def _update(golden: Golden, session: TorchSession, update: dict[str, Any]) -> Tensor:
    """Append one recorded update; return the hidden states ``[n, D]`` of all its tokens."""
    if update['action'] == 'text':
        return feed_text(golden, session, 0, update['ids'])
    hidden = []
    if update['vae']:
        hidden.append(feed_latents(golden, session, 0, golden.pixels('vae', update['pixels'])))
    if update['vit']:
        hidden.append(feed_vision(golden, session, 0, golden.pixels('vit', update['pixels'])))
    return torch.cat(hidden)


@torch.inference_mode()
def feed_latents(golden: Golden, session: TorchSession, row: int, pixels: Tensor,
                 noise: Tensor | None = None) -> Tensor:
    """Append an autoencoder block; hidden states ``[n + 2, D]`` in the order of the cache."""
    runtime = golden.runtime
    tokens = runtime.embed_latents(runtime.encode_image(pixels, noise))
    und, gen = session.feed_latents(row, tokens, HIDDEN)
    return torch.cat([und[0, :1], gen[0], und[0, 1:]])


@torch.inference_mode()
def feed_vision(golden: Golden, session: TorchSession, row: int, pixels: Tensor) -> Tensor:
    """Append a vision block; hidden states ``[n + 2, D]``."""
    return session.feed_vision(row, golden.runtime.encode_vision(pixels), HIDDEN).und[0]


def _sampled_rows(golden: Golden, part: Part) -> Rows:
    for name in sorted(part.tensors):
        if found := re.fullmatch(r'in\.vae_noise_(\d+)', name):
            session = open_session(golden, 1, part.value('vae_sampled', 'kv_len'))
            feed_latents(golden, session, 0, golden.pixels('vae', int(found[1])), part[name][0])
            recorded = part.value('vae_sampled')
            yield exact('e_context.vae_sampled.end', end_of(session, 0),
                        [recorded['kv_len'], recorded['rope']])
            yield from cache_rows(part, 'vae_sampled.', session, 0)
