"""Canaries of the patches of losses, metrics, variables and batch statistics."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from canary import (
    BATCH,
    assert_one_device,
    canary,
    collectives,
    compiled,
    crossentropy,
    dense,
    rows,
    strategy,
)


@canary(
    {
        "losses.loss.scale_loss_for_distribution": r"weight 0 differs by 0\.88",
        "_direct_assign": r"accuracy differs by 0\.015",
    }
)
def uneven_rows() -> None:
    assert_one_device(lambda: compiled(metrics=["accuracy"]))


@canary({"unscale_loss_for_distribution": "a_loss differs by 1"})
def losses_of_several_outputs() -> None:
    def build() -> keras.Model:
        inputs = keras.Input((4,))
        outputs = {name: keras.layers.Dense(3, name=name)(inputs) for name in "ab"}
        return keras.Model(inputs, outputs)

    features, labels = rows(16)
    assert_one_device(
        lambda: compiled(build, loss={"a": crossentropy(), "b": crossentropy()}),
        (features, {"a": labels, "b": labels}),
    )


@canary({"reduce_weighted_values": r"weight 0 differs by 0\.017"})
def masked_loss() -> None:
    def build() -> keras.Model:
        embedding = keras.layers.Embedding(9, 4, mask_zero=True)
        return keras.Sequential([keras.Input((5,), dtype="int32"), embedding, keras.layers.Dense(3)])

    generator = np.random.default_rng(0)
    lengths = np.arange(16)[:, None] % 8
    ids = (generator.integers(1, 9, (16, 5)) * (np.arange(5) <= lengths)).astype("int32")
    assert_one_device(lambda: compiled(build), (ids, generator.integers(0, 3, (16, 5))))


@canary({"Mean.update_state": r"size differs by 0\.27"})
def mean_of_a_scalar() -> None:
    class Tracking(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.layer = keras.layers.Dense(3)
            self.tracker = keras.metrics.Mean(name="size")

        def call(self, inputs: Any) -> Any:
            return self.layer(inputs)

        def train_step(self, data: Any) -> Any:
            logs = super().train_step(data)
            self.tracker.update_state(tf.reduce_mean(data[0]))
            return {**logs, "size": self.tracker.result()}

    assert_one_device(lambda: compiled(Tracking))


@canary({"MetricsList.update_state": r"accuracy differs by 0\.043"})
def metric_without_padding() -> None:
    assert_one_device(lambda: compiled(metrics=["accuracy"]), static=True)


@canary({"test_step": r"the loss differs by 0\.096"})
def validation_without_padding() -> None:
    with strategy(static=True).scope():
        found = compiled().evaluate(*rows(), batch_size=BATCH, verbose=0)
    expected = compiled().evaluate(*rows(), batch_size=BATCH, verbose=0)
    assert abs(found - expected) <= 1e-5, f"the loss differs by {abs(found - expected):.2g}"


@canary({"nn._compute_moments": r"weight 4 differs by 0\.15"})
def local_statistics_without_padding() -> None:
    norm = lambda: compiled(lambda: dense(keras.layers.BatchNormalization()))  # noqa: E731
    assert_one_device(norm, rows(13), static=True, devices=1)


@canary({"_compute_moments_sync": "^AssertionError: 4 collectives"})
def one_collective_a_layer() -> None:
    layer = keras.layers.BatchNormalization(synchronized=True)
    number = collectives(build=lambda: dense(layer))
    assert number == 2, f"{number:g} collectives"  # moments, and gradients


@canary({"loss.Loss.__call__": r"weight 0 differs by"})
def loss_of_the_whole_batch() -> None:
    features, labels = rows()
    codes = np.eye(3, dtype="float32")[labels]
    assert_one_device(lambda: compiled(loss=keras.losses.Dice()), (features, codes))


@canary({"MeanMetricWrapper.update_state": r"dice differs by"})
def metric_of_the_whole_batch() -> None:
    features, labels = rows()
    codes = np.eye(3, dtype="float32")[labels]

    def build() -> keras.Model:
        return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="sigmoid")])

    assert_one_device(lambda: compiled(build, loss="mse", metrics=[keras.losses.dice]), (features, codes))


class Total(keras.layers.Layer):
    """Adds up its inputs over all batches."""

    def build(self, shape: Any) -> None:
        self.total = self.add_weight(shape=(), initializer="ones", trainable=False, aggregation="sum")

    def call(self, inputs: Any) -> Any:
        self.total.assign(self.total + tf.reduce_sum(inputs))
        return inputs


@canary({"Variable._map_aggregation": r"weight 0 differs by"})
def changes_that_add_up() -> None:
    assert_one_device(lambda: compiled(lambda: dense(Total())))
