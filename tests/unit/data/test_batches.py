"""Batches: every example once, like lengths, right padding; one plan for all workers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tfdist.data.batch_plan import BatchPlan
from tfdist.data.batches import make_dataset
from tfdist.data.by_index import by_index_of
from tfdist.errors import DataError

NUM, BATCH, STEP, MAX = 103, 8, 4, 30
LENGTHS = np.random.default_rng(7).integers(1, MAX + 1, NUM)
# Example i is its own number, so that what arrives says where it came from.
FEATURES = [{"ids": np.full(n, i + 1, np.int32), "mask": np.ones(n, np.int32)} for i, n in enumerate(LENGTHS)]
LABELS = np.arange(NUM) % 5


def make(**options: Any) -> tf.data.Dataset:
    defaults = dict(
        labels=LABELS,
        global_batch_size=BATCH,
        max_length=MAX,
        pad_values={"ids": 0, "mask": 0},
        bucket_step=STEP,
    )
    return make_dataset(FEATURES, **(defaults | options))


def order_of(dataset: tf.data.Dataset) -> list[list[int]]:
    return [(x["ids"][:, 0] - 1).tolist() for x, *_ in dataset.as_numpy_iterator()]


def flat(batches: list[list[int]]) -> list[int]:
    return [row for batch in batches for row in batch]


@pytest.mark.parametrize("padding", ["bucket", "fixed"])
@pytest.mark.parametrize("shuffle", [True, False])
def test_each_example_once_per_epoch_and_right(padding: str, shuffle: bool) -> None:
    dataset = make(padding=padding, shuffle=shuffle)
    assert dataset.cardinality() == 13
    for _ in range(2):
        seen, sizes = [], []
        for x, y in dataset.as_numpy_iterator():
            rows = x["ids"][:, 0] - 1
            longest = LENGTHS[rows].max()
            width = MAX if padding == "fixed" else min(-(-longest // STEP) * STEP, MAX)
            assert x["ids"].shape == x["mask"].shape == (len(rows), width)
            assert x["ids"].dtype == x["mask"].dtype == y.dtype == np.int32
            np.testing.assert_array_equal(y, LABELS[rows])
            inside = np.arange(width) < LENGTHS[rows][:, None]
            np.testing.assert_array_equal(x["mask"], inside)
            np.testing.assert_array_equal(x["ids"], np.where(inside, rows[:, None] + 1, 0))
            seen, sizes = [*seen, *rows], [*sizes, len(rows)]
        assert sizes == [BATCH] * 12 + [NUM % BATCH]
        assert sorted(seen) == list(range(NUM))
        assert shuffle or seen == sorted(seen)


def test_order_follows_seed_and_epoch() -> None:
    dataset = make(shuffle=True, seed=3)
    first, second = order_of(dataset), order_of(dataset)
    assert first != second
    again = make(shuffle=True, seed=3)
    assert [order_of(again), order_of(again)] == [first, second]
    assert order_of(make(shuffle=True, seed=3, first_epoch=1)) == second
    assert order_of(make(shuffle=True, seed=4)) not in (first, second)
    # Not only the order of the batches changes, but who is together with whom.
    assert {frozenset(batch) for batch in first}.isdisjoint(frozenset(batch) for batch in second)


def test_batches_hold_like_lengths() -> None:
    plan = BatchPlan(lengths=LENGTHS, global_batch_size=BATCH, max_length=MAX, bucket_step=STEP, seed=0)
    order, bounds, lengths = plan.epoch(0)
    in_order = BatchPlan(lengths=LENGTHS, global_batch_size=BATCH, max_length=MAX, bucket_step=STEP).epoch(0)[
        2
    ]
    assert lengths.sum() < 0.75 * in_order.sum()
    spread = [np.ptp(LENGTHS[order[start:stop]]) for start, stop in bounds]
    assert max(spread) <= 2 * STEP
    # The small last batch does not always hold the longest.
    assert len({plan.epoch(epoch)[2][-1] for epoch in range(20)}) > 3


def test_pieces_of_a_batch_are_assembled_from_their_numbers() -> None:
    whole = make(shuffle=True, seed=5)
    by_index = by_index_of(make(shuffle=True, seed=5))
    assert by_index is not None and by_index_of(whole.map(lambda x, y: x)) is None
    for _ in range(2):
        for (x, y), (rows, length) in zip(whole, by_index.indices(), strict=True):
            for piece in (slice(0, 3), slice(3, None)):
                part, labels = by_index.load(rows[piece], length)
                np.testing.assert_array_equal(part["ids"], x["ids"][piece])
                np.testing.assert_array_equal(labels, y[piece])


@pytest.mark.parametrize("padding, width", [("bucket", None), ("fixed", MAX)])
def test_element_spec(padding: str, width: int | None) -> None:
    x, y = make(padding=padding).element_spec
    assert x["ids"] == tf.TensorSpec([None, width], tf.int32) and y == tf.TensorSpec([None], tf.int32)
    assert list(make(labels=None, padding=padding).element_spec) == ["ids", "mask"]
    assert make(labels=np.linspace(0, 1, NUM, dtype=np.float32)).element_spec[1].dtype == tf.float32


def test_token_labels_are_padded_without_weight() -> None:
    tags = [np.arange(n, dtype=np.int32) % 4 - 1 for n in LENGTHS]
    dataset = make(labels=tags, shuffle=True)
    for x, y, weight in dataset.as_numpy_iterator():
        assert weight.dtype == np.float32 and y.shape == weight.shape == x["ids"].shape
        for row, example in enumerate(x["ids"][:, 0] - 1):
            n = LENGTHS[example]
            np.testing.assert_array_equal(y[row, :n], np.maximum(tags[example], 0))
            np.testing.assert_array_equal(weight[row, :n], tags[example] != -1)
            assert not y[row, n:].any() and not weight[row, n:].any()


def test_python_is_visited_once_per_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    visits = []
    plan = BatchPlan.epoch
    monkeypatch.setattr(BatchPlan, "epoch", lambda self, epoch: visits.append(epoch) or plan(self, epoch))
    dataset = make(shuffle=True)
    for _ in range(3):
        order_of(dataset)
    assert visits == [0, 1, 2]


ODD = [{"ids": np.ones(3, np.int32), "mask": np.ones(2, np.int32)}]


@pytest.mark.parametrize(
    "features, options, message",
    [
        ([], {}, "no example"),
        (FEATURES, {"labels": LABELS[:3]}, "103 examples have 3 labels"),
        (FEATURES, {"max_length": 20}, r"Example \d+ has lengths .*max_length \(20\)"),
        (ODD, {"labels": None}, "{'ids': 3, 'mask': 2}"),
        (FEATURES, {"labels": [np.zeros(2, np.int32)] * NUM}, "'labels': 2"),
        ([{"ids": np.ones(0, np.int32), "mask": np.ones(0, np.int32)}], {"labels": None}, "between 1 and"),
        (FEATURES, {"pad_values": {"ids": 0}}, r"features are \['ids', 'mask'\]"),
        (FEATURES, {"global_batch_size": 0}, "global_batch_size is 0"),
        (FEATURES, {"bucket_step": 0}, "bucket_step is 0"),
        (FEATURES, {"seed": -1}, "seed is -1; it must be at least 0"),
        (FEATURES, {"padding": "buckets"}, "'buckets'; it must be 'bucket' or 'fixed'"),
    ],
)
def test_bad_arguments(features: list[dict[str, np.ndarray]], options: dict[str, Any], message: str) -> None:
    defaults = dict(labels=LABELS, global_batch_size=BATCH, max_length=MAX, pad_values={"ids": 0, "mask": 0})
    with pytest.raises(DataError, match=message):
        make_dataset(features, **(defaults | options))


UNDER_A_STRATEGY = """
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
import sys
sys.path.insert(0, {folder!r})
from test_batches import LABELS, NUM, make, order_of
from tfdist.data import pad_batches

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    datasets = [make(shuffle=True, seed=1), pad_batches(make(shuffle=True, seed=1), 8)]
expected = order_of(make(shuffle=True, seed=1))
for dataset in datasets:
    distributed = strategy.experimental_distribute_dataset(dataset)
    seen = []
    for x, *_ in distributed:
        ids = tf.concat([rows[:, 0] for rows in strategy.experimental_local_results(x["ids"])], axis=0)
        seen.append((ids - 1).numpy().tolist())
    seen = [rows[: len(batch)] for rows, batch in zip(seen, expected, strict=True)]
    assert seen == expected, (seen, expected)
"""


def test_batches_survive_being_distributed() -> None:
    """Two devices get the halves of the same global batches, and nothing is said about sharding."""
    code = UNDER_A_STRATEGY.format(folder=str(Path(__file__).parent))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "sharding policy" not in done.stderr
