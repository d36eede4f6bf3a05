"""Looks into compiled training functions: how often they were traced, and which collectives they have."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import tensorflow as tf

from tfdist._internals.mesh.programs import expanded_functions

# Traced functions are found through closures, and through attributes of these classes alone.
_FOLLOWED = (
    "__wrapped__",
    "__func__",
    "func",
    "__self__",
    "_python_function",
    "python_function",
    "_step",
    "_next_step",
    "_several_steps",
)


def traced_functions(function: Any) -> list[Any]:
    """Returns the `tf.function` that `function` is, or those in its closure, at any depth.

    Args:
        function: A function such as `model.train_function` after `fit`.
    """
    found, seen = [], set()
    pending = [function]
    while pending:
        current = pending.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        if hasattr(current, "experimental_get_tracing_count"):
            found.append(current)
        pending.extend(_neighbours(current))
    return found


def _neighbours(current: Any) -> Iterator[Any]:
    for cell in getattr(current, "__closure__", None) or ():
        try:
            content = cell.cell_contents
        except ValueError:
            continue
        if callable(content):
            yield content
    for name in _FOLLOWED:
        value = getattr(current, name, None)
        if callable(value) and not hasattr(value, "layers"):
            yield value


def count_collectives(model: Any) -> int:
    """Returns the number of collective operations in the largest graph of the model's training function.

    The operations of all local devices count: if two devices reduce one pack, that is two operations.

    Raises:
        ValueError: The model has not been trained yet.
    """
    counts = [
        _collectives(concrete.graph.as_graph_def())
        for function in traced_functions(model.train_function)
        for concrete in function._list_all_concrete_functions()
    ]
    if not counts:
        raise ValueError("The model has no traced training function; count after the first `fit`.")
    return max(counts)


def is_collective(op: str) -> bool:
    """Returns whether an operation of this type communicates. Operations that assign keys of collectives do not."""
    return op.startswith(("Collective", "Nccl")) and not op.startswith("CollectiveAssign")


def _collectives(graph: Any) -> int:
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    return sum(is_collective(node.op) for node in nodes)


class MeshCollective(NamedTuple):
    """A collective that DTensor put into a function.

    Attributes:
        name: Where it comes from, such as `gradient_tape/.../MatMul/DTensorAllReduceOp`.
        shape: The shape of what one device gives.
        num_bytes: The bytes that one device gives.
    """

    name: str
    shape: tuple[int, ...]
    num_bytes: int

    @property
    def part(self) -> str:
        """The part of a training step that it belongs to: `forward`, `backward` or `update`."""
        if self.name.startswith(
            ("adam", "Reshape")
        ):  # the optimizer, and sparse gradients on their way to it
            return "update"
        return "backward" if self.name.startswith("gradient_tape") else "forward"


def mesh_collectives(run: Callable[[], Any]) -> list[MeshCollective]:
    """Returns the collectives of one device in the functions that DTensor compiles while `run` runs."""
    before = set(expanded_functions())
    run()
    found = []
    for name, function in expanded_functions().items():
        for node in function.node_def if name not in before else ():
            if is_collective(node.op):
                (given,) = node.attr["_output_shapes"].list.shape
                shape = tuple(dimension.size for dimension in given.dim)
                size = tf.as_dtype(node.attr["T"].type).size
                found.append(MeshCollective(node.name, shape, size * math.prod(shape)))
    return found
