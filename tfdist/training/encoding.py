"""Tokenizes the examples of a run in a thread, while the model is made; the workers divide the work between them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from tfdist._internals.contract import distribution_of
from tfdist._internals.processes.coordination import all_gather_json
from tfdist.config.schema import DataConfig
from tfdist.data.sharding import shard_indices
from tfdist.process import num_processes, process_index
from tfdist.tasks.base import Encoded, Task, Tokenizer
from tfdist.tasks.token_cache import TokenCache, key_of

Gather = Callable[[np.ndarray], list[np.ndarray]]

# Examples between two looks at whether the run still wants them. The tokenizer cannot be interrupted.
_PART = 10_000


@dataclass
class _Found:
    """What the thread has made of a split.

    Attributes:
        own: The tokenized examples that are this worker's to tokenize.
        whole: All examples, if they were in the cache.
        key: Their key in the cache.
    """

    own: Encoded
    whole: Encoded | None
    key: str


class Encodings:
    """The tokenized splits of a run. A thread begins with the first one at once, and goes on to the others.

    Every worker needs all examples, because the batches follow from their lengths and change with each epoch. So each
    tokenizes every n-th example, and gets the rest from the others. Under a strategy whose processes cannot exchange
    arrays (`mesh`), every process tokenizes all examples.

    Args:
        strategy: Exchanges the examples.
        task: Its `encode` makes numbers of examples.
        splits: The examples by split, the one that is needed first in front.
        names: The names of the labels, or None for examples without labels.
        tokenizer: The tokenizer; nothing else may use it to encode meanwhile.
        data: Largest length and cache.
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        task: Task,
        splits: Mapping[str, Sequence[Any]],
        names: Sequence[str] | None,
        tokenizer: Tokenizer,
        data: DataConfig,
    ) -> None:
        self._distribution = distribution_of(strategy)
        self._cache = TokenCache.of(data.cache_dir)
        self._splits = splits
        self._encode = lambda examples: task.encode(examples, names, tokenizer, data.max_length)
        self._key = lambda examples: key_of(task, examples, names, tokenizer, data.max_length)
        self._unwanted = threading.Event()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tokenize")
        self._found: dict[str, Future[_Found]] = {
            split: self._thread.submit(self._find, examples) for split, examples in splits.items()
        }
        self._ready: dict[str, Encoded] = {}

    def __getitem__(self, split: str) -> Encoded:
        """Returns a split; all workers must ask for the same splits in the same order.

        Raises:
            TfdistError: The examples cannot be tokenized.
        """
        if split not in self._ready:
            self._ready[split] = self._collect(self._found[split].result(), len(self._splits[split]))
        return self._ready[split]

    def __contains__(self, split: str) -> bool:
        return split in self._splits

    def __enter__(self) -> Encodings:
        return self

    def __exit__(self, *error: object) -> None:
        """Ends the thread; what is not tokenized yet is left out."""
        self._unwanted.set()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _is_divided(self, count: int) -> bool:
        enough = num_processes() > 1 and count >= num_processes()
        return enough and self._distribution is not None and self._distribution.prepares_own_rows

    def _find(self, examples: Sequence[Any]) -> _Found:
        """Runs in the thread; it may not talk to other workers, since the order of that would be left to chance."""
        key = self._key(examples)
        whole = self._cache.load(key)
        shard = (process_index(), num_processes()) if self._is_divided(len(examples)) else (0, 1)
        mine = shard_indices(len(examples), shard)
        if whole is not None:
            return _Found(_chosen(whole, mine), whole, key)
        parts = []
        for start in range(0, len(mine), _PART):
            if self._unwanted.is_set():
                break
            parts.append(self._encode([examples[number] for number in mine[start : start + _PART]]))
        return _Found(_joined(parts), None, key)

    def _collect(self, found: _Found, count: int) -> Encoded:
        encoded = found.own
        if self._is_divided(count):
            if all(all_gather_json("tokens in the cache", found.whole is not None)):
                return found.own if found.whole is None else found.whole
            assert self._distribution is not None  # for the type checker: `_is_divided` has looked
            encoded = _of_all_workers(self._distribution.all_gather_arrays, encoded)
        if found.whole is None:
            self._cache.store(found.key, encoded)
        return encoded


def encode_examples(
    strategy: tf.distribute.Strategy,
    task: Task,
    examples: Sequence[Any],
    names: Sequence[str] | None,
    tokenizer: Tokenizer,
    data: DataConfig,
) -> Encoded:
    """Returns what `task.encode` returns, by `Encodings`."""
    with Encodings(strategy, task, {"only": examples}, names, tokenizer, data) as encoded:
        return encoded["only"]


def _chosen(whole: Encoded, numbers: np.ndarray) -> Encoded:
    """Returns the examples of these numbers."""
    if len(numbers) == len(whole.ids):
        return whole
    labels: Any = whole.labels
    if isinstance(labels, np.ndarray):
        labels = labels[numbers]
    elif labels is not None:
        labels = [labels[number] for number in numbers]
    positions = whole.positions and [whole.positions[number] for number in numbers]
    return Encoded([whole.ids[number] for number in numbers], labels, positions)


def _joined(parts: Sequence[Encoded]) -> Encoded:
    """Returns the examples of all parts, in order."""
    first = parts[0]
    if len(parts) == 1:
        return first
    labels: Any = first.labels
    if isinstance(labels, np.ndarray):
        labels = np.concatenate([part.labels for part in parts])
    elif labels is not None:
        labels = [row for part in parts for row in part.labels or ()]
    positions = None if first.positions is None else [row for part in parts for row in part.positions or ()]
    return Encoded([row for part in parts for row in part.ids], labels, positions)


def _of_all_workers(gather: Gather, own: Encoded) -> Encoded:
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
