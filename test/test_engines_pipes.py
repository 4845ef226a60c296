"""A pipe in the place of a file of the cache: whoever opens it waits for a writer, for ever."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path
from typing import Callable, TypeVar

import pytest
from model_folder import write_model_folder
from support.exported import exported_runtime, tiny_bundle
from support.fake_tensorrt import Cache, Device, plan_of
from test_engines_runner import filled
from test_onnx_runtime import near

from cooper_ros.runtime.engines.plan import model_fingerprint
from cooper_ros.runtime.engines.runner import load_tensorrt_runtime
from cooper_ros.runtime.graphs.answers import ANSWERS, Answers
from cooper_ros.runtime.graphs.bundle import Bundle
from cooper_ros.runtime.graphs.probe import questions

SECONDS = 60
Made = TypeVar('Made')


def promptly(call: Callable[[], Made]) -> Made:
    """What a call gives, once it has come to an end in another process, which can be killed."""
    child = multiprocessing.get_context('fork').Process(target=call)
    child.start()
    child.join(SECONDS)
    waits = child.is_alive()
    child.kill()
    child.join()
    assert not waits and child.exitcode == 0
    return call()


def pipe(path: Path) -> Path:
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    return path


def test_fingerprints_are_made_again(tmp_path: Path) -> None:
    folders, memory = [write_model_folder(tmp_path / 'model')], tmp_path / 'fingerprints.json'
    wanted = model_fingerprint(folders, memory)
    pipe(memory)
    assert promptly(lambda: model_fingerprint(folders, memory)) == wanted and memory.is_file()


def test_kernels_are_compiled_again(device: Device, tmp_path: Path,
                                    caplog: pytest.LogCaptureFixture) -> None:
    plan = plan_of(device, tiny_bundle())
    load_tensorrt_runtime(plan, Cache(plan, tmp_path)).forget()
    files = [pipe(path) for path in tmp_path.iterdir()]
    runtime = promptly(lambda: load_tensorrt_runtime(plan, Cache(plan, tmp_path)))
    assert caplog.text.count('is no regular file') == len(files) == 6
    near(filled(runtime).step(0, 7), filled(exported_runtime()).step(0, 7))
    runtime.forget()
    assert all(path.is_file() for path in files)


def test_the_network_is_asked_again(tmp_path: Path) -> None:
    bundle = Bundle(tmp_path, tiny_bundle().config, tiny_bundle().specials, 260, 'fp32', 'a model')
    (question,) = questions({'latents': bundle.specs()['latents']}, 'fp32')
    path, asked = pipe(tmp_path / ANSWERS), []
    answers = promptly(lambda: Answers(bundle))
    answers.gather([question], lambda: lambda one: asked.append(one) or (one.inputs['x'],))
    assert asked == [question] and path.is_file()
