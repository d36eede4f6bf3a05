"""With `random_by_row`, every row gets the random numbers that it gets on one device, dropout masks included.

A replica then draws for the whole global batch, from the seed that all replicas share, and keeps its own rows: as many
times the drawing as there are replicas, for a run that equals the one on one device where it has dropout too. A draw
whose first dimension is not the number of rows, or is fixed in the model, is the same on all replicas, as it is the
same for all rows on one device.

On a mesh every device draws for the whole batch likewise and keeps its part. Without `random_by_row` DTensor has each
draw its own part alone, devices with the same part alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeGuard, cast

import tensorflow as tf
from keras.src.backend.tensorflow import random as backend_random

from tfdist._internals.registry import Patch
from tfdist._internals.replica.step import ReplicaStep, RowPosition, current_step
from tfdist.errors import UnsupportedError


def _draws_by_row(step: ReplicaStep | None) -> TypeGuard[ReplicaStep]:
    return step is not None and step.rows is not None


def _draw(step: ReplicaStep, shape: Any, draw: Callable[[Any], tf.Tensor]) -> tf.Tensor:
    """Returns this replica's rows of `draw(shape of the global batch)`."""
    if step.everywhere is not None:
        return step.everywhere(draw(shape))
    rows = cast(RowPosition, step.rows)
    if not tf.is_tensor(shape) and not (len(shape) and tf.is_tensor(shape[0])):
        with step.drawing_by_row():
            return draw(shape)
    shape = tf.stack(
        [tf.cast(size, tf.int64) for size in (tf.unstack(shape) if tf.is_tensor(shape) else shape)]
    )
    if step.in_compiled:
        raise UnsupportedError(
            "random_by_row draws for as many rows as the global batch happens to have, and jit_compile=True cannot "
            "compile that. Compile the model with jit_compile=False, or leave random_by_row off."
        )
    by_row = tf.equal(shape[0], rows.size)
    start = tf.where(by_row, rows.first, tf.zeros_like(rows.first))
    with step.drawing_by_row():
        whole = draw(tf.concat([[tf.where(by_row, step.num_global, shape[0])], shape[1:]], 0))
    # A replica without rows of its own, or with padding, asks for more rows than the global batch has.
    missing = tf.maximum(start + shape[0] - tf.shape(whole, out_type=tf.int64)[0], 0)
    padding = tf.concat([[[0, missing]], tf.zeros([tf.rank(whole) - 1, 2], tf.int64)], 0)
    own = tf.pad(whole, padding)[start : start + shape[0]]
    return tf.ensure_shape(own, [None, *whole.shape[1:]])


def _by_row(stock: Any) -> Any:
    def draw_for_rows(shape: Any, *args: Any, **kwargs: Any) -> Any:
        step = current_step()
        if not _draws_by_row(step):
            return stock(shape, *args, **kwargs)
        return _draw(step, shape, lambda whole: stock(whole, *args, **kwargs))

    return draw_for_rows


def _dropout_by_row(stock: Any) -> Any:
    def dropout(inputs: Any, rate: float, noise_shape: Any = None, seed: Any = None) -> Any:
        step = current_step()
        if not _draws_by_row(step) or rate in (0.0, 1.0):
            return stock(inputs, rate, noise_shape, seed)
        shape = backend_random._get_concrete_noise_shape(inputs, noise_shape)
        # What dropout makes of ones: 0 where it drops, the scale of what is left elsewhere.
        kept = _draw(step, shape, lambda whole: stock(tf.ones(whole, inputs.dtype), rate, None, seed))
        return tf.where(tf.equal(kept, 0), tf.zeros([], inputs.dtype), inputs * kept)

    return dropout


PATCHES = tuple(
    Patch(
        name="random_by_row",
        owner=backend_random,
        attribute=attribute,
        make=_dropout_by_row if attribute == "dropout" else _by_row,
        reason="with random_by_row, a row's random numbers must not depend on the number of replicas",
        upstream="no thread found",
    )
    for attribute in ("dropout", "normal", "truncated_normal", "uniform", "randint")
)
