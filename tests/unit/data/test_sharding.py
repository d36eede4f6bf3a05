"""Who reads what: every record on exactly one worker, and parsed by that worker alone."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import tensorflow as tf

from tfdist.data.sharding import (
    ShardPolicy,
    choose_shard_policy,
    shard_files,
    shard_indices,
    tfrecord_dataset,
)
from tfdist.errors import DataError
from tfdist.log import inform_once, warn_once

NUM = 31


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Five TFRecord files that hold the numbers 0 to 30."""
    paths = [str(tmp_path / f"{i}.tfrecord") for i in range(5)]
    for i, path in enumerate(paths):
        with tf.io.TFRecordWriter(path) as writer:
            for number in range(i, NUM, 5):
                writer.write(str(number).encode())
    return paths


@pytest.mark.parametrize(
    "num_files, num_processes, kind, name, reason",
    [
        (0, 2, "array", "index", "have numbers"),
        (4, 4, "records", "file", "4 files are enough for 4 workers"),
        (1, 2, "records", "index", "1 files are too few for 2 workers"),
        (0, 2, "stream", "batch", "from start to end only"),
    ],
)
def test_policy(
    caplog: pytest.LogCaptureFixture, num_files: int, num_processes: int, kind: str, name: str, reason: str
) -> None:
    inform_once.cache_clear()
    warn_once.cache_clear()
    with caplog.at_level(logging.INFO, logger="tfdist"):
        policy = choose_shard_policy(num_files, num_processes, kind)
        policy.announce(num_processes)
        policy.announce(num_processes)
        choose_shard_policy(num_files, 1, kind).announce(1)
    assert policy.name == name and reason in policy.reason
    # Said once, and nothing where there is nothing to divide.
    assert len(caplog.records) == 1 and reason in caplog.text
    assert (caplog.records[0].levelno == logging.WARNING) == (name == "batch")


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shards_are_disjoint_and_complete(count: int) -> None:
    shards = [shard_indices(NUM, (index, count)).tolist() for index in range(count)]
    assert sorted(number for shard in shards for number in shard) == list(range(NUM))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1
    assert sorted(p for index in range(count) for p in shard_files(list("edcba"), (index, count))) == list(
        "abcde"
    )


@pytest.mark.parametrize(
    "num_files, count, name", [(5, 2, "file"), (5, 5, "file"), (5, 7, "index"), (1, 2, "index")]
)
@pytest.mark.parametrize("shuffle_buffer", [0, 100])
def test_each_record_is_parsed_by_one_worker(
    files: list[str], num_files: int, count: int, name: str, shuffle_buffer: int
) -> None:
    paths = files[:num_files]
    expected = sorted(number for i in range(num_files) for number in range(i, NUM, 5))
    assert choose_shard_policy(num_files, count, "records").name == name
    seen: list[int] = []
    for index in range(count):
        parsed: list[int] = []

        def parse(record: tf.Tensor, parsed: list[int] = parsed) -> tf.Tensor:
            note = lambda text: parsed.append(int(text)) or int(text)  # noqa: E731
            return tf.numpy_function(note, [record], tf.int64, stateful=True)

        # The order in which a host lists its folder must not matter.
        given = paths if index % 2 else paths[::-1]
        got = list(
            tfrecord_dataset(
                given, parse, shard=(index, count), shuffle_buffer=shuffle_buffer
            ).as_numpy_iterator()
        )
        assert sorted(parsed) == sorted(got)
        seen += got
    assert sorted(seen) == expected


def test_shuffled_stream_changes_each_epoch_and_is_reproducible(files: list[str]) -> None:
    def epochs(seed: int) -> list[list[bytes]]:
        dataset = tfrecord_dataset(files, lambda record: record, shuffle_buffer=100, seed=seed)
        return [list(dataset.as_numpy_iterator()) for _ in range(2)]

    first, second = epochs(1)
    assert first != second and [first, second] == epochs(1) and first != epochs(2)[0]


def test_stream_is_not_sharded_twice(files: list[str]) -> None:
    options = tfrecord_dataset(files, lambda record: record, shard=(0, 2)).options()
    assert options.experimental_distribute.auto_shard_policy == tf.data.experimental.AutoShardPolicy.OFF


def test_bad_arguments(files: list[str]) -> None:
    with pytest.raises(DataError, match="no TFRecord file"):
        tfrecord_dataset([], lambda record: record)
    with pytest.raises(DataError, match=r"shard is \(2, 2\)"):
        tfrecord_dataset(files, lambda record: record, shard=(2, 2))
    with pytest.raises(DataError, match="'batch'; records of files are divided by 'file' or 'index'"):
        tfrecord_dataset(files, lambda record: record, policy=ShardPolicy("batch", ""))
    with pytest.raises(
        DataError, match="1 files cannot be divided between 2 workers. Use the policy 'index'"
    ):
        tfrecord_dataset(files[:1], lambda record: record, shard=(1, 2), policy=ShardPolicy("file", ""))
    with pytest.raises(DataError, match="'array', 'records' or 'stream'"):
        choose_shard_policy(1, 1, "table")  # type: ignore[arg-type]
