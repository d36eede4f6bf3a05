"""What stands between the matrix products of a transformer block in training, each part one program of XLA.

TensorFlow runs these parts as chains of small operations, each of which reads and writes the whole activation. XLA
makes one pass of a chain. The products stay TensorFlow's, whose library is the faster one there. Each part has a
gradient of its own, which is one program too. It makes the mask of dropout again from its key instead of keeping it.

All parts compute in float32 and return the dtype of their first input.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfdist.models.counter_random import Key, dropped


def are_on() -> bool:
    """Returns whether parts are compiled where this is traced."""
    return not tf.executing_eagerly()


def bias_gelu(x: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """Returns GELU(x + bias), with the normal distribution's own function, for x of shape (..., H) and bias (H,)."""

    @tf.custom_gradient
    def part(x: tf.Tensor, bias: tf.Tensor) -> Any:
        return _shaped(_gelu(x, bias), x), lambda upstream: _gelu_gradient(upstream, x, bias)

    return part(x, bias)


def dropout_residual_norm(
    x: tf.Tensor,
    bias: tf.Tensor,
    residual: tf.Tensor,
    scale: tf.Tensor,
    shift: tf.Tensor,
    *,
    rate: float,
    epsilon: float,
    key: Key,
) -> tf.Tensor:
    """Returns layer normalization of residual + dropout(x + bias).

    Args:
        x: (B, L, H).
        bias: (H,).
        residual: (B, L, H).
        scale: (H,), of the normalization.
        shift: (H,), of the normalization.
        rate: Of dropout.
        epsilon: Of the normalization.
        key: Of the mask.
    """
    forward, backward = _residual_programs(rate, epsilon)

    @tf.custom_gradient
    def part(x: Any, bias: Any, residual: Any, scale: Any, shift: Any) -> Any:
        y, normal, inverse = forward(x, bias, residual, scale, shift, key)
        return _shaped(y, x), lambda upstream: backward(upstream, normal, inverse, bias, scale, key)

    return part(x, bias, residual, scale, shift)


def norm_dropout(
    x: tf.Tensor, scale: tf.Tensor, shift: tf.Tensor, *, rate: float, epsilon: float, key: Key
) -> tf.Tensor:
    """Returns dropout of the layer normalization of x (B, L, H); the other arguments as in `dropout_residual_norm`."""
    forward, backward = _norm_programs(rate, epsilon)

    @tf.custom_gradient
    def part(x: Any, scale: Any, shift: Any) -> Any:
        y, normal, inverse = forward(x, scale, shift, key)
        return _shaped(y, x), lambda upstream: backward(upstream, normal, inverse, scale, key)

    return part(x, scale, shift)


def softmax_dropout(scores: tf.Tensor, bias: tf.Tensor, *, rate: float, key: Key) -> tf.Tensor:
    """Returns dropout(softmax(scores + bias)) over the last axis; no gradient for the bias.

    Args:
        scores: (B, heads, L, L).
        bias: float32, of a shape that broadcasts to that of the scores.
        rate: Of dropout.
        key: Of the mask.
    """
    forward, backward = _softmax_programs(rate)

    @tf.custom_gradient
    def part(scores: Any) -> Any:
        y, probabilities = forward(scores, bias, key)
        return _shaped(y, scores), lambda upstream: backward(upstream, probabilities, key)

    return part(scores)


def _program(function: Callable[..., Any]) -> Callable[..., Any]:
    compiled: Callable[..., Any] = tf.function(
        function, jit_compile=True, autograph=False, reduce_retracing=True
    )
    return compiled


def _shaped(y: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """Returns the output of a program, which serves several shapes, with the shape that tracing knows of the input."""
    y.set_shape(x.shape)
    return y


def _exact(x: tf.Tensor) -> tf.Tensor:
    return tf.cast(x, tf.float32)


def _over_rows(x: tf.Tensor) -> tf.Tensor:
    """Returns the sum over all axes but the last."""
    return tf.reduce_sum(x, list(range(x.shape.rank - 1)))


@_program
def _gelu(x: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    exact = _exact(x) + _exact(bias)
    return tf.cast(exact * _probability(exact), x.dtype)


@_program
def _gelu_gradient(upstream: tf.Tensor, x: tf.Tensor, bias: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    exact = _exact(x) + _exact(bias)
    density = tf.exp(-0.5 * exact * exact) * (1.0 / math.sqrt(2.0 * math.pi))
    found = _exact(upstream) * (_probability(exact) + exact * density)
    return tf.cast(found, x.dtype), tf.cast(_over_rows(found), bias.dtype)


def _probability(x: tf.Tensor) -> tf.Tensor:
    return 0.5 * (1.0 + tf.math.erf(x * math.sqrt(0.5)))


def _normalized(x: tf.Tensor, epsilon: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the normalized rows, and the inverse of their deviation."""
    centred = x - tf.reduce_mean(x, -1, keepdims=True)
    inverse = tf.math.rsqrt(tf.reduce_mean(centred * centred, -1, keepdims=True) + epsilon)
    return centred * inverse, inverse


def _norm_gradient(upstream: tf.Tensor, normal: tf.Tensor, inverse: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
    scaled = upstream * _exact(scale)
    mean = tf.reduce_mean(scaled, -1, keepdims=True)
    along = tf.reduce_mean(scaled * normal, -1, keepdims=True)
    return inverse * (scaled - mean - normal * along)


@functools.cache
def _residual_programs(rate: float, epsilon: float) -> tuple[Callable[..., Any], Callable[..., Any]]:
    @_program
    def forward(x: Any, bias: Any, residual: Any, scale: Any, shift: Any, key: Key) -> Any:
        added = _exact(residual) + dropped(_exact(x) + _exact(bias), rate, key)
        normal, inverse = _normalized(added, epsilon)
        return tf.cast(normal * _exact(scale) + _exact(shift), x.dtype), tf.cast(normal, x.dtype), inverse

    @_program
    def backward(upstream: Any, normal: Any, inverse: Any, bias: Any, scale: Any, key: Key) -> Any:
        exact, normal = _exact(upstream), _exact(normal)
        of_residual = _norm_gradient(exact, normal, inverse, scale)
        of_x = dropped(of_residual, rate, key)
        return (
            tf.cast(of_x, upstream.dtype),
            tf.cast(_over_rows(of_x), bias.dtype),
            tf.cast(of_residual, upstream.dtype),
            tf.cast(_over_rows(exact * normal), scale.dtype),
            tf.cast(_over_rows(exact), scale.dtype),
        )

    return forward, backward


@functools.cache
def _norm_programs(rate: float, epsilon: float) -> tuple[Callable[..., Any], Callable[..., Any]]:
    @_program
    def forward(x: Any, scale: Any, shift: Any, key: Key) -> Any:
        normal, inverse = _normalized(_exact(x), epsilon)
        y = dropped(normal * _exact(scale) + _exact(shift), rate, key)
        return tf.cast(y, x.dtype), tf.cast(normal, x.dtype), inverse

    @_program
    def backward(upstream: Any, normal: Any, inverse: Any, scale: Any, key: Key) -> Any:
        exact, normal = dropped(_exact(upstream), rate, key), _exact(normal)
        return (
            tf.cast(_norm_gradient(exact, normal, inverse, scale), upstream.dtype),
            tf.cast(_over_rows(exact * normal), scale.dtype),
            tf.cast(_over_rows(exact), scale.dtype),
        )

    return forward, backward


@functools.cache
def _softmax_programs(rate: float) -> tuple[Callable[..., Any], Callable[..., Any]]:
    @_program
    def forward(scores: Any, bias: Any, key: Key) -> Any:
        probabilities = tf.nn.softmax(_exact(scores) + bias)
        y = dropped(probabilities, rate, key)
        return tf.cast(y, scores.dtype), tf.cast(probabilities, scores.dtype)

    @_program
    def backward(upstream: Any, probabilities: Any, key: Key) -> Any:
        exact, probabilities = dropped(_exact(upstream), rate, key), _exact(probabilities)
        along = tf.reduce_sum(exact * probabilities, -1, keepdims=True)
        return tf.cast(probabilities * (exact - along), upstream.dtype)

    return forward, backward
