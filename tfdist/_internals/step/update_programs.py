"""The update of one variable as a program that XLA compiles; variables that are updated alike share it.

An optimizer's `update_step` is a chain of small operations, each of which reads and writes arrays as large as the
variable. XLA makes one pass of them. A program for all variables together would take XLA many times as long to compile
as one for each shape, and runs no faster.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.framework.func_graph import FuncGraph

# What works on each element by itself.
_ELEMENTWISE = """
    Abs Add AddN AddV2 AssignAddVariableOp AssignSubVariableOp AssignVariableOp Cast ClipByValue Const Div DivNoNan
    Equal Exp FloorDiv FloorMod Greater GreaterEqual Identity IdentityN IsFinite IsInf IsNan Less LessEqual Log Log1p
    LogicalAnd LogicalNot LogicalOr Maximum Minimum Mul Neg NoOp NotEqual OnesLike Placeholder Pow ReadVariableOp
    RealDiv Reciprocal Relu Rsqrt Select SelectV2 Sigmoid Sign Sqrt Square SquaredDifference StopGradient Sub Tanh
    ZerosLike
"""
_OTHERS = """
    BatchMatMulV2 BroadcastTo ConcatV2 Cumsum ExpandDims Fill L2Loss MatMul Max Mean Min Pack Prod Range Reshape Shape
    Size Slice Squeeze StridedSlice Sum Tile Transpose Unpack VariableShape Where
"""
ELEMENTWISE = frozenset(_ELEMENTWISE.split())

# What XLA compiles, and the updates of Keras's optimizers are made of. With anything else in it, such as a function in
# Python, an update stays as it is.
_COMPILED = ELEMENTWISE | frozenset(_OTHERS.split())

# Optimizer -> serialized graph of an update -> the program.
_programs: weakref.WeakKeyDictionary[Any, dict[bytes, Any]] = weakref.WeakKeyDictionary()


def run_program(optimizer: Any, body: Callable[..., None], inputs: Sequence[tf.Tensor]) -> bool:
    """Runs what updates a variable as a program of the optimizer; does nothing if XLA cannot compile it.

    Args:
        optimizer: Holds the programs.
        body: Updates a variable, given tensors like `inputs`. It may be traced and not run.
        inputs: What changes from step to step and is not read from a variable.

    Returns:
        Whether it ran.
    """
    specs = [tf.TensorSpec(one.shape, one.dtype) for one in inputs]
    graph = traced(body, specs)
    definition = graph.as_graph_def()
    if any(node.op not in _COMPILED for node in definition.node):
        return False
    programs = _programs.setdefault(optimizer, {})
    key = definition.SerializeToString(deterministic=True)
    if key not in programs:
        compiled = tf.function(body, jit_compile=True, autograph=False)
        programs[key] = compiled.get_concrete_function(*specs)
    # The program was traced for the first variable that is updated so. It is given what it would capture here.
    programs[key]._call_flat(list(inputs), [outer for outer, _ in graph.captures])
    return True


def num_programs(optimizer: Any) -> int:
    """Returns how many programs an optimizer has."""
    return len(_programs.get(optimizer, ()))


def traced(body: Callable[..., None], specs: Sequence[tf.TensorSpec]) -> FuncGraph:
    """Returns the graph of a function, whose captures are in the order in which it comes upon them."""
    graph = FuncGraph("update")
    with graph.as_default():
        inputs = [tf.compat.v1.placeholder(spec.dtype, spec.shape) for spec in specs]
        graph.inputs.extend(inputs)
        body(*inputs)
    return graph
