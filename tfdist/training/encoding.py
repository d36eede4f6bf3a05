"""Tokenization that the workers divide between them."""

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

    All of them are needed on every worker, since which examples form a batch follows from their lengths, and changes
    with each epoch. A strategy whose processes exchange nothing by themselves (`mesh`) tokenizes all in each.
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
    """Puts every n-th array of each worker in order again; all of one integer dtype and rank 1."""
    lengths = gather(np.array([len(row) for row in own], np.int32))
    values = gather(np.concatenate(own).astype(np.int32))
    rows = [
        np.split(flat.astype(own[0].dtype), np.cumsum(sizes)[:-1])
        for flat, sizes in zip(values, lengths, strict=True)
    ]
    return [rows[number % len(rows)][number // len(rows)] for number in range(sum(map(len, rows)))]
