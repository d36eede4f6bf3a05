"""The batches must be the same in all processes: those of a dataset shuffled or augmented without a seed are not.

Every process makes whole global batches, and keeps its rows. So a batch can be described where it is made. The
descriptions of a few, the first one among them, are compared after the first step and at the end of an epoch. Of rows
that are loaded by their numbers only the numbers are described, and what is there without loading any: no process
loads rows that it does not train on.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfdist._internals.fit.agreement.digests import digest_of, sample
from tfdist._internals.rows import named_parts
from tfdist.errors import DataError

# Number of a batch -> name of a part -> its shape, dtype, mean and digest.
Seen = dict[str, dict[str, list[Any]]]

_MAX_ELEMENTS = 1 << 20

# Stands in the place of the number of a batch, for rows that are known before any batch is made.
_KNOWN = -1


class WatchedBatches:
    """What is known of some batches of a dataset in its last iteration: those with number 0, 1, 2, 4, 8 and so on.

    Args:
        known: Rows of the dataset that are there before any batch is made, nested as a batch is.
    """

    def __init__(self, known: Any = None) -> None:
        self.seen: Seen = {}
        parts = _arrays_of(named_parts(known))
        self._known = {str(_KNOWN): {name: _described(np.asarray(part)) for name, part in parts.items()}}

    def see(self, number: int, data: Any) -> None:
        """Describes a batch on the host."""
        if number & (number - 1) == 0:
            parts = _arrays_of(named_parts(data))
            self._note(number, list(parts), [np.asarray(leaf) for leaf in parts.values()])

    def see_in_graph(self, number: tf.Tensor, parts: Mapping[str, Any]) -> None:
        """Describes the parts of a batch in the function of a dataset."""
        parts = _arrays_of(parts)

        def of_chosen() -> tf.Tensor:
            def note(number: np.int64, *arrays: np.ndarray) -> np.int64:
                self._note(int(number), list(parts), list(arrays))
                return np.int64(0)

            return tf.numpy_function(note, [number, *parts.values()], tf.int64)

        # The operation has an effect, so that it runs although nothing uses its result.
        is_chosen = tf.equal(tf.bitwise.bitwise_and(number, number - 1), 0)
        tf.cond(is_chosen, of_chosen, lambda: tf.constant(0, tf.int64))

    def _note(self, number: int, names: list[str], arrays: list[np.ndarray]) -> None:
        if number == 0:
            self.seen = self._known
        self.seen = self.seen | {str(number): dict(zip(names, map(_described, arrays), strict=True))}


def _arrays_of(parts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: part for name, part in parts.items() if isinstance(part, tf.Tensor | np.ndarray)}


def _described(array: np.ndarray) -> list[Any]:
    if array.dtype == object:
        return [list(array.shape), "text", None, zlib.crc32(repr(array.tolist()).encode())]
    few = sample(array, _MAX_ELEMENTS)
    mean = float(f"{few.mean(dtype=np.float64):.6g}") if few.dtype.kind in "iufb" and few.size else None
    return [list(array.shape), str(array.dtype), mean, digest_of(array)]


def check_batches(found: list[list[Seen]]) -> None:
    """Compares the described batches of all processes, one mapping for each dataset of the call.

    Raises:
        DataError: They differ; the message names the batch and the part, with what each process has.
    """
    for of_dataset in zip(*found, strict=False):
        for number in sorted(set.intersection(*map(set, of_dataset)), key=int):
            batches = [one[number] for one in of_dataset]
            for name in dict.fromkeys(name for batch in batches for name in batch):
                values = [batch.get(name) for batch in batches]
                if any(value != values[0] for value in values):
                    raise _not_the_same(name, int(number), values)


def _not_the_same(name: str, number: int, values: list[list[Any] | None]) -> DataError:
    listed = "; ".join(f"worker {index}: {_in_words(value)}" for index, value in enumerate(values))
    which = {_KNOWN: "the rows", 0: "the first batch"}.get(number, f"batch {number}")
    return DataError(
        f"the workers were given different data: {name!r} of {which} is not the same. {listed}. Every process must "
        "make the same global batches: give a seed to what shuffles by hand and to random operations in dataset.map "
        "(tf.random.stateless_*, or map without num_parallel_calls), and read the same files; or, where each worker "
        "has rows of its own, say so with auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF in the "
        "dataset's options."
    )


def _in_words(part: list[Any] | None) -> str:
    if part is None:
        return "no such part"
    shape, dtype, mean, digest = part
    return (
        f"{dtype} {tuple(shape)}"
        + (f", mean {mean:g}" if mean is not None else "")
        + f", digest {digest:08x}"
    )
