"""Rows by their numbers: each once an epoch, in an order of the seed's; what `load` gives is checked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tfdist.data import rows_dataset
from tfdist.errors import DataError

IMAGES = np.arange(23 * 4, dtype=np.float32).reshape(23, 2, 2)


def load(rows: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    return {"image": IMAGES[rows], "name": rows.astype(str).astype(object)}, rows


def make(**options: Any) -> tf.data.Dataset:
    return rows_dataset(load, 23, **{"global_batch_size": 8, **options})


def test_elements() -> None:
    dataset = make()
    assert dataset.cardinality() == 3
    assert dataset.element_spec == (
        {"image": tf.TensorSpec([None, 2, 2], tf.float32), "name": tf.TensorSpec([None], tf.string)},
        tf.TensorSpec([None], tf.int64),
    )
    batches = list(dataset.as_numpy_iterator())
    assert [len(y) for _, y in batches] == [8, 8, 7]
    np.testing.assert_array_equal(np.concatenate([x["image"] for x, _ in batches]), IMAGES)
    assert [name for x, _ in batches for name in x["name"]] == [str(i).encode() for i in range(23)]


def test_order_follows_seed_and_epoch() -> None:
    def orders(dataset: tf.data.Dataset) -> list[list[int]]:
        return [np.concatenate([y for _, y in dataset.as_numpy_iterator()]).tolist() for _ in range(2)]

    first, second = orders(make(shuffle=True, seed=1))
    assert sorted(first) == sorted(second) == list(range(23)) and first != second
    assert orders(make(shuffle=True, seed=1)) == [first, second]
    assert orders(make(shuffle=True, seed=1, first_epoch=1))[0] == second
    assert orders(make(shuffle=True, seed=2))[0] not in (first, second)


def test_numbers_out_of_range() -> None:
    with pytest.raises(DataError, match="global_batch_size is 0; it must be at least 1"):
        make(global_batch_size=0)
    with pytest.raises(DataError, match="num_rows is 0"):
        rows_dataset(load, 0, global_batch_size=8)


def test_what_load_gives_must_be_the_rows_asked_for() -> None:
    with pytest.raises(DataError, match=r"asked for 1 rows and gave arrays of shapes \[\(2,\)\]"):
        rows_dataset(lambda rows: np.zeros(2), 23, global_batch_size=8)
    with pytest.raises(DataError, match=r"asked for 1 rows and gave arrays of shapes \[\]"):
        rows_dataset(lambda rows: (), 23, global_batch_size=8)
    later = rows_dataset(lambda rows: rows[:5], 23, global_batch_size=8)
    with pytest.raises(tf.errors.OpError, match="asked for 8 rows"):
        list(later)
