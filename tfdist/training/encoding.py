"""The workers divide the tokenization between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfdist._internals.contract import distribution_of
from tfdist.config.schema import DataConfig
from tfdist.data.sharding import shard_indices
from tfdist.process import num_processes, process_index
from tfdist.tasks.base import Encoded, Task, Tokenizer

Gather = Callable[[np.ndarray], list[np.ndarray]]


def encode_examples(
    strategy: tf.distribute.Strategy,
    task: Task,
    examples: Sequence[Any],
    names: Sequence[str] | None,
    tokenizer: Tokenizer,
    data: DataConfig,
) -> Encoded:
    """Returns what `task.encode` returns; each worker tokenizes every n-th example and gets the rest from the others.

    Every worker needs all examples, because the batches follow from their lengths and change with each epoch. Under a
    strategy whose processes cannot exchange arrays (`mesh`), every process tokenizes all examples.
    """
    distribution = distribution_of(strategy)
    alone = num_processes() == 1 or len(examples) < num_processes()
    if alone or distribution is None or not distribution.prepares_own_rows:
        return task.encode(examples, names, tokenizer, data.max_length)
    gather = distribution.all_gather_arrays
    mine = shard_indices(len(examples), (process_index(), num_processes()))
    own = task.encode([examples[number] for number in mine], names, tokenizer, data.max_length)
    labels: Any = own.labels
    if isinstance(labels, np.ndarray):
        labels = np.concatenate(_of_all(gather, labels[:, np.newaxis]))
    elif labels is not None:
        labels = _of_all(gather, labels)
    positions = None if own.positions is None else _of_all(gather, own.positions)
    return Encoded(_of_all(gather, own.ids), labels, positions)


def _of_all(gather: Gather, own: Sequence[np.ndarray] | np.ndarray) -> list[np.ndarray]:
    """Returns the arrays of all workers in the order of the examples; all have one integer dtype and rank 1."""
    lengths = gather(np.array([len(row) for row in own], np.int32))
    values = gather(np.concatenate(own).astype(np.int32))
    rows = [
        np.split(flat.astype(own[0].dtype), np.cumsum(sizes)[:-1])
        for flat, sizes in zip(values, lengths, strict=True)
    ]
    return [rows[number % len(rows)][number // len(rows)] for number in range(sum(map(len, rows)))]
