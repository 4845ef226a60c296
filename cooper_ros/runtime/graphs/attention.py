"""How attention is written into exported graphs.

The exporter's own form below opset 23 multiplies queries *and* keys by the root of the scale.
TensorRT 10.7 fused exactly that into a kernel with wrong results (NVIDIA/TensorRT issues 4333 and
4328); with the whole scale on the queries, which is how it is written here, it did not.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir


def attention(query: onnx_ir.Value, key: onnx_ir.Value, value: onnx_ir.Value,
               attn_mask: onnx_ir.Value | None = None, dropout_p: float = 0.0,
               is_causal: bool = False, scale: float | None = None,
               enable_gqa: bool = False) -> onnx_ir.Value:
    """``softmax((q * scale) @ k^T + mask) @ v`` for ``[B, H, T, d]``; a mask is added.

    Raises:
        NotImplementedError: something is asked for that no graph here needs.
    """
    import onnx_ir
    from onnxscript import opset20 as op
    boolean = attn_mask is not None and attn_mask.dtype == onnx_ir.DataType.BOOL
    if dropout_p or is_causal or enable_gqa or boolean:
        raise NotImplementedError('attention with dropout, a boolean mask or grouped heads')
    scale = scale or 1 / math.sqrt(int(query.shape[-1]))
    scores = op.MatMul(op.Mul(query, op.CastLike(op.Constant(value_float=scale), query)),
                       op.Transpose(key, perm=[0, 1, 3, 2]))
    if attn_mask is not None:
        scores = op.Add(scores, attn_mask)
    return op.MatMul(op.Softmax(scores, axis=-1), value)
