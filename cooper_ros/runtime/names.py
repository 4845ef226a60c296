"""Names of the runtimes, in the setting ``runtime`` and in what is prepared for them."""

from __future__ import annotations

AUTO, TORCH, COMPILE, ONNX = 'auto', 'torch', 'compile', 'onnx'
TENSORRT, TORCH_TENSORRT = 'tensorrt', 'torch_tensorrt'
