"""The update of one variable as a program that XLA compiles; variables that are updated alike share it.

An optimizer's `update_step` is a chain of small operations, each of which reads and writes arrays as large as the
variable. XLA makes one pass of them. A program for all variables together would take XLA many times as long to compile
as one for each shape, and runs no faster.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow.python.framework.func_graph import FuncGraph

# Where a variable is smaller than this, calling a program costs as much as it saves.
_SMALLEST = 2**14

# What XLA compiles, and the updates of Keras's optimizers are made of. With anything else in it, such as a function in
# Python, an update stays as it is.
_OPERATIONS = """
    Abs Add AddN AddV2 AssignAddVariableOp AssignSubVariableOp AssignVariableOp BatchMatMulV2 BroadcastTo Cast
    ClipByValue ConcatV2 Const Cumsum Div DivNoNan Equal Exp ExpandDims Fill FloorDiv FloorMod Greater GreaterEqual
    Identity IdentityN IsFinite IsInf IsNan L2Loss Less LessEqual Log Log1p LogicalAnd LogicalNot LogicalOr MatMul
    Max Maximum Mean Min Minimum Mul Neg NoOp NotEqual OnesLike Pack Placeholder Pow Prod Range ReadVariableOp
    RealDiv Reciprocal Relu Reshape Rsqrt Select SelectV2 Shape Sigmoid Sign Size Slice Sqrt Square
    SquaredDifference Squeeze StopGradient StridedSlice Sub Sum Tanh Tile Transpose Unpack VariableShape Where
    ZerosLike
"""

_COMPILED = frozenset(_OPERATIONS.split())

# Optimizer -> serialized graph of an update -> the program.
_programs: weakref.WeakKeyDictionary[Any, dict[bytes, Any]] = weakref.WeakKeyDictionary()


def update_by_program(
    optimizer: Any,
    update: Callable[[Any, Any, Any], None],
    variable: Any,
    gradient: Any,
    learning_rate: tf.Tensor,
) -> bool:
    """Updates a variable by a program of the optimizer; does nothing where none can or should be made.

    Args:
        optimizer: Holds the programs.
        update: Updates a variable, given that, its gradient, and the learning rate.
        variable: A `tf.Variable` on the device of this place.
        gradient: A tensor of its shape.
        learning_rate: Scalar.

    Returns:
        Whether it was updated.
    """
    if not variable.shape.is_fully_defined() or variable.shape.num_elements() < _SMALLEST:
        return False
    specs = [tf.TensorSpec(one.shape, one.dtype) for one in (gradient, learning_rate)]

    def body(own_gradient: tf.Tensor, own_rate: tf.Tensor) -> None:
        update(variable, own_gradient, own_rate)

    captures, graph = _traced(body, specs)
    if any(node.op not in _COMPILED for node in graph.node) or len(graph.library.function):
        return False
    programs = _programs.setdefault(optimizer, {})
    key = graph.SerializeToString(deterministic=True)
    if key not in programs:
        compiled = tf.function(body, jit_compile=True, autograph=False)
        programs[key] = compiled.get_concrete_function(*specs)
    # The program was traced for the first variable that is updated so. It is given what it would capture here.
    programs[key]._call_flat([gradient, learning_rate], captures)
    return True


def _traced(body: Callable[..., None], specs: list[tf.TensorSpec]) -> tuple[list[tf.Tensor], Any]:
    """Returns what a function captures, in the order in which it comes upon it, and its graph."""
    graph = FuncGraph("update")
    with graph.as_default():
        body(*(tf.compat.v1.placeholder(spec.dtype, spec.shape) for spec in specs))
    return [outer for outer, _ in graph.captures], graph.as_graph_def()
