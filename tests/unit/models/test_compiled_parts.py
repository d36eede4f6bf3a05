"""Parts of a transformer block that XLA compiles, against the same by plain operations; and the masks of dropout."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tfdist.models import compiled_parts
from tfdist.models.counter_random import Key, dropped, no_key, uniform_bits

KEY = Key(tf.constant([7, 11], tf.uint32), tf.constant(0, tf.int64))
EPSILON = 1e-6


def normal(*shape: int, seed: int = 0) -> tf.Tensor:
    return tf.constant(np.random.default_rng(seed).normal(size=shape), tf.float32)


def normalized(x: Any, scale: Any, shift: Any) -> Any:
    # Not `tf.nn.moments`: it stops the gradient of the mean within the variance, so that a second gradient is wrong.
    centred = x - tf.reduce_mean(x, -1, keepdims=True)
    variance = tf.reduce_mean(centred * centred, -1, keepdims=True)
    return centred * tf.math.rsqrt(variance + EPSILON) * scale + shift


def gelu(x: Any) -> Any:
    return 0.5 * x * (1.0 + tf.math.erf(x / math.sqrt(2.0)))


def parts(rate: float, key: Key) -> dict[str, tuple[Any, Any, list[tf.Tensor]]]:
    """Name -> the part, the same by plain operations, and its inputs."""
    rows, vector = (3, 5, 8), (8,)
    mask = tf.constant([[[[0.0, 0.0, 0.0, -1e9]]]] * 2, tf.float32)
    options = {"rate": rate, "epsilon": EPSILON, "key": key}
    return {
        "gelu": (
            compiled_parts.bias_gelu,
            lambda x, bias: gelu(x + bias),
            [normal(*rows), normal(*vector, seed=1)],
        ),
        "residual": (
            lambda *inputs: compiled_parts.dropout_residual_norm(*inputs, **options),
            lambda x, bias, old, scale, shift: normalized(old + dropped(x + bias, rate, key), scale, shift),
            [
                normal(*rows),
                normal(*vector, seed=1),
                normal(*rows, seed=2),
                normal(*vector, seed=3),
                normal(*vector),
            ],
        ),
        "norm": (
            lambda *inputs: compiled_parts.norm_dropout(*inputs, **options),
            lambda x, scale, shift: dropped(normalized(x, scale, shift), rate, key),
            [normal(*rows), normal(*vector, seed=1), normal(*vector, seed=2)],
        ),
        "softmax": (
            lambda scores: compiled_parts.softmax_dropout(scores, mask, rate=rate, key=key),
            lambda scores: dropped(tf.nn.softmax(scores + mask), rate, key),
            [normal(2, 3, 4, 4)],
        ),
    }


def value_and_gradients(function: Any, inputs: list[tf.Tensor]) -> list[np.ndarray]:
    @tf.function(autograph=False)
    def run() -> Any:
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            y = function(*inputs)
            loss = tf.reduce_sum(tf.cast(y, tf.float32) * normal(*y.shape, seed=9))
        return [y, *tape.gradient(loss, inputs)]

    return [np.asarray(tf.cast(one, tf.float32)) for one in run()]


@pytest.mark.parametrize("rate", [0.0, 0.4])
@pytest.mark.parametrize("name", ["gelu", "residual", "norm", "softmax"])
def test_a_part_and_its_gradients_are_those_of_plain_operations(name: str, rate: float) -> None:
    part, plain, inputs = parts(rate, KEY if rate else no_key())[name]
    for found, expected in zip(
        value_and_gradients(part, inputs), value_and_gradients(plain, inputs), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("name", ["gelu", "residual", "norm", "softmax"])
def test_half_precision_is_rounded_at_the_end_alone(name: str) -> None:
    part, plain, inputs = parts(0.0, no_key())[name]
    half = [tf.cast(one, tf.bfloat16) for one in inputs]
    rounded = [tf.cast(one, tf.float32) for one in half]
    found, expected = value_and_gradients(part, half), value_and_gradients(plain, rounded)
    # The output is rounded once, to half of the spacing of bfloat16. Gradients use values that are rounded so.
    np.testing.assert_allclose(found[0], expected[0], rtol=2.0**-8)
    for one, other in zip(found[1:], expected[1:], strict=True):
        np.testing.assert_allclose(one, other, atol=2.0**-6 * np.abs(other).max())


def test_a_part_has_a_second_gradient() -> None:
    part, plain, inputs = parts(0.4, KEY)["residual"]

    def penalty(function: Any) -> Any:
        def of(x: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(x)
                loss = tf.reduce_sum(tf.square(function(x, *inputs[1:])))
            return tape.gradient(loss, x)

        return of

    found = value_and_gradients(penalty(part), inputs[:1])
    expected = value_and_gradients(penalty(plain), inputs[:1])
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-5, atol=2e-5)


def bits(shape: tuple[int, ...], first_row: int = 0, seed: tuple[int, int] = (3, 5)) -> np.ndarray:
    key = Key(tf.constant(seed, tf.uint32), tf.constant(first_row, tf.int64))
    return np.asarray(uniform_bits(tf.constant(shape), key))


def test_rows_have_their_bits_wherever_they_are() -> None:
    whole = bits((16, 3, 5))
    np.testing.assert_array_equal(bits((6, 3, 5), first_row=10), whole[10:])


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_a_mask_drops_its_share_and_keeps_the_mean(share: float) -> None:
    count = 2**20
    found = np.asarray(dropped(tf.ones([1024, 1024]), share, KEY))
    # Six deviations of a binomial.
    assert abs((found == 0).mean() - share) < 6 * math.sqrt(share * (1 - share) / count)
    np.testing.assert_allclose(found.max(), 1 / (1 - share), rtol=1e-6)


def test_a_mask_may_drop_all() -> None:
    np.testing.assert_array_equal(dropped(tf.ones([3, 4]), 1.0, KEY), np.zeros((3, 4)))


def test_every_bit_is_fair_and_does_not_tell_of_the_next_number_or_key() -> None:
    count = 2**18
    sample = {
        "one": bits((count,)),
        "the next numbers": bits((count,), first_row=1),
        "the next key": bits((count,), seed=(3, 6)),
        "the key before": bits((count,), seed=(2, 5)),
        "numbers far away": bits((count,), first_row=2**31),
    }
    spread = {
        name: (np.unpackbits(one.view(np.uint8)).reshape(count, 32) * 2.0 - 1.0)
        for name, one in sample.items()
    }
    bound = 6 / math.sqrt(count)
    for name, one in spread.items():
        assert np.abs(one.mean(0)).max() < bound, name
        if name != "one":
            assert np.abs(spread["one"].T @ one / count).max() < bound, name
    correlations = spread["one"].T @ spread["one"] / count - np.eye(32)
    assert np.abs(correlations).max() < bound


def test_bits_are_spread_evenly() -> None:
    # Chi-square of 256 classes of the highest bits, and of the lowest ones.
    found = bits((2**20,))
    for classes in (found >> 24, found & 255):
        counts = np.bincount(classes, minlength=256)
        chi = ((counts - 2**12) ** 2 / 2**12).sum()
        assert 150 < chi < 390  # mean 255, deviation 22.6
