"""A few rows of a placed batch: on the replicas as a step takes them, and all of them together on the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from keras import tree
from keras.src.backend.tensorflow.trainer import concat
from tensorflow.python.distribute.distribute_utils import regroup

from tfdist._internals.contract import Sample
from tfdist._internals.replica.cut import LocalPieces, ReplicaBatch
from tfdist._internals.rows import count_rows, first_rows

# Two rows a replica, and one more: a number that no number of replicas above one divides.
_ROWS_EACH = 2


def sample(strategy: Any, batch: Any, pieces: Sequence[ReplicaBatch], has_fixed_rows: bool) -> Sample:
    """Returns a few rows of a batch.

    Args:
        strategy: The strategy of replicas.
        batch: The placed batch.
        pieces: Its piece on each replica of this process.
        has_fixed_rows: Whether a step takes pieces of this size only. Then all rows are taken, unless padding may stand
            in for some.
    """
    first = strategy.process_index * len(pieces)
    total, num_replicas = int(pieces[0].num_global), strategy.num_replicas_in_sync
    taken = total
    if not has_fixed_rows or strategy.pads_batches:
        taken = min(total, _ROWS_EACH * num_replicas + 1)
    starts = [replica * taken // num_replicas for replica in range(num_replicas + 1)]
    sizes = tuple(end - start for start, end in zip(starts, starts[1:], strict=False))
    own = sizes[first : first + len(pieces)]
    rows = [_first_rows(piece.data, size) for piece, size in zip(pieces, own, strict=True)]
    few = [
        ReplicaBatch(
            piece.data if has_fixed_rows else _first_rows(piece.data, max(size, 1)),
            tf.constant(size, tf.int64),
            tf.constant(taken, tf.int64),
        )
        for piece, size in zip(pieces, own, strict=True)
    ]
    if isinstance(batch, LocalPieces):
        placed: Any = LocalPieces(tuple(few))
    else:
        placed = few[0] if len(few) == 1 else regroup(tuple(few), always_wrap=True)
    everywhere = rows if strategy.num_processes == 1 else _of_all_workers(strategy, rows)
    padded_size = int(count_rows(few[0].data)) if strategy.pads_batches else 0
    return Sample(placed, _joined(everywhere), sizes, taken, padded_size)


def _first_rows(data: Any, size: int) -> Any:
    return tree.map_structure(lambda leaf: first_rows(leaf, size), data, none_is_leaf=False)


def _joined(parts: Sequence[Any]) -> Any:
    def of_leaves(*leaves: Any) -> Any:
        return leaves[0] if leaves[0].shape.rank == 0 else concat(list(leaves))

    with tf.device("CPU:0"):
        return tree.map_structure(of_leaves, *parts, none_is_leaf=False)


def _of_all_workers(strategy: Any, rows: list[Any]) -> list[Any]:
    """Returns the rows of each replica of all workers, in order."""
    mine = _joined(rows)
    leaves = tree.flatten(mine)
    by_leaf = [_from_all_workers(strategy, leaf) for leaf in leaves]
    return [tree.pack_sequence_as(mine, list(of_worker)) for of_worker in zip(*by_leaf, strict=True)]


def _from_all_workers(strategy: Any, leaf: Any) -> list[Any]:
    """Returns one leaf of each worker's rows."""
    if leaf is None:
        return [None] * strategy.num_processes
    tensors = [leaf]
    if isinstance(leaf, tf.SparseTensor):
        tensors = [leaf.indices, leaf.values, leaf.dense_shape]
    elif isinstance(leaf, tf.RaggedTensor):
        tensors = [leaf.flat_values, *leaf.nested_row_splits]
    gathered = [strategy.all_gather_arrays(_as_words(tf.io.serialize_tensor(one).numpy())) for one in tensors]
    of_workers = zip(*gathered, strict=True)
    dtypes = [one.dtype for one in tensors]
    return [_made_of(leaf, [*map(_from_words, of_worker, dtypes)]) for of_worker in of_workers]


def _made_of(leaf: Any, tensors: list[tf.Tensor]) -> Any:
    """Returns a tensor of the kind of `leaf`, which may have other rows."""
    if isinstance(leaf, tf.SparseTensor):
        return tf.SparseTensor(*tensors)
    if isinstance(leaf, tf.RaggedTensor):
        return tf.RaggedTensor.from_nested_row_splits(tensors[0], tensors[1:])
    return tensors[0]


def _as_words(text: bytes) -> np.ndarray:
    """Returns the length and the bytes as int32, which collectives take."""
    return np.frombuffer(len(text).to_bytes(4, "little") + text + bytes(-len(text) % 4), np.int32)


def _from_words(words: np.ndarray, dtype: tf.DType) -> tf.Tensor:
    return tf.io.parse_tensor(words[1:].tobytes()[: int(words[0])], dtype)
