"""The update of one variable as a program that XLA compiles; variables that are updated alike share it.

An optimizer's `update_step` is a chain of small operations, each of which reads and writes arrays as large as the
variable. XLA makes one pass of them. A program for all variables together would take XLA many times as long to compile
as one for each shape, and runs no faster.

A program writes in place. Where the update is divided among replicas, it returns the new values instead: a variable
that shares its memory with the copies of others cannot be written in place, and XLA would copy it first.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.framework.func_graph import FuncGraph

from tfdist._internals.contract import Division

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

_ASSIGNS = {
    "AssignVariableOp": lambda old, value: value,
    "AssignAddVariableOp": lambda old, value: old + value,
    "AssignSubVariableOp": lambda old, value: old - value,
}

# Optimizer -> serialized graph of an update, and whether it returns what is new -> the program.
_programs: weakref.WeakKeyDictionary[Any, dict[tuple[bytes, bool], Any]] = weakref.WeakKeyDictionary()


def run_program(
    optimizer: Any, body: Callable[..., None], inputs: Sequence[tf.Tensor], division: Division | None = None
) -> bool:
    """Runs what updates a variable as a program of the optimizer; does nothing if XLA cannot compile it.

    Args:
        optimizer: Holds the programs.
        body: Updates a variable, given tensors like `inputs`. It may be traced and not run.
        inputs: What changes from step to step and is not read from a variable.
        division: Who makes the update; None if every replica does.

    Returns:
        Whether it ran, here or on the replica whose part it is.
    """
    specs = [tf.TensorSpec(one.shape, one.dtype) for one in inputs]
    graph = traced(body, specs)
    if any(operation.type not in _COMPILED for operation in graph.get_operations()):
        return False
    if division is None:
        # The program was traced for the first variable that is updated so. It is given what it would capture here.
        program = _program(optimizer, graph, False, lambda: _concrete(body, specs))
        program._call_flat(list(inputs), [outer for outer, _ in graph.captures])
    elif division.is_own(written(graph)):
        assign_all(written(graph), new_values(optimizer, graph, inputs))
    return True


def new_values(optimizer: Any, graph: FuncGraph, inputs: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Runs a program that returns what the graph of an update would assign, in the order of `written`."""
    captured = [value_of(outer) if outer.dtype == tf.resource else outer for outer, _ in graph.captures]
    given = [*inputs, *captured]

    def compute(*values: tf.Tensor) -> list[tf.Tensor]:
        return replayed(graph, values[: len(inputs)], values[len(inputs) :])

    specs = [tf.TensorSpec(one.shape, one.dtype) for one in given]
    found: list[tf.Tensor] = _program(optimizer, graph, True, lambda: _concrete(compute, specs))(*given)
    return found


def _program(optimizer: Any, graph: FuncGraph, returns: bool, build: Callable[[], Any]) -> Any:
    programs = _programs.setdefault(optimizer, {})
    key = graph.as_graph_def().SerializeToString(deterministic=True), returns
    if key not in programs:
        programs[key] = build()
    return programs[key]


def _concrete(body: Callable[..., Any], specs: Sequence[tf.TensorSpec]) -> Any:
    return tf.function(body, jit_compile=True, autograph=False).get_concrete_function(*specs)


def dtype_of(handle: Any) -> Any:
    """Returns the dtype of the variable that a handle leads to."""
    return tf.as_dtype(handle._handle_data.shape_and_type[0].dtype)


def value_of(handle: Any) -> tf.Tensor:
    """Returns the value of the variable that a handle leads to."""
    return tf.raw_ops.ReadVariableOp(resource=handle, dtype=dtype_of(handle))


def assign_all(handles: Sequence[Any], values: Sequence[tf.Tensor]) -> None:
    """Writes values to the variables that handles lead to."""
    for handle, value in zip(handles, values, strict=True):
        tf.raw_ops.AssignVariableOp(resource=handle, value=value)


def written(graph: FuncGraph) -> list[Any]:
    """Returns the handles of the variables that a graph assigns."""
    names = {one.inputs[0].name for one in graph.get_operations() if one.type in _ASSIGNS}
    return [outer for outer, inner in graph.captures if inner.name in names]


def replayed(graph: FuncGraph, inputs: Sequence[tf.Tensor], captured: Sequence[Any]) -> list[tf.Tensor]:
    """Runs the operations of a graph, in their order; returns what it assigns, in the order of `written`.

    Args:
        graph: Of an update.
        inputs: In place of the graph's own.
        captured: In place of what it captures. For the handle of a variable that is the variable's value, or those rows
            of it that are updated; or the handle, if the variable is only read.
    """
    values = {inner.name: given for inner, given in zip(graph.inputs, inputs, strict=False)}
    values |= {inner.name: given for (_, inner), given in zip(graph.captures, captured, strict=True)}
    state = {
        inner.name: values[inner.name]
        for _, inner in graph.captures
        if inner.dtype == tf.resource and values[inner.name].dtype != tf.resource
    }
    assigned = dict[str, tf.Tensor]()
    for operation in graph.get_operations():
        names = [tensor.name for tensor in operation.inputs]
        if operation.type in ("Placeholder", "NoOp"):
            continue
        if names and names[0] in state:
            if operation.type in _ASSIGNS:
                state[names[0]] = _ASSIGNS[operation.type](state[names[0]], values[names[1]])
                assigned[names[0]] = state[names[0]]
                continue
            (output,) = operation.outputs
            is_read = operation.type == "ReadVariableOp"
            values[output.name] = state[names[0]] if is_read else tf.shape(state[names[0]], output.dtype)
            continue
        copy = tf.compat.v1.get_default_graph().create_op(
            operation.type,
            [values[name] for name in names],
            [tensor.dtype for tensor in operation.outputs],
            attrs={key: value for key, value in operation.node_def.attr.items() if key != "_output_shapes"},
        )
        for mine, theirs in zip(operation.outputs, copy.outputs, strict=True):
            values[mine.name] = theirs
    return [assigned[inner.name] for _, inner in graph.captures if inner.name in assigned]


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
