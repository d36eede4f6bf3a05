from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tfdist.data.static_shapes import pad_batches
from tfdist.errors import DataError

X = {"a": np.arange(1, 8, dtype=np.float32), "s": np.array(list("abcdefg"))}
Y = np.arange(7)


def padded(*element: Any) -> list[Any]:
    dataset = tf.data.Dataset.from_tensor_slices(element if len(element) > 1 else element[0]).batch(4)
    result = pad_batches(dataset, 4)
    assert result.cardinality() == 2
    assert all(spec.shape[0] == 4 for spec in tf.nest.flatten(result.element_spec))
    return list(result.as_numpy_iterator())


def test_weights_are_made() -> None:
    (x0, y0, w0), (x1, y1, w1) = padded(X, Y)
    np.testing.assert_array_equal(w0, [1, 1, 1, 1])
    np.testing.assert_array_equal(w1, [1, 1, 1, 0])
    np.testing.assert_array_equal(x1["a"], [5, 6, 7, 5])
    np.testing.assert_array_equal(x1["s"], [b"e", b"f", b"g", b"e"])
    np.testing.assert_array_equal([*y0, *y1], [0, 1, 2, 3, 4, 5, 6, 4])


def test_weights_are_kept_and_silenced() -> None:
    weights = {"per_row": np.full(7, 0.5, np.float32), "per_token": np.full((7, 3), 2, np.float32)}
    *_, last = padded(X, Y, weights)[1]
    np.testing.assert_array_equal(last["per_row"], [0.5, 0.5, 0.5, 0])
    np.testing.assert_array_equal(last["per_token"], [[2] * 3] * 3 + [[0] * 3])


def test_inputs_alone_stay_alone() -> None:
    assert padded(X)[1]["a"].tolist() == [5, 6, 7, 5]


def test_batch_without_rows_becomes_zeros_of_weight_zero() -> None:
    dataset = tf.data.Dataset.from_tensors((tf.zeros([0, 2]), tf.zeros([0], tf.string)))
    x, y, weight = next(pad_batches(dataset, 3).as_numpy_iterator())
    assert x.tolist() == [[0, 0]] * 3 and y.tolist() == [b""] * 3 and weight.tolist() == [0, 0, 0]


def test_one_trace_for_a_size_that_divides_nothing() -> None:
    traces = []

    @tf.function(jit_compile=True)
    def step(x: tf.Tensor, y: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
        traces.append(x.shape)
        return tf.reduce_sum(x * tf.cast(y, tf.float32) * weight)

    total = sum(step(x["a"], y, w) for x, y, w in padded(X, Y))
    assert float(total) == float((X["a"] * Y).sum()) and len(traces) == 1


def test_what_cannot_be_padded() -> None:
    ragged = tf.data.Dataset.from_tensors((tf.ragged.constant([[1], [2, 3]]), [0, 1]))
    with pytest.raises(DataError, match="to_tensor"):
        pad_batches(ragged, 4)
    large = tf.data.Dataset.from_tensors((tf.zeros([5]), tf.zeros([5])))
    with pytest.raises(tf.errors.InvalidArgumentError, match="more rows than batch_size"):
        next(iter(pad_batches(large, 4)))
