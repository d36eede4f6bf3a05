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
_ASSIGNS = {
    "AssignVariableOp": lambda old, value: value,
    "AssignAddVariableOp": lambda old, value: old + value,
    "AssignSubVariableOp": lambda old, value: old - value,
}
ELEMENTWISE = frozenset(_ELEMENTWISE.split())

# What XLA compiles, and the updates of Keras's optimizers are made of. With anything else in it, such as a function in
# Python, an update stays as it is.
_COMPILED = ELEMENTWISE | frozenset(_OTHERS.split())

# Optimizer -> serialized graph of an update -> the program.
_programs: weakref.WeakKeyDictionary[Any, dict[bytes, Any]] = weakref.WeakKeyDictionary()


def run_update(
    optimizer: Any,
    body: Callable[..., None],
    graph: FuncGraph,
    variable: Any,
    inputs: Sequence[tf.Tensor],
    shared: bool = False,
) -> None:
    """Runs what updates a variable as a program of the optimizer.

    Args:
        optimizer: Holds the programs.
        body: Updates the variable, given tensors like `inputs`. It may be traced and not run.
        graph: Of the body, which XLA can compile.
        variable: A `tf.Variable` on the device of this place.
        inputs: What changes from step to step and is not read from a variable.
        shared: Whether the variable has its memory in common with others. A program that writes it in place would have
            to copy it first; so the program returns the new value, in memory of its own.
    """
    if not shared:
        _run(optimizer, body, inputs, graph)
        return

    def compute(value: tf.Tensor, *others: tf.Tensor) -> tf.Tensor:
        captured = [value if outer is variable.handle else outer for outer, _ in graph.captures]
        return replayed(graph, others, captured)[variable.handle.ref()]

    given = [variable.read_value(), *inputs]
    variable.assign(_run(optimizer, compute, given, traced(compute, given)))


def _run(optimizer: Any, body: Callable[..., Any], inputs: Sequence[tf.Tensor], graph: FuncGraph) -> Any:
    """Runs a function as a program, given its graph."""
    programs = _programs.setdefault(optimizer, {})
    key = graph.as_graph_def().SerializeToString(deterministic=True)
    if key not in programs:
        compiled = tf.function(body, jit_compile=True, autograph=False)
        programs[key] = compiled.get_concrete_function(*_specs(inputs))
    # The program was traced for the first variable that is updated so. It is given what it would capture here.
    return programs[key]._call_flat(list(inputs), [outer for outer, _ in graph.captures])


def num_programs(optimizer: Any) -> int:
    """Returns how many programs an optimizer has."""
    return len(_programs.get(optimizer, ()))


def traced(body: Callable[..., Any], inputs: Sequence[Any]) -> FuncGraph:
    """Returns the graph of a function of tensors like `inputs`; its captures are in the order in which they are met."""
    graph = FuncGraph("update")
    with graph.as_default():
        given = [tf.compat.v1.placeholder(spec.dtype, spec.shape) for spec in _specs(inputs)]
        graph.inputs.extend(given)
        body(*given)
    return graph


def _specs(inputs: Sequence[Any]) -> list[tf.TensorSpec]:
    return [tf.TensorSpec(one.shape, one.dtype) for one in inputs]


def is_compilable(graph: FuncGraph) -> bool:
    """Returns whether XLA can compile an update."""
    return all(operation.type in _COMPILED for operation in graph.get_operations())


def written(graph: FuncGraph) -> list[Any]:
    """Returns the handles of the variables that an update assigns."""
    names = {one.inputs[0].name for one in graph.get_operations() if one.type in _ASSIGNS}
    return [outer for outer, inner in graph.captures if inner.name in names]


def replayed(graph: FuncGraph, inputs: Sequence[tf.Tensor], captured: Sequence[Any]) -> dict[Any, tf.Tensor]:
    """Runs the operations of an update, in their order, on values of variables.

    Args:
        graph: Of the update.
        inputs: In place of the graph's own.
        captured: In place of what the graph captures: itself, or for the handle of a variable its value, or a few rows.

    Returns:
        For the handle of each variable that was given as a value, and is assigned: what is assigned.
    """
    values = {inner.name: given for inner, given in zip(graph.inputs, inputs, strict=False)}
    values |= {inner.name: given for (_, inner), given in zip(graph.captures, captured, strict=True)}
    handles = {
        inner.name: outer
        for outer, inner in graph.captures
        if outer.dtype == tf.resource and values[inner.name].dtype != tf.resource
    }
    assigned = {}
    for operation in graph.get_operations():
        names = [tensor.name for tensor in operation.inputs]
        if operation.type == "Placeholder" or operation.type == "NoOp":
            continue
        if names and names[0] in handles:
            if operation.type in _ASSIGNS:
                values[names[0]] = _ASSIGNS[operation.type](values[names[0]], values[names[1]])
                assigned[names[0]] = values[names[0]]
                continue
            if operation.type == "ReadVariableOp":
                values[operation.outputs[0].name] = values[names[0]]
                continue
        copy = tf.compat.v1.get_default_graph().create_op(
            operation.type,
            [values[name] for name in names],
            [tensor.dtype for tensor in operation.outputs],
            attrs={key: value for key, value in operation.node_def.attr.items() if key != "_output_shapes"},
        )
        for mine, theirs in zip(operation.outputs, copy.outputs, strict=True):
            values[mine.name] = theirs
    return {handles[name].ref(): value for name, value in assigned.items()}
