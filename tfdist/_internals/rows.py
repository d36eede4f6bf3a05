"""The rows of a batch, whatever it is made of: how many there are, and that each part has as many."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf
from keras import tree

from tfdist.errors import DataError


def first_rows(leaf: Any, count: Any) -> Any:
    """Returns the first `count` rows of a dense, ragged or sparse tensor; a scalar as it is."""
    if isinstance(leaf, tf.SparseTensor):
        rest = leaf.dense_shape[1:]
        return tf.sparse.slice(leaf, tf.zeros_like(leaf.dense_shape), tf.concat([[count], rest], 0))
    return leaf if leaf.shape.rank == 0 else leaf[:count]


def count_rows(data: Any) -> Any:
    """Returns the number of rows of a batch, a scalar int64 tensor.

    Args:
        data: Nested dense, ragged and sparse tensors with one first dimension, the rows; and scalars.

    Raises:
        DataError: Nothing in the batch has rows.
    """
    for leaf in tree.flatten(data):
        rows = _rows_of(leaf)
        if rows is not None:
            return rows
    raise DataError(
        f"no part of the batch has a first dimension to divide over the replicas: {tree.map_structure(type, data)}. "
        "Batch the dataset, for example with dataset.batch(global_batch_size)."
    )


def _rows_of(leaf: Any) -> Any | None:
    """Returns the number of rows of a part of a batch, a scalar int64 tensor; None if it has none."""
    if isinstance(leaf, tf.SparseTensor):
        return leaf.dense_shape[0]
    if isinstance(leaf, tf.RaggedTensor):
        return leaf.nrows(out_type=tf.int64)
    if tf.is_tensor(leaf) and leaf.shape.rank != 0:
        return tf.shape(leaf, out_type=tf.int64)[0]
    return None


def named_parts(data: Any) -> dict[str, Any]:
    """Returns the parts of a batch that are not None by name, such as `x`, `y[digit]` and `sample_weight`."""
    is_tuple = isinstance(data, tuple) and not hasattr(data, "_fields") and len(data) <= len(_NAMES)
    found = {}
    for name, part in zip(_NAMES, data, strict=False) if is_tuple else [(_NAMES[0], data)]:
        for path, leaf in tree.flatten_with_path(part):
            if leaf is not None:
                found[name + "".join(f"[{key}]" for key in path)] = leaf
    return found


_NAMES = ("x", "y", "sample_weight")


def check_rows(data: Any) -> list[tf.Operation]:
    """Makes sure that each part of a batch has as many rows as the first; scalars have none.

    Returns:
        The checks that wait for the batch, where the shapes do not tell.

    Raises:
        DataError: The shapes tell that a part has another number.
    """
    counts = {name: rows for name, leaf in named_parts(data).items() if (rows := _rows_of(leaf)) is not None}
    checks = []
    for name, rows in counts.items():
        first = next(iter(counts))
        own, others = tf.get_static_value(rows), tf.get_static_value(counts[first])
        if own is None or others is None:
            if rows is not counts[first]:
                told = [
                    f"{_OF_PART} {name} against {first}",
                    *(tf.cast(one, tf.int32) for one in (rows, counts[first])),
                ]
                checks.append(tf.debugging.Assert(tf.equal(rows, counts[first]), told))
        elif own != others:
            raise other_rows(name, own, first, others)
    return checks


def check_same_rows(rows: np.ndarray) -> None:
    """Raises DataError if the global batches of the processes, given the rows of each, have not the same number."""
    if len(set(rows.tolist())) > 1:
        counts = "; ".join(f"worker {index}: {count:.0f}" for index, count in enumerate(rows))
        raise DataError(
            f"the batches of the workers have different numbers of rows in this step: {counts}. Every process must "
            "make the same global batches; or, where each worker has rows of its own, say so with auto_shard_policy = "
            "tf.data.experimental.AutoShardPolicy.OFF in the dataset's options."
        )


@contextmanager
def row_errors() -> Iterator[None]:
    """Surrounds a step; raises DataError where a check of its rows fails."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        if found := re.search(rf"{_OF_PART} (.+?) against (.+?)\] \[(\d+)\] \[(\d+)\]", error.message):
            name, first, rows, others = found.groups()
            raise other_rows(name, int(rows), first, int(others)) from error
        raise


# How the error of a check begins.
_OF_PART = "another number of rows in a batch:"


def other_rows(name: str, rows: int, first: str, others: int) -> DataError:
    """Returns the error that one part of a batch has other rows than another."""
    return DataError(
        f"{name!r} has {rows} rows in a batch in which {first!r} has {others}. Rows are divided over the devices, so "
        "each part of a batch must have one for each row; give what belongs to the whole batch as a scalar, or put it "
        "into the model."
    )
