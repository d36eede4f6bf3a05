"""Canaries of the patches of operations on a mesh."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from canary import assert_one_device, canary, compiled, dense, rows

from tfdist import create_strategy
from tfdist.parity.inspection import mesh_collectives


@canary({"src.backend.rnn": "no rule for the operation tf.EmptyTensorList"})
def recurrent_layer_on_a_mesh() -> None:
    def build() -> keras.Model:
        return keras.Sequential([keras.Input((4,)), keras.layers.Reshape((2, 2)), keras.layers.LSTM(3)])

    assert_one_device(lambda: compiled(build, loss="mse"), (rows()[0], rows()[0][:, :3]), mesh=True)


@functools.cache
def split_columns() -> tf.distribute.Strategy:
    rules = {"(columns|inner)/kernel$": (None, "model")}
    return create_strategy("mesh", mesh={"batch": 2, "model": 2}, layout_map=rules)


def inner() -> keras.layers.Layer:
    return keras.layers.Dense(4, name="inner")


# Layers behind split columns: the shape that they get, what makes them, and what happens without the patch.
Behind = tuple[tuple[int, ...], Callable[[], Any], str]

TRAINED: dict[str, Behind] = {
    "tensorflow.nn.average_pool": (
        (6, 6, 2),
        lambda: keras.layers.AveragePooling2D(2),
        "no rule for the operation tf.AvgPoolGrad",
    ),
    "tensorflow.nn.depthwise_conv": (
        (6, 6, 2),
        lambda: keras.layers.DepthwiseConv2D(3),
        "no rule for the operation tf.DepthwiseConv2dNativeBackpropFilter",
    ),
    "tensorflow.nn.separable_conv": (
        (6, 6, 2),
        lambda: keras.layers.SeparableConv2D(2, 3),
        "no rule for the operation tf.DepthwiseConv2dNativeBackpropFilter",
    ),
    "adaptive_average_pool": (
        (6, 4),
        lambda: keras.layers.AdaptiveAveragePooling1D(4),
        "no rule for the operation tf.AvgPoolGrad",
    ),
    "adaptive_max_pool": (
        (8, 4),
        lambda: keras.layers.AdaptiveMaxPooling1D(3),
        "dimension size=5 is not divisible",
    ),
    "tensorflow.nn.conv": (
        (6, 6, 2),
        lambda: keras.layers.Conv2D(2, 3),
        "tf.Conv2D: Halo exchange is only supported on TPU",
    ),
    "tensorflow.nn.conv_transpose": (
        (6, 6, 2),
        lambda: keras.layers.Conv2DTranspose(2, 3),
        r"tf.Conv2DBackpropInput: \{0\} only supports batch parallel layouts",
    ),
    "tensorflow.nn.max_pool": (
        (6, 6, 2),
        lambda: keras.layers.MaxPooling2D(2),
        "dimension size=3 is not divisible by number of shards",
    ),
    "tensorflow.numpy.pad": (
        (6, 4),
        lambda: keras.layers.ZeroPadding1D(1),
        "tf.Pad: SPMD expansion resulted in op output inconsistent",
    ),
    "tensorflow.numpy.split": (
        (8,),
        lambda: lambda x: keras.ops.concatenate(keras.ops.split(x, 4, axis=1)[::-1], axis=1),
        "tf.Split: Spliting over sharded dimension is not supported",
    ),
    "TimeDistributed.call": (
        (6, 4),
        lambda: keras.layers.TimeDistributed(inner()),
        "tf.MatMul: Non-contracting dimension for left argument of matmul has sharding dimension",
    ),
    "tensorflow.image.resize": (
        (6, 6, 2),
        lambda: keras.layers.Resizing(4, 4),
        "tf.ResizeBilinear: All operands and outputs must be batch parallel",
    ),
}


def behind_split_columns(shape: tuple[int, ...], create: Callable[[], Any]) -> keras.Model:
    inputs = keras.Input((4,))
    columns = keras.layers.Dense(math.prod(shape), "tanh", name="columns")(inputs)
    outputs = keras.layers.Flatten()(create()(keras.layers.Reshape(shape)(columns)))
    return keras.Model(inputs, keras.layers.Dense(3)(outputs))


def trained(shape: tuple[int, ...], create: Callable[[], Any]) -> None:
    assert_one_device(
        lambda: compiled(lambda: behind_split_columns(shape, create)), rows(16), on=split_columns()
    )


for _name, (_shape, _create, _pattern) in TRAINED.items():
    canary({f".{_name}": _pattern})(functools.partial(trained, _shape, _create))


@functools.cache
def split_vocabulary() -> tf.distribute.Strategy:
    rules = {"embeddings$": ("model", None)}
    return create_strategy("mesh", mesh={"batch": 1, "model": 2}, layout_map=rules)


@canary({"tensorflow.numpy.take": r"the table of \(64, 8\) is gathered by \['[^']*GatherV2"})
def vocabulary_split_over_a_mesh() -> None:
    """The table is not put together."""
    table = (64, 8)
    with split_vocabulary().scope():
        model = compiled(
            lambda: keras.Sequential([keras.Input((3,), dtype="int32"), keras.layers.Embedding(*table)]),
            loss="mse",
        )
    ids = np.arange(12).reshape(4, 3)
    found = mesh_collectives(lambda: model.fit(ids, np.zeros((4, 3, 8)), batch_size=4, verbose=0))
    whole = [one.name for one in found if one.shape == table]
    assert not whole, f"the table of {table} is gathered by {whole}"


@canary({"tensorflow.numpy.flip": "no rule for the operation tf.ReverseV2"})
def random_flips_on_a_mesh() -> None:
    class Flip(keras.layers.Layer):
        def call(self, inputs: Any) -> Any:
            return keras.ops.flip(inputs, axis=1)

    assert_one_device(lambda: compiled(lambda: dense(Flip())), mesh=True)


def targets() -> tuple[np.ndarray, np.ndarray]:
    return rows()[0], np.eye(3, dtype="float32")[rows()[1]]


@canary(
    {
        "tensorflow.numpy.diag": "no rule for the operation tf.MatrixDiagPartV3",
        "tensorflow.core.scatter": r"InvalidArgumentError: input shape\[0\] expected type int64 != int32",
    }
)
def intersection_over_union_on_a_mesh() -> None:
    def make() -> keras.Model:
        return compiled(metrics=[keras.metrics.OneHotMeanIoU(3, sparse_y_pred=False, name="iou")], loss="mse")

    assert_one_device(make, targets(), mesh=True)


@canary({"tensorflow.numpy.divide": "DTensor has no (way|rule)"})
def slices_of_an_embedding_under_rmsprop() -> None:
    def build() -> keras.Model:
        layers = [keras.layers.Embedding(4, 6), keras.layers.Flatten(), inner()]
        return keras.Sequential([keras.Input((2,), dtype="int32"), *layers])

    ids = np.arange(50, dtype="int32").reshape(25, 2) % 4

    def make() -> keras.Model:
        return compiled(build, lambda: keras.optimizers.RMSprop(0.01))

    assert_one_device(make, (ids, rows()[1]), on=split_columns())


@canary({"tensorflow.numpy.digitize": "no rule for the operation tf.Bucketize"})
def buckets_on_a_mesh() -> None:
    assert_one_device(
        lambda: compiled(lambda: dense(keras.layers.Discretization([-1.0, 0.0, 1.0]))), mesh=True
    )


class CountedRows(keras.metrics.Metric):
    """Returns its variable as it is."""

    def __init__(self) -> None:
        super().__init__(name="rows")
        self.rows = self.add_weight(initializer="zeros", name="rows")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.rows.assign_add(keras.ops.cast(keras.ops.shape(y_true)[0], "float32"))

    def result(self) -> Any:
        return self.rows


@canary({"get_metrics_result": "UnsupportedError: .* tf.py_function needs the host"})
def metric_that_returns_its_variable_on_a_mesh() -> None:
    assert_one_device(lambda: compiled(metrics=[CountedRows()]), mesh=True)


@functools.cache
def split_rows() -> tf.distribute.Strategy:
    rules = {"rows/kernel$": ("model", None)}
    return create_strategy("mesh", mesh={"batch": 2, "model": 2}, layout_map=rules)


@canary({"tensorflow.concat": r" differs by \d"})
def joined_columns_before_split_rows() -> None:
    def build() -> keras.Model:
        inputs = [keras.Input((8,)), keras.Input((8,))]
        joined = keras.layers.concatenate(inputs)
        return compiled(lambda: keras.Model(inputs, keras.layers.Dense(3, name="rows")(joined)))

    features, labels = np.random.default_rng(0).standard_normal((24, 16)).astype("float32"), rows(24)[1]
    assert_one_device(build, ([features[:, :8], features[:, 8:]], labels), on=split_rows())
