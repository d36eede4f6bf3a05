"""Brings the rows that replicas predicted together, in all processes."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from keras.src.backend.tensorflow.trainer import concat

from tfdist._internals.replica.rows import THROUGH
from tfdist.errors import UnsupportedError


def gather_rows_of(strategy: Any, output: Any, num_processes: int) -> Any:
    """Returns the replicas' rows of one output, one after the other, in their order.

    Args:
        strategy: A strategy of replicas, in whose cross-replica context this is called.
        output: A tensor of each replica, the rows first.
        num_processes: Over how many processes the replicas are spread.

    Raises:
        UnsupportedError: Rows of several processes that are ragged or sparse, or have no dimension of rows.
    """
    local = strategy.experimental_local_results(output)
    if num_processes == 1:
        return concat(local)
    if not isinstance(local[0], tf.Tensor) or local[0].shape.rank == 0:
        raise UnsupportedError(
            f"predict over several workers gathers dense tensors with one row an example; the model gives {local[0]}. "
            "Convert it in the model, for example with .to_tensor(), or predict in one process."
        )
    dtype = local[0].dtype
    if dtype == tf.string:
        return _gather_text(strategy, output)
    if dtype in THROUGH:
        sent = strategy.run(lambda value: tf.cast(value, THROUGH[dtype]), args=(output,))
        return tf.cast(strategy.gather(sent, axis=0), dtype)
    return strategy.gather(output, axis=0)


def _gather_text(strategy: Any, output: Any) -> tf.Tensor:
    """Gathers the bytes of all strings as one vector of numbers, and the lengths that cut it."""

    def as_numbers(text: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        joined = tf.strings.reduce_join(tf.reshape(text, [-1]))
        return tf.strings.length(text), tf.cast(tf.io.decode_raw(joined, tf.uint8), tf.int32)

    lengths, codes = (strategy.gather(part, axis=0) for part in strategy.run(as_numbers, args=(output,)))
    characters = tf.gather(tf.constant([bytes([code]) for code in range(256)]), codes)
    by_string = tf.RaggedTensor.from_row_lengths(characters, tf.reshape(lengths, [-1]))
    return tf.reshape(tf.strings.reduce_join(by_string.to_tensor(b""), axis=-1), tf.shape(lengths))
