"""How group normalisation is written into exported graphs: in float32, whatever the weights are.

The exporter's own form is an ``InstanceNormalization`` of the weights' number type. TensorRT up to
10.3 (JetPack 6) reads it in float32 and float16 only: a bfloat16 graph ends in "Inputs must be
either FLOAT or FLOAT16". Statistics of half-precision numbers belong in float32 anyway, as PyTorch
computes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir


def group_norm(x: onnx_ir.Value, num_groups: int, weight: onnx_ir.Value, bias: onnx_ir.Value,
               eps: float = 1e-5, cudnn_enabled: bool = True) -> onnx_ir.Value:
    """``group_norm(x)`` of ``[B, C, H, W]`` with a weight and a bias per channel."""
    import onnx_ir
    from onnxscript import opset20 as op
    float32 = onnx_ir.DataType.FLOAT
    wide = op.Cast(x, to=float32)
    groups = op.Reshape(wide, op.Constant(value_ints=[0, num_groups, -1]))  # [B, G, C / G * H * W]
    normal = op.Reshape(op.InstanceNormalization(
        groups, op.Constant(value_floats=[1.0] * num_groups),
        op.Constant(value_floats=[0.0] * num_groups), epsilon=eps), op.Shape(x))
    each = op.Constant(value_ints=[-1, 1, 1])
    scaled = op.Mul(normal, op.Reshape(op.Cast(weight, to=float32), each))
    return op.CastLike(op.Add(scaled, op.Reshape(op.Cast(bias, to=float32), each)), x)
