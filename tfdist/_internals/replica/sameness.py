"""Tells which tensors of a traced step have the same value on all replicas, because of what they are made of.

What is made of sums over the replicas, of constants and of variables alone is the same everywhere. So gradients that a
user has summed and clipped are not summed again, and a state that all replicas write alike needs no exchange.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import tensorflow as tf


class Sameness:
    """What is known of the tensors of one step on one replica."""

    def __init__(self) -> None:
        self._same: dict[int, Any] = {}  # the tensors are kept, so that no other gets their id
        self._handles: dict[int, Any] = {}

    def trust(self, variables: Iterable[Any]) -> None:
        """Notes that these Keras variables have the same value on all replicas."""
        if tf.executing_eagerly():
            return
        for variable in variables:
            if variable.synchronization != "on_read" and variable._value is not None:
                handle = variable._value.handle
                self._handles[id(handle)] = handle

    def doubt(self, variable: Any) -> None:
        """Notes that a variable may have been written otherwise on another replica."""
        if not tf.executing_eagerly() and variable._value is not None:
            self._handles.pop(id(variable._value.handle), None)

    def mark(self, values: Sequence[Any]) -> None:
        """Notes that tensors or IndexedSlices have the same value on all replicas."""
        for value in values:
            for tensor in _parts(value):
                self._same[id(tensor)] = tensor

    def holds(self, value: Any) -> bool:
        """Returns whether a tensor or IndexedSlices is known to have the same value on all replicas.

        It is False where this is not known: in eager execution of all but what was marked itself.
        """
        return all(self._is_same(tensor) for tensor in _parts(value))

    def _is_same(self, tensor: Any) -> bool:
        seen: dict[int, Any] = {}
        waiting = [tensor]
        while waiting:
            tensor = waiting.pop()
            if id(tensor) in self._same or id(tensor) in seen:
                continue
            seen[id(tensor)] = tensor
            sources = self._sources(tensor)
            if sources is None:
                return False
            waiting.extend(sources)
        self._same.update(seen)
        return True

    def _sources(self, tensor: Any) -> Sequence[Any] | None:
        """Returns of what a tensor is made; None if it may differ between replicas by itself."""
        if isinstance(tensor, tf.__internal__.EagerTensor):
            # A constant that the step has captured. What eager execution computes is not known.
            return None if tf.executing_eagerly() or tensor.dtype == tf.resource else ()
        operation = tensor.op
        if operation.type == "Placeholder":
            outer = _captured(tensor)
            return None if outer is None else (outer,)
        if operation.type == "ReadVariableOp":
            return () if self._is_trusted(operation.inputs[0]) else None
        if operation.op_def is None or operation.op_def.is_stateful:
            return None
        if "Random" in operation.type:  # each replica folds its number into the seed
            return None
        return list(operation.inputs)

    def _is_trusted(self, handle: Any) -> bool:
        while handle is not None and id(handle) not in self._handles:
            if isinstance(handle, tf.__internal__.EagerTensor) or handle.op.type != "Placeholder":
                return False
            handle = _captured(handle)
        return handle is not None


def _parts(value: Any) -> list[Any]:
    if isinstance(value, tf.IndexedSlices):
        return [value.values, value.indices]
    return [value] if tf.is_tensor(value) else []


def _captured(placeholder: Any) -> Any:
    """Returns the tensor of an outer function that a placeholder stands for; None if it is an argument."""
    for outer, inner in getattr(placeholder.graph, "captures", ()):
        if inner is placeholder:
            return outer
    return None
