"""An engine that says how its loading goes, and is ready when a file ``go`` appears."""

from __future__ import annotations

import time
from pathlib import Path

from cooper_ros.config import CooperConfig
from cooper_ros.engine.notices import Notice, Tell
from support.scripted import ScriptedEngine

CHOICE = 'tensorrt passed over: there is no GPU; onnx chosen: the fastest here'


class PreparingEngine(ScriptedEngine):
    """Loads as one does whose graphs must be exported first."""

    def __init__(self, folder: str, config: CooperConfig, tell: Tell) -> None:
        super().__init__(folder, config)
        tell(Notice('runtime onnx chosen', choice=CHOICE))
        tell(Notice('preparing onnx: graph flow', preparing='onnx: graph flow (50%)',
                    choice=CHOICE))
        while not (Path(folder) / 'go').exists():
            time.sleep(0.02)
        tell(Notice(runtime='onnx', choice=CHOICE))
