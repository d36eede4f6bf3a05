"""Decides which worker reads what, once, before any work is done on the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import tensorflow as tf

from tfdist.errors import DataError
from tfdist.log import inform_once, warn_once
from tfdist.process import is_chief

Item = TypeVar("Item")


@dataclass(frozen=True)
class ShardPolicy:
    """How a data set is divided between workers, and why.

    `index`: each worker takes every n-th record, before it is parsed. `file`: each worker reads its own files. `batch`:
    every worker reads everything and takes its rows of each global batch.
    """

    name: Literal["index", "file", "batch"]
    reason: str

    def announce(self, num_processes: int) -> None:
        """Logs once what the policy means; if every worker does all the work, the chief warns of it."""
        if num_processes > 1 and self.name == "batch":
            if is_chief():
                warn_once(
                    f"every one of the {num_processes} workers prepares all the data and keeps its own rows of each "
                    f"batch: {self.reason}. Where that is too slow, give rows by their numbers with "
                    "tfdist.data.rows_dataset, or each worker its own files with tfdist.data.tfrecord_dataset."
                )
        elif num_processes > 1:
            inform_once(f"data are divided between {num_processes} workers by {self.name}: {self.reason}")


def choose_shard_policy(
    num_files: int, num_processes: int, kind: Literal["array", "records", "stream"]
) -> ShardPolicy:
    """Returns the policy for a data set; it follows from values that are the same on every worker.

    Args:
        num_files: Files from which the data set is read; 0 if it is not read from files.
        num_processes: Workers that share the data set.
        kind: `array`: rows or records can be taken by their numbers. `records`: files are read record by record.
            `stream`: the data can only be read from start to end (a generator, or a dataset or `PyDataset` of the
            user's own).
    """
    if kind == "array":
        return ShardPolicy("index", "the rows have numbers")
    if kind == "stream":
        return ShardPolicy("batch", "what fit was given can be read from start to end only")
    if kind != "records":
        raise DataError(f"The kind of data is {kind!r}; it must be 'array', 'records' or 'stream'.")
    if num_files >= num_processes:
        return ShardPolicy("file", f"{num_files} files are enough for {num_processes} workers")
    return ShardPolicy(
        "index",
        f"{num_files} files are too few for {num_processes} workers; each parses only its own records",
    )


def auto_sharding_is_off(dataset: tf.data.Dataset) -> bool:
    """Returns whether the dataset's options say that every process has batches of its own."""
    policy = dataset.options().experimental_distribute.auto_shard_policy
    return bool(policy == tf.data.experimental.AutoShardPolicy.OFF)


def check_shard(shard: tuple[int, int]) -> None:
    """Raises DataError unless `shard` is (index, count) with 0 <= index < count."""
    index, count = shard
    if not 0 <= index < count:
        raise DataError(f"The shard is {shard}; it must be (index, count) with 0 <= index < count.")


def shard_indices(num_records: int, shard: tuple[int, int]) -> np.ndarray:
    """Returns the record numbers of one worker, int64; shards differ in size by one at most."""
    check_shard(shard)
    return np.arange(shard[0], num_records, shard[1])


def shard_files(paths: Sequence[Item], shard: tuple[int, int]) -> list[Item]:
    """Returns the files of one worker; `paths` must have the same order on all workers."""
    check_shard(shard)
    return list(paths[shard[0] :: shard[1]])


def tfrecord_dataset(
    paths: Sequence[str],
    parse: Callable[[tf.Tensor], Any],
    *,
    shard: tuple[int, int] = (0, 1),
    policy: ShardPolicy | None = None,
    shuffle_buffer: int = 0,
    seed: int = 0,
    num_parallel_calls: int = tf.data.AUTOTUNE,
) -> tf.data.Dataset:
    """Returns the parsed records of this worker, read as a stream, for data that do not fit in memory.

    If there are fewer files than workers, the records are divided instead. Workers can get different numbers of
    records. Batch the result by the rows that this worker has of a global batch.

    Args:
        paths: TFRecord files; they are read in the order of their names.
        parse: A function from one serialized record, a scalar string tensor, to an element of the dataset.
        shard: (index, count) of this worker.
        policy: How to divide; None for the policy of `choose_shard_policy`.
        shuffle_buffer: Size of the buffer, in records, within which the order is shuffled anew in each epoch; 0 keeps
            the order of the files.
        seed: Seed of the order.
        num_parallel_calls: Records that are parsed at once.

    Raises:
        DataError: If there is no file, or the policy is not for records of files.
    """
    check_shard(shard)
    if not paths:
        raise DataError("There is no TFRecord file to read. Give at least one.")
    policy = policy or choose_shard_policy(len(paths), shard[1], "records")
    policy.announce(shard[1])
    files = sorted(paths)
    if policy.name == "file":
        files = shard_files(files, shard)
        if not files:
            raise DataError(
                f"{len(paths)} files cannot be divided between {shard[1]} workers. Use the policy 'index'."
            )
    elif policy.name != "index":
        raise DataError(f"The policy is {policy.name!r}; records of files are divided by 'file' or 'index'.")
    # In a shuffled epoch several files are open at once, so that the buffer mixes them. The order is still the same on
    # every worker, because tf.data keeps parallel reads in order by default.
    dataset = tf.data.TFRecordDataset(
        files, num_parallel_reads=min(len(files), 4) if shuffle_buffer else None
    )
    if policy.name == "index":
        dataset = dataset.shard(num_shards=shard[1], index=shard[0])
    if shuffle_buffer:
        dataset = dataset.shuffle(shuffle_buffer, seed=seed)
    dataset = dataset.map(parse, num_parallel_calls=num_parallel_calls, deterministic=True)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return dataset.prefetch(tf.data.AUTOTUNE).with_options(options)
