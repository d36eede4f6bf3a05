"""Tensors of the host that a step uses: what a layer made in `__init__` or `adapt`, or a loss has in its closure.

DTensor takes none of them but scalars: "got a regular tensor for input 4 (shape [1,8]) but was expecting a DTensor".
`keras.layers.Normalization` keeps its mean and variance so.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf
from tensorflow.experimental import dtensor
from tensorflow.python.framework.ops import EagerTensor

from tfdist._internals.mesh.variable import place


@contextmanager
def constants_on(mesh: dtensor.Mesh) -> Iterator[None]:
    """While open, the function that is being traced takes tensors of the host whole on every device of the mesh."""
    graph: Any = tf.compat.v1.get_default_graph()
    stock = graph.capture
    # With the tensor itself, so that no other gets its id.
    placed: dict[int, tuple[Any, Any]] = {}

    def capture(tensor: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(tensor, EagerTensor) or tensor.dtype in (tf.resource, tf.variant):
            return stock(tensor, *args, **kwargs)
        if id(tensor) not in placed:
            with tf.init_scope():
                placed[id(tensor)] = tensor, _on(mesh, tensor)
        return stock(placed[id(tensor)][1], *args, **kwargs)

    graph.capture = capture
    try:
        yield
    finally:
        graph.capture = stock


def _on(mesh: dtensor.Mesh, tensor: Any) -> Any:
    if dtensor.is_dtensor(tensor) or tensor.dtype == tf.string:
        return tensor
    return place(tensor.numpy(), dtensor.Layout.replicated(mesh, tensor.shape.rank))
