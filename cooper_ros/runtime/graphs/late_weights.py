"""Weights of a graph that are read when they are written, one at a time, and kept by nobody.

The optimiser of the exporter transposes the weights of linear layers beforehand and holds all of
them until the file is written; its rules hold the graph they saw last for as long as the process
lives. Both would keep a whole checkpoint in memory, or mapped into it.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Callable

from torch import Tensor, nn

if TYPE_CHECKING:
    import onnx_ir

Read = Callable[[Tensor], Tensor]  # from a weight, perhaps without numbers, to its numbers
FOLDED = 8192  # numbers; what the optimiser of onnxscript may compute with beforehand


def read_when_written(model: onnx_ir.Model, module: nn.Module, read: Read) -> None:
    """Make every weight of a graph one that is read when its numbers are asked for, not kept.

    Small ones, which the optimiser may compute with, are read at once: it would not say which of
    them cannot be read.

    Args:
        model: the graph as exported, not optimised yet.
        module: what it was exported from.
        read: numbers of one of the module's weights.
    """
    weights = module.state_dict(keep_vars=True)
    for name, value in list(model.graph.initializers.items()):
        if name in weights and not _transposed(model.graph, value, weights[name], read):
            small = weights[name].numel() <= FOLDED
            value.const_value = (_numbers(read, weights[name], name, ()) if small
                                 else _lazy(value, weights[name], read))


def forget_weights(model: onnx_ir.Model) -> None:
    """Take the weights from a graph that has been written; rules of the optimiser hold it."""
    for value in model.graph.initializers.values():
        value.const_value = None


def _transposed(graph: onnx_ir.Graph, value: onnx_ir.Value, weight: Tensor, read: Read) -> bool:
    """Put the transposed weight in place of weight and transposition, if that is its only use."""
    import onnx_ir
    users = [use.node for use in value.uses()]
    if [node.op_type for node in users] != ['Transpose'] or value.is_graph_output():
        return False
    node, perm = users[0], tuple(users[0].attributes['perm'].as_ints())
    turned = onnx_ir.Value(name=node.outputs[0].name, type=value.type,
                           shape=onnx_ir.Shape([weight.shape[at] for at in perm]))
    turned.const_value = _lazy(turned, weight, read, perm)
    graph.register_initializer(turned)
    onnx_ir.convenience.replace_all_uses_with(node.outputs[0], turned)
    graph.remove(node, safe=True)
    graph.initializers.pop(value.name)
    return True


def _lazy(value: onnx_ir.Value, weight: Tensor, read: Read,
          perm: tuple[int, ...] = ()) -> onnx_ir.LazyTensor:
    import onnx_ir
    assert value.dtype is not None and value.shape is not None and value.name is not None
    return onnx_ir.LazyTensor(functools.partial(_numbers, read, weight, value.name, perm),
                              value.dtype, value.shape, name=value.name)


def _numbers(read: Read, weight: Tensor, name: str,
             perm: tuple[int, ...]) -> onnx_ir.TensorProtocol:
    from onnx_ir.tensor_adapters import TorchTensor
    found = read(weight).detach()
    if found.numel() <= FOLDED:
        found = found.clone()  # the optimiser may keep a view, which keeps the whole file mapped
    return TorchTensor((found.permute(perm) if perm else found).contiguous(), name)
