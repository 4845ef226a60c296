"""Every exported graph says in onnxruntime what the network says in PyTorch."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from support.exported import exported_runtime, half_understand, tiny_bundle
from support.tiny import tiny_config, tiny_runtime

from cooper_ros.errors import BadCheckpoint, BadOption
from cooper_ros.model.config import ModelConfig
from cooper_ros.runtime.engines.key import BuildOptions, EngineKey
from cooper_ros.runtime.graphs.bundle import Bundle, config_of, export_bundle
from cooper_ros.runtime.graphs.digest import weights_digest
from cooper_ros.runtime.graphs.export import OPSET, example_inputs, export_graph
from cooper_ros.runtime.graphs.modules import bias_of, graph_modules
from cooper_ros.runtime.graphs.probe import questions_in_service
from cooper_ros.runtime.graphs.spec import (
    BUCKET,
    PRECISIONS,
    Limits,
    Span,
    graph_specs,
    profiles_of,
)

NAMES = tuple(graph_specs(tiny_config()))
TOLERANCE = 1e-4  # fp32, relative to the largest number of the output; measured below 1e-5
SIZES = (  # smallest, those of the export, and others
    {'context': 1, 'tokens': 1, 'patches': 1, 'cells': 1, 'branches': 1, 'rows': 1, 'columns': 1},
    {},
    {'context': 40, 'tokens': 1, 'patches': 20, 'cells': 16, 'branches': 3, 'rows': 4,
     'columns': 4},
    {'context': 3, 'tokens': 17, 'patches': 100, 'cells': 6, 'branches': 1, 'rows': 2,
     'columns': 3})


def worst(found: list[np.ndarray], wanted: tuple[torch.Tensor, ...]) -> float:
    """Largest error, as a fraction of the largest number of its output."""
    assert [value.shape for value in found] == [tuple(value.shape) for value in wanted]
    return max(float(np.abs(ours - theirs.float().numpy()).max() / theirs.float().abs().max())
               for ours, theirs in zip(found, wanted))


def eager(name: str, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    runtime = exported_runtime()
    with torch.inference_mode():
        out = graph_modules(runtime.network, runtime.vae)[name](*inputs.values())
    return out if isinstance(out, tuple) else (out,)


@pytest.mark.parametrize('name', NAMES)
def test_a_graph_agrees_with_the_network_at_all_sizes(name: str) -> None:
    bundle = tiny_bundle()
    session = onnxruntime.InferenceSession(str(bundle.graph(name)),
                                           providers=['CPUExecutionProvider'])
    for seed, sizes in enumerate(SIZES):
        inputs = example_inputs(bundle.specs()[name], 'fp32', seed=seed, **sizes)
        feed = {key: value.numpy() for key, value in inputs.items()}
        assert worst(session.run(None, feed), eager(name, inputs)) < TOLERANCE, sizes


def test_groups_are_normalised_in_float32(tmp_path: Path) -> None:
    """TensorRT 10.3 of JetPack 6 reads no InstanceNormalization of bfloat16."""
    runtime = tiny_runtime()
    module = graph_modules(runtime.network, runtime.vae.bfloat16())['vae_encode']
    path = export_graph(graph_specs(runtime.config)['vae_encode'], module, tmp_path / 'e.onnx',
                        'bf16')
    graph = onnx.shape_inference.infer_shapes(onnx.load(str(path))).graph
    types = {value.name: value.type.tensor_type.elem_type
             for value in (*graph.value_info, *graph.input, *graph.output)}
    norms = [node for node in graph.node if node.op_type == 'InstanceNormalization']
    assert norms and {types[node.output[0]] for node in norms} == {onnx.TensorProto.FLOAT}
    convolutions = {types[node.output[0]] for node in graph.node if node.op_type == 'Conv'}
    assert convolutions == {onnx.TensorProto.BFLOAT16}


def test_example_inputs_stay_within_limits() -> None:
    """Of a network whose position tables have a single row, too."""
    config = replace(tiny_config(), max_latent_size=1, vit_max_num_patch_per_side=1)
    limits = Limits.of(config, context=256)
    found = {name: example_inputs(spec, 'fp32', limits=limits, context=512, tokens=1)
             for name, spec in graph_specs(config).items()}
    assert found['vision']['position_ids'].tolist() == [0]
    assert found['latents']['position_ids'].tolist() == [0]
    assert found['understand']['key_00'].shape[1] == 256
    assert found['understand']['embeds'].shape[1] == 1
    assert found['vae_encode']['pixels'].shape[2:] == (16, 16)


@pytest.mark.parametrize('name', NAMES)
def test_a_file_holds_what_its_description_says(name: str) -> None:
    bundle = tiny_bundle()
    model = onnx.load(str(bundle.graph(name)))
    onnx.checker.check_model(model, full_check=True)
    assert {entry.domain: entry.version for entry in model.opset_import} == {'': OPSET}
    kinds = {1: 'float32', 7: 'int64', 9: 'bool', 10: 'float16', 16: 'bfloat16'}
    found = [[value.name, kinds[value.type.tensor_type.elem_type]]
             for part in (model.graph.input, model.graph.output) for value in part]
    assert found == [[row[0], row[3]] for row in bundle.specs()[name].interface('fp32')]


@pytest.mark.parametrize('name', ['vision', 'understand', 'flow', 'vae_encode', 'vae_decode'])
def test_attention_scales_its_queries_alone(name: str) -> None:
    """A scale on queries and keys is what TensorRT 10.7 computed wrongly (its issue 4333)."""
    graph = onnx.load(str(tiny_bundle().graph(name)), load_external_data=False).graph
    maker = {output: node for node in graph.node for output in node.output}
    softmaxes = [node for node in graph.node if node.op_type == 'Softmax']
    assert softmaxes
    for softmax in softmaxes:
        scores = maker[softmax.input[0]]
        if scores.op_type == 'Add':  # the mask
            scores = maker[scores.input[0]]
        queries, keys = (maker[entry] for entry in scores.input)
        assert (scores.op_type, queries.op_type, keys.op_type) == ('MatMul', 'Mul', 'Transpose')
        assert maker[keys.input[0]].op_type != 'Mul'


def test_causal_is_data_and_unused_slots_are_not_seen() -> None:
    """The same graph prefills text and pictures, over a cache with rubbish behind its end."""
    bundle = tiny_bundle()
    session = onnxruntime.InferenceSession(str(bundle.graph('understand')),
                                           providers=['CPUExecutionProvider'])
    inputs = example_inputs(bundle.specs()['understand'], 'fp32', context=8, tokens=4)
    inputs['used'][:] = 5

    def logits(**changes: torch.Tensor) -> np.ndarray:
        feed = {key: value.numpy() for key, value in {**inputs, **changes}.items()}
        return session.run(['logits', 'new_key_01'], feed)[1]

    plain, full = logits(), logits(causal=torch.tensor([False]))
    assert np.allclose(plain[:, -1], full[:, -1], atol=1e-5)  # the last token sees all either way
    assert not np.allclose(plain[:, 0], full[:, 0], atol=1e-3)
    behind, within = inputs['key_00'].clone(), inputs['key_00'].clone()
    behind[:, 5:] = 1e4
    within[:, 4] = 1e1
    assert np.array_equal(logits(key_00=behind), plain)
    assert not np.allclose(logits(key_00=within), plain, atol=1e-3)


@pytest.mark.parametrize('precision', PRECISIONS)
def test_a_tile_that_is_masked_as_a_whole_makes_no_infinity(precision: str) -> None:
    """Kernels take powers of two, and begin with the largest number of the first tile."""
    allowed = torch.tensor([False] * 64 + [True])
    bias = bias_of(allowed, PRECISIONS[precision])
    assert bias.dtype == PRECISIONS[precision] and bias[-1] == 0
    powers = (bias.float() - 8) * math.log2(math.e)  # a score beside it
    assert powers.isfinite().all() and (bias - 8).isfinite().all()
    assert torch.softmax(bias.float(), 0).tolist() == [0] * 64 + [1]


def test_engines_are_asked_what_begins_a_session() -> None:
    specs, limits = graph_specs(tiny_config()), Limits.of(tiny_config(), context=300)
    empty = {question.spec.name: question.inputs
             for question in questions_in_service(specs, 'fp32', limits=limits)
             if 'used' in question.inputs and not question.inputs['used'].any()}
    assert {name: tuple(inputs['used'].shape) for name, inputs in empty.items()} == {
        'understand': (1,), 'flow': (2,)}
    assert all(inputs['key_00'].shape[1] == BUCKET for inputs in empty.values())


def test_flow_branches_do_not_mix() -> None:
    bundle = tiny_bundle()
    session = onnxruntime.InferenceSession(str(bundle.graph('flow')),
                                           providers=['CPUExecutionProvider'])
    inputs = example_inputs(bundle.specs()['flow'], 'fp32', branches=3, context=9)
    inputs['used'] = torch.tensor([9, 4, 2])
    shared = ('markers', 'tokens')
    (together,) = session.run(['velocity'], {k: v.numpy() for k, v in inputs.items()})
    for row, used in enumerate((9, 4, 2)):  # alone, and without the padding
        alone = {k: v if k in shared else v[row:row + 1] for k, v in inputs.items()}
        alone = {k: v[:, :used] if k.startswith(('key_', 'value_')) else v
                 for k, v in alone.items()}
        (one,) = session.run(['velocity'], {k: v.contiguous().numpy() for k, v in alone.items()})
        assert np.abs(one[0] - together[row]).max() < TOLERANCE * np.abs(one).max()


def test_half_precision_graphs_carry_half_precision_weights() -> None:
    spec = graph_specs(tiny_config())['understand']
    exact = eager('understand', example_inputs(spec, 'fp32'))
    path = half_understand()
    types = {entry.data_type for entry in onnx.load(str(path)).graph.initializer if entry.dims}
    assert onnx.TensorProto.FLOAT16 in types
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    feed = {key: value.numpy() for key, value in example_inputs(spec, 'fp16').items()}
    assert worst([value.astype(np.float32) for value in session.run(None, feed)], exact) < 0.03


def test_profiles_hold_every_size_that_the_network_allows() -> None:
    config = ModelConfig.official_7b()
    limits = Limits.of(config, context=20000)
    assert limits.tokens.max == 70**2 + 2 and limits.cells.max == 64**2
    assert limits.context.max == 79 * 256  # 20000, padded as the runtime pads contexts
    assert limits.branches == Span(1, 3, 3)
    assert Limits.from_dict(limits.to_dict()) == limits
    understand = graph_specs(config)['understand']
    prefill, decode = profiles_of(understand, limits, decode=True)
    assert decode['tokens'] == Span(1, 1, 1) and prefill['tokens'] == limits.tokens
    assert profiles_of(understand, limits) == [prefill]
    small = Limits.of(config, side=512)
    assert (small.cells.max, small.patches.max) == (32**2, 36**2)


@pytest.mark.parametrize('span', [(0, 1, 2), (3, 2, 4), (1, 5, 4)])
def test_spans_grow(span: tuple[int, int, int]) -> None:
    with pytest.raises(BadOption, match='must grow'):
        Span(*span)


def test_sizes_keep_the_names_they_have_on_disk() -> None:
    """Other names would make every engine that was built another one."""
    limits = Limits.of(tiny_config(), context=64)
    assert limits.to_dict()['context'] == {'low': 1, 'usual': 256, 'high': 256}
    assert Limits.from_dict(limits.to_dict()) == limits
    key = EngineKey.of(graph_specs(tiny_config())['understand'], model='m', precision='fp32',
                       limits=limits, flavour='f', version='v', gpu='any', arch='SM89',
                       options=BuildOptions(decode_profile=True))
    assert replace(key, format=3).name == 'understand-fp32-SM89-3a19b7abc4f908cd'
    assert key.name == 'understand-fp32-SM89-876179b16358fe22'


def test_a_bundle_is_read_back_or_refused(tmp_path: Path) -> None:
    bundle = tiny_bundle()
    again = Bundle.load(bundle.folder)
    assert again == bundle
    assert config_of(bundle.config.to_dict()) == bundle.config
    with pytest.raises(BadCheckpoint, match='no exported graphs here'):
        Bundle.load(tmp_path)
    for file in bundle.folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / 'flow.onnx').unlink()
    (tmp_path / 'vision.onnx.data').unlink()
    (tmp_path / 'vision.onnx.data').write_bytes(b'cut short')
    with pytest.raises(BadCheckpoint, match='incomplete; got flow.onnx, vision.onnx.data; remedy'):
        Bundle.load(tmp_path)


def test_an_export_that_is_there_is_not_made_again() -> None:
    runtime, bundle, told = exported_runtime(), tiny_bundle(), []
    again = export_bundle(runtime.network, runtime.vae, bundle.folder, specials=bundle.specials,
                          vocabulary=bundle.vocabulary, precision='fp32',
                          progress=lambda *what: told.append(what))
    assert again == bundle and told == [('', 6, 6)]


def test_one_changed_weight_changes_the_fingerprint() -> None:
    runtime = tiny_runtime()
    before = weights_digest((runtime.network, runtime.vae))
    assert before == weights_digest((exported_runtime().network, exported_runtime().vae))
    with torch.no_grad():
        runtime.network.vae2llm.bias[3] += 1e-3
    assert weights_digest((runtime.network, runtime.vae)) != before
