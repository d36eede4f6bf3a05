"""Losses that are no mean over the rows of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from benchmarks.faults.model import CLASSES, compiled, fault

Loss = Callable[[Any, Any], Any]


def _targets(y_true: Any) -> Any:
    return tf.one_hot(tf.cast(y_true, tf.int32), CLASSES)


def _errors(y_true: Any, y_pred: Any) -> Any:
    return tf.reduce_sum(tf.square(y_pred - _targets(y_true)), -1)


def _chances(y_pred: Any) -> Any:
    return tf.nn.softmax(y_pred)


def _dice(y_true: Any, y_pred: Any) -> Any:
    target, found = _targets(y_true), _chances(y_pred)
    return 1 - 2 * tf.reduce_sum(target * found) / (tf.reduce_sum(target) + tf.reduce_sum(found**2))


def _contrastive(y_true: Any, y_pred: Any) -> Any:
    unit = tf.math.l2_normalize(y_pred, -1)
    return keras.losses.sparse_categorical_crossentropy(
        tf.range(tf.shape(unit)[0]),
        unit @ tf.transpose(tf.math.l2_normalize(unit + 0.1, -1)),
        from_logits=True,
    )


def _balanced(y_true: Any, y_pred: Any) -> Any:
    share = tf.reduce_sum(_targets(y_true) * tf.reduce_mean(_targets(y_true), 0), -1)
    return _errors(y_true, y_pred) / (share + 0.1)


def _by_positives(y_true: Any, y_pred: Any) -> Any:
    positive = tf.cast(y_true > 0, tf.float32)
    return tf.reduce_sum(_errors(y_true, y_pred) * positive) / (tf.reduce_sum(positive) + 1.0)


def _hardest(y_true: Any, y_pred: Any) -> Any:
    distance = tf.reduce_sum(tf.square(y_pred[:, None] - y_pred[None]), -1)
    same = tf.cast(y_true[:, None] == y_true[None], tf.float32)
    return tf.reduce_max(distance * same, -1) - tf.reduce_min(distance + 1e3 * same, -1)


def _covariance(y_true: Any, y_pred: Any) -> Any:
    centered = y_pred - tf.reduce_mean(y_pred, 0)
    matrix = tf.transpose(centered) @ centered / tf.cast(tf.shape(y_pred)[0], tf.float32)
    return tf.reduce_sum(tf.square(matrix - tf.eye(CLASSES)))


def _cross_correlation(y_true: Any, y_pred: Any) -> Any:
    def scaled(z: Any) -> Any:
        return (z - tf.reduce_mean(z, 0)) / (tf.math.reduce_std(z, 0) + 1e-3)

    one, other = scaled(y_pred), scaled(tf.square(y_pred))
    matrix = tf.transpose(one) @ other / tf.cast(tf.shape(y_pred)[0], tf.float32)
    return tf.reduce_sum(tf.square(matrix - tf.eye(CLASSES)))


LOSSES: dict[str, Loss] = {
    "loss: a sum over the batch": lambda y, p: tf.reduce_sum(_errors(y, p)),
    "loss: a sum divided by the number of replicas": lambda y, p: (
        tf.reduce_sum(_errors(y, p)) / tf.cast(tf.distribute.get_strategy().num_replicas_in_sync, tf.float32)
    ),
    "loss: a sum divided by a fixed batch size": lambda y, p: tf.nn.compute_average_loss(
        _errors(y, p), global_batch_size=8
    ),
    "loss: Dice, a quotient of sums": _dice,
    "loss: the root of a mean": lambda y, p: tf.sqrt(tf.reduce_mean(_errors(y, p))),
    "loss: the logarithm of a mean": lambda y, p: tf.math.log(tf.reduce_mean(_errors(y, p))),
    "loss: the largest of the batch": lambda y, p: tf.reduce_max(_errors(y, p)),
    "loss: a soft maximum over the batch": lambda y, p: tf.reduce_logsumexp(_errors(y, p)),
    "loss: the variance over the batch": lambda y, p: tf.math.reduce_variance(_errors(y, p)),
    "loss: negatives of the batch": _contrastive,
    "loss: classes weighted by their share of the batch": _balanced,
    "loss: divided by the positives of the batch": _by_positives,
    "loss: the hardest pair of the batch": _hardest,
    "loss: a covariance over the batch": _covariance,
    "loss: a cross-correlation over the batch": _cross_correlation,
    "loss: the median of the batch": lambda y, p: tf.sort(_errors(y, p))[tf.shape(p)[0] // 2],
    "loss: the largest logit of the batch subtracted": lambda y, p: _errors(y, p * tf.reduce_max(p)),
}

for _name, _loss in LOSSES.items():
    fault(_name)(lambda loss=_loss: compiled(loss))
