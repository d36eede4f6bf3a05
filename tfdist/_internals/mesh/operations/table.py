"""The table of a mesh's own operations: each is made of operations that DTensor can split.

DTensor can split some operations over the batch alone. They get inputs that are split over the batch alone, and whole
kernels. Without this an activation could reach them split over `model`, for example from a dense layer with split
columns, and DTensor would fail in the middle of the program with a message about its expander.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from keras import tree

from tfdist._internals.mesh.operations.arrays import concat, diag, digitize, flip, scatter
from tfdist._internals.mesh.operations.convolutions import conv, depthwise_conv, separable_conv
from tfdist._internals.mesh.operations.lookup import take
from tfdist._internals.mesh.operations.recurrent import rnn, time_distributed
from tfdist._internals.mesh.operations.slices import divide
from tfdist._internals.mesh.operations.windows import adaptive_average_pool, average_pool
from tfdist._internals.mesh.step import MeshStep

Operation = Callable[..., Any]


def _relaid(inputs: str, kernel: str | None = None) -> Operation:
    def operation(step: MeshStep, stock: Any, *args: Any, **kwargs: Any) -> Any:
        bound = inspect.signature(stock).bind(*args, **kwargs)
        given = bound.arguments
        given[inputs] = tree.map_structure(step.by_batch, given[inputs])
        if kernel is not None:
            given[kernel] = step.whole(given[kernel])
        # The output gets a layout too. Without it DTensor would carry the layout that the next operation wants into
        # this one.
        return step.by_batch(stock(*bound.args, **bound.kwargs))

    return operation


def _split(step: MeshStep, stock: Any, x: Any, indices_or_sections: Any, axis: int = 0) -> Any:
    if axis == 0:
        return stock(x, indices_or_sections, axis)
    # Each part gets its layout by an operation of its own; see `programs`.
    return [step.by_batch(part) for part in stock(step.by_batch(x), indices_or_sections, axis)]


OPERATIONS: dict[str, Operation] = {
    "conv": conv,
    "conv_transpose": _relaid("inputs", "kernel"),
    "max_pool": _relaid("inputs"),
    "average_pool": average_pool,
    "adaptive_average_pool": adaptive_average_pool,
    "adaptive_max_pool": _relaid("inputs"),
    "depthwise_conv": depthwise_conv,
    "separable_conv": separable_conv,
    "concat": concat,
    "divide": divide,
    "digitize": digitize,
    "pad": _relaid("x"),
    "split": _split,
    "take": take,
    "flip": flip,
    "diag": diag,
    "scatter": scatter,
    "resize": _relaid("images"),
    "rnn": rnn,
    "TimeDistributed": time_distributed,
}
