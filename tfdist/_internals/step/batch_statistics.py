"""Synchronized batch moments are summed in one collective, and padding does not count.

Stock sums the rows, their squares and their count in three collectives for each layer. It also counts the row of
padding on which a replica without data runs.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from keras.src.backend.tensorflow import nn
from keras.src.layers.normalization.batch_normalization import BatchNormalization

from tfdist._internals.contract import Step, sizes_of_replicas
from tfdist._internals.patch import Patch, in_step


def _row_weights(step: Step, x: tf.Tensor) -> tf.Tensor:
    """Returns weights of shape `(rows, 1, …)`, 0 for padding."""
    rows = tf.shape(x)[0]
    return tf.reshape(tf.cast(step.row_mask(rows), x.dtype), [rows] + [1] * (x.shape.rank - 1))


def _weighted_sums(step: Step, x: tf.Tensor, axes: Any) -> list[tf.Tensor]:
    weights = tf.broadcast_to(_row_weights(step, x), tf.shape(x))
    parts = (x * weights, tf.square(x) * weights, weights)
    return [tf.reduce_sum(part, axis=axes, keepdims=True) for part in parts]


def _from_sums(sums: list[tf.Tensor], axes: Any, keepdims: bool) -> tuple[tf.Tensor, tf.Tensor]:
    total, squares, count = sums
    mean = tf.math.divide_no_nan(total, count)
    variance = tf.maximum(tf.math.divide_no_nan(squares, count) - tf.square(mean), 0.0)
    return (mean, variance) if keepdims else (tf.squeeze(mean, axes), tf.squeeze(variance, axes))


def _one_collective(step: Step, stock: Any, x: Any, axes: Any, keepdims: bool) -> Any:
    if 0 not in axes:
        return stock(x, axes, keepdims)
    return _from_sums(step.sum(_weighted_sums(step, x, axes)), axes, keepdims)


def _without_padding(step: Step, stock: Any, x: Any, axes: Any, keepdims: bool) -> Any:
    if not step.padded or 0 not in axes:
        return stock(x, axes, keepdims)
    return _from_sums(_weighted_sums(step, x, axes), axes, keepdims)


def _by_replica(stock: Any) -> Any:
    @functools.wraps(stock)
    def call(layer: Any, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        sizes = sizes_of_replicas()
        if not sizes or not training or layer.synchronized or not layer.trainable:
            return stock(layer, inputs, training=training, mask=mask)
        return _of_each_replica(stock, layer, inputs, mask, sizes)

    return call


def _of_each_replica(stock: Any, layer: Any, inputs: Any, mask: Any, sizes: Sequence[int]) -> Any:
    """Normalises the rows of each replica by their own statistics, as each replica does."""
    moving = (layer.moving_mean, layer.moving_variance)
    before = [tf.identity(variable.value) for variable in moving]
    means = [tf.zeros_like(value) for value in before]
    parts = tf.split(inputs, sizes)
    masks = [None] * len(sizes) if mask is None else tf.split(mask, sizes)
    outputs = []
    for part, part_mask, size in zip(parts, masks, sizes, strict=True):
        if size:
            for variable, value in zip(moving, before, strict=True):
                variable.assign(value)
            outputs.append(stock(layer, part, training=True, mask=part_mask))
            share = size / sum(sizes)
            means = [mean + share * variable.value for mean, variable in zip(means, moving, strict=True)]
    for variable, mean in zip(moving, means, strict=True):
        variable.assign(mean)
    return tf.concat(outputs, 0)


PATCHES = (
    Patch(
        name="step.batch_statistics",
        owner=BatchNormalization,
        attribute="call",
        make=_by_replica,
        reason="the reference of the self check has all rows, and must normalise those of each replica by themselves",
        upstream="no thread; stock is right on one device",
    ),
    Patch(
        name="step.batch_statistics",
        owner=nn,
        attribute="_compute_moments_sync",
        make=in_step(_one_collective),
        reason="three collectives for each layer",
        upstream="a TODO in the source (b/163099951)",
    ),
    Patch(
        name="step.batch_statistics",
        owner=nn,
        attribute="_compute_moments",
        make=in_step(_without_padding),
        reason="padding to static shapes would enter the statistics",
        upstream="no thread found",
    ),
)
