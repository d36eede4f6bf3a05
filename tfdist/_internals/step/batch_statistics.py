"""Synchronized batch moments take one collective and are as exact as those of one device; padding does not count.

Stock sums the rows, their squares and their count in three collectives for each layer. The variance is then the
difference of two large numbers, and loses the digits that these have in common. Here each replica sends its own
moments around its own mean, which are joined without such a loss (Chan, Golub and LeVeque, "Updating formulae and a
pairwise algorithm for computing sample variances", 1979). Stock also counts the row of padding on which a replica
without data runs.
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


def _of_part(step: Step, x: tf.Tensor, axes: Sequence[int]) -> list[tf.Tensor]:
    """Returns the number of values here for each mean, their mean, and the sum of the squares around it."""
    shape = tf.shape(x)
    weights = tf.reshape(tf.cast(step.row_mask(shape[0]), x.dtype), [shape[0]] + [1] * (x.shape.rank - 1))
    count = tf.reduce_sum(weights, keepdims=True)
    for axis in axes:
        if axis != 0:
            count *= tf.cast(shape[axis], x.dtype)
    mean = tf.math.divide_no_nan(tf.reduce_sum(x * weights, axes, keepdims=True), count)
    return [count, mean, tf.reduce_sum(tf.square(x - mean) * weights, axes, keepdims=True)]


def _of_all(step: Step, parts: list[tf.Tensor]) -> list[tf.Tensor]:
    """Returns what `_of_part` does, of all parts."""
    counts, means, squares = step.of_each_part(parts)
    count = tf.reduce_sum(counts, 0)
    mean = tf.math.divide_no_nan(tf.reduce_sum(counts * means, 0), count)
    return [count, mean, tf.reduce_sum(squares + counts * tf.square(means - mean), 0)]


def _moments(parts: list[tf.Tensor], axes: Any, keepdims: bool) -> tuple[tf.Tensor, tf.Tensor]:
    count, mean, squares = parts
    variance = tf.math.divide_no_nan(squares, count)
    return (mean, variance) if keepdims else (tf.squeeze(mean, axes), tf.squeeze(variance, axes))


def _one_collective(step: Step, stock: Any, x: Any, axes: Any, keepdims: bool) -> Any:
    if 0 not in axes:
        return stock(x, axes, keepdims)
    return _moments(_of_all(step, _of_part(step, x, axes)), axes, keepdims)


def _without_padding(step: Step, stock: Any, x: Any, axes: Any, keepdims: bool) -> Any:
    if not step.padded or 0 not in axes:
        return stock(x, axes, keepdims)
    return _moments(_of_part(step, x, axes), axes, keepdims)


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
        reason="three collectives for each layer, and a variance that is the difference of two large numbers",
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
