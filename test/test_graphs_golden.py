"""Exported graphs on recorded inputs: as PyTorch, as the recording, and as the shipped network.

What "agrees" means, as the largest error relative to the largest number of an output: 1e-4 in
fp32, 0.03 in fp16 (graph and network both in fp16). The graphs are driven by the runtime itself,
with the pictures, texts and noise of ``data/golden_small``, so every graph sees what it sees in
use: prefill of latents, pictures and text, decoding, flow steps over three branches.

fp16 runs in onnxruntime on a CPU, all six graphs. bf16 does not: onnxruntime has no bfloat16
kernels for matrix products and convolutions there and refuses to load such graphs (the last test
shows its words), so bf16 graphs are compared on a GPU only, by ``benchmarks/gpu_check.py``.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
from support.exported import (
    bfloat_latents,
    golden,
    golden_bundle,
    half_bundle,
    half_network,
    nano_bundle,
    nano_engine,
)
from support.tiny import tiny_config
from torch import Tensor

from cooper_ros.engine.engine import CooperEngine
from cooper_ros.engine.events import DEPTH, Answer
from cooper_ros.engine.limits import Limits
from cooper_ros.evaluation.conformance_drawing import RecordedFlow
from cooper_ros.model.flow import Guidance
from cooper_ros.runtime.graphs.bundle import Bundle
from cooper_ros.runtime.graphs.modules import graph_modules
from cooper_ros.runtime.graphs.probe import probe, relative_error
from cooper_ros.runtime.graphs.runtime import GraphRuntime, Tensors
from cooper_ros.runtime.graphs.spec import graph_specs
from cooper_ros.runtime.onnx_runtime import OnnxRunner, load_onnx_runtime
from cooper_ros.runtime.torch_runtime import TorchRuntime

NAMES = tuple(graph_specs(tiny_config()))
FP32, FP16 = 1e-4, 0.03
VARIANT = 'text_img_text_channel'  # guidance by text and by picture: three branches
Calls = list[tuple[str, Tensors, Tensors]]


class Watched(OnnxRunner):
    """Keeps what every graph was given and what it said."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle, threads=1)
        self.calls: Calls = []

    def run(self, graph: str, inputs: Tensors, into: Tensors) -> Tensors:
        """See :class:`OnnxRunner`."""
        given = {name: value.clone() for name, value in inputs.items()}
        found = dict(super().run(graph, inputs, {}))
        self.calls.append((graph, given, dict(found)))
        for name, target in into.items():
            target.copy_(found.pop(name))
        return found


def conversation(bundle: Bundle) -> tuple[Calls, dict[str, Tensor]]:
    """The recorded picture, text and noise through the graphs; calls, and what is recorded too."""
    watched, part = Watched(bundle), golden().part('f_generate')
    runtime = GraphRuntime(watched, bundle.config, specials=bundle.specials,
                           vocabulary=bundle.vocabulary, precision=bundle.precision,
                           words=bundle.words())
    recorded = part.value('edit')
    vae, vit = golden().pixels('vae', 0), golden().pixels('vit', 0)
    session, said = runtime.session(rows=3, capacity=192), {}
    for row in (0, 1):
        session.append_latents(row, runtime.embed_latents(runtime.encode_image(vae, None)))
        session.append_vision(row, runtime.encode_vision(vit))
    for row in (0, 2):
        session.append_text(row, recorded['text_ids'])
    grid = tuple(side // bundle.config.pixels_per_latent_token for side in recorded['image_hw'])
    options = _options(recorded['variants'][VARIANT])
    *_, said['latent'] = options.flow(session, (0, 1, 2), part['in.noise_edit'], grid, Limits())
    said['v_t'] = torch.stack(options.seen)[recorded['variants'][VARIANT]['v_t_steps']]
    runtime.decode_tokens(said['latent'], grid)
    said['logits'] = _decoded(runtime)
    return watched.calls, said


def _options(values: dict) -> RecordedFlow:
    guidance = Guidance(values['cfg_text_scale'], values['cfg_img_scale'],
                        *values['cfg_interval'], values['cfg_renorm_type'],
                        values['cfg_renorm_min'])
    return RecordedFlow(values['num_timesteps'], values['timestep_shift'], guidance)


def _decoded(runtime: GraphRuntime) -> Tensor:
    """Logits of the recorded words, each fed back as it was recorded."""
    part = golden().part('d_text')
    session = runtime.session(rows=1, capacity=64)
    for prompt in part.value('prompts'):
        session.append_text(0, prompt['input_ids'])
    return torch.stack([session.step(0, token)
                        for token in part.value('decode', 'returned_ids')])


@pytest.fixture(scope='module')
def exact() -> tuple[Calls, dict[str, Tensor]]:
    return conversation(golden_bundle())


@pytest.fixture(scope='module')
def half() -> tuple[Calls, dict[str, Tensor]]:
    return conversation(half_bundle())


def worst(calls: Calls, name: str, network: TorchRuntime) -> float:
    """Largest error of a graph over all its calls, against the network in PyTorch."""
    module = graph_modules(network.network, network.vae)[name]
    mine = [(given, found) for graph, given, found in calls if graph == name]
    errors = []
    for given, found in mine:
        with torch.inference_mode():
            said = module(*given.values())
        said = said if isinstance(said, tuple) else (said,)
        errors += [relative_error(*pair) for pair in zip(found.values(), said, strict=True)]
    return max(errors)


@pytest.mark.parametrize('name', NAMES)
def test_a_graph_agrees_on_recorded_inputs(exact: tuple, name: str) -> None:
    assert worst(exact[0], name, golden().runtime) < FP32


@pytest.mark.parametrize('name', NAMES)
def test_a_graph_in_half_precision_agrees(half: tuple, name: str) -> None:
    assert worst(half[0], name, half_network()) < FP16


def test_graphs_say_what_was_recorded(exact: tuple) -> None:
    """Not only as our PyTorch: as the reference implementation did."""
    said, drawn, text = exact[1], golden().part('f_generate'), golden().part('d_text')
    rows = [drawn.compare(f'edit.{VARIANT}.{name}', said[name]) for name in ('v_t', 'latent')]
    rows.append(text.compare('decode.logits', said['logits']))
    assert all(row.passed for row in rows), rows


def test_prefill_decoding_and_branches_were_all_seen(exact: tuple) -> None:
    sizes = {(graph, given['embeds'].shape[1] > 1, bool(given['causal']))
             for graph, given, _ in exact[0] if graph == 'understand'}
    assert sizes == {('understand', True, False), ('understand', True, True),
                     ('understand', False, True)}
    assert {len(given['used']) for graph, given, _ in exact[0] if graph == 'flow'} == {1, 3}


@pytest.mark.parametrize('name', NAMES)
def test_a_graph_of_the_shipped_network_agrees(name: str) -> None:
    bundle, network = nano_bundle(), nano_engine().parts.runtime
    specs = {name: bundle.specs()[name]}
    runner, modules = OnnxRunner(bundle, threads=1), graph_modules(network.network, network.vae)
    for sizes in ({}, {'context': 65, 'tokens': 1, 'branches': 3, 'cells': 12, 'patches': 48}):
        assert probe(runner, specs, modules, 'fp32', **sizes)[name] < FP32


@pytest.mark.parametrize('mode', ['direct', 'maps'])
def test_the_shipped_engine_answers_the_same(mode: str) -> None:
    """Text equal; depth within 0.01 of the range, labels equal, in 99.5 % of the pixels."""
    usual = nano_engine()
    other = CooperEngine(replace(usual.parts, runtime=load_onnx_runtime(nano_bundle(), threads=1)),
                         usual.config)
    picture = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    theirs, ours = (list(engine.ask(picture, 'how many balls are there?', mode=mode, seed=3))[-1]
                    for engine in (usual, other))
    assert isinstance(theirs, Answer) and isinstance(ours, Answer)
    assert (ours.text, ours.reasoning, ours.short) == (theirs.text, theirs.reasoning, theirs.short)
    assert ours.confidence == pytest.approx(theirs.confidence, rel=1e-3)
    assert len(ours.maps) == len(theirs.maps) == (2 if mode == 'maps' else 0)
    for mine, wanted in zip(ours.maps, theirs.maps):
        same = (np.isclose(mine.relative, wanted.relative, atol=0.01) if mine.kind == DEPTH
                else mine.labels == wanted.labels)
        assert same.mean() > 0.995


def test_bfloat16_is_what_onnxruntime_cannot_load_on_a_cpu() -> None:
    with pytest.raises(Exception, match='NOT_IMPLEMENTED.*could not find an implementation|'
                                        'Could not find an implementation'):
        onnxruntime.InferenceSession(str(bfloat_latents()), providers=['CPUExecutionProvider'])
