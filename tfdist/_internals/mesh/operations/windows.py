"""Windows that move over a batch: average pooling and depthwise convolution.

DTensor has layout rules for the two operations, and none for their gradients. So the gradients are made here, of the
same operations: the gradient of the inputs is the window moved over the gradient of the results, with zeros between the
results where there are strides and zeros around them. It reads each input's windows instead of each window's inputs.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from keras.src import backend

from tfdist._internals.mesh.step import MeshStep
from tfdist.errors import UnsupportedError


class Windows(NamedTuple):
    """Along one dimension: the inputs, the window, its stride, and the zeros before and after the inputs."""

    inputs: int
    size: int
    stride: int
    before: int
    after: int

    @classmethod
    def create(cls, inputs: int | None, size: int, stride: int, padding: str) -> Windows:
        """Returns the windows of Keras's padding `"valid"` or `"same"`.

        Raises:
            UnsupportedError: The number of inputs is not known.
        """
        if inputs is None:
            raise UnsupportedError(
                "the mesh strategy pools and convolves images and sequences of one size, and the batches say none. "
                "Bring them to one size in the dataset."
            )
        if padding.lower() == "valid":
            return cls(inputs, size, stride, 0, 0)
        total = max((math.ceil(inputs / stride) - 1) * stride + size - inputs, 0)
        return cls(inputs, size, stride, total // 2, total - total // 2)

    @property
    def number(self) -> int:
        """How many windows there are."""
        return (self.before + self.inputs + self.after - self.size) // self.stride + 1

    @property
    def filled(self) -> np.ndarray:
        """How many inputs each window has, without zeros around them."""
        starts = np.arange(self.number) * self.stride - self.before
        return np.minimum(starts + self.size, self.inputs) - np.maximum(starts, 0)


def of_inputs(results: tf.Tensor, windows: Sequence[Windows]) -> tf.Tensor:
    """Returns the results with zeros between and around them, so that one window a step of 1 ends at each input."""
    channels = results.shape[-1]
    for axis, one in enumerate(windows, 1):
        shape = results.shape.as_list()
        if one.stride > 1:
            split = tf.reshape(results, [-1, *shape[1 : axis + 1], 1, *shape[axis + 1 : -1], channels])
            split = tf.pad(split, _padding(split, axis + 1, 0, one.stride - 1))
            results = tf.reshape(
                split, [-1, *shape[1:axis], one.number * one.stride, *shape[axis + 1 : -1], channels]
            )
            last = (one.number - 1) * one.stride + 1
            results = results[(slice(None),) * axis + (slice(last),)]
        before = one.size - 1 - one.before
        after = one.inputs + one.before - (one.number - 1) * one.stride - 1
        results = tf.pad(results, _padding(results, axis, before, after))
    return results


def _padding(value: tf.Tensor, axis: int, before: int, after: int) -> list[list[int]]:
    return [[before, after] if dimension == axis else [0, 0] for dimension in range(value.shape.rank)]


def channels_last(value: tf.Tensor, data_format: str) -> tf.Tensor:
    """Returns a batch with its channels last."""
    rank = value.shape.rank
    return value if data_format == "channels_last" else tf.transpose(value, [0, *range(2, rank), 1])


def as_given(value: tf.Tensor, data_format: str) -> tf.Tensor:
    """Returns a batch whose channels are last as `data_format` has it."""
    rank = value.shape.rank
    return (
        value if data_format == "channels_last" else tf.transpose(value, [0, rank - 1, *range(1, rank - 1)])
    )


def each(value: Any, count: int) -> tuple[int, ...]:
    """Returns a number for each of `count` dimensions."""
    return (value,) * count if isinstance(value, int) else tuple(value)


def average_pool(
    step: MeshStep,
    stock: Any,
    inputs: Any,
    pool_size: Any,
    strides: Any = None,
    padding: str = "valid",
    data_format: str | None = None,
) -> Any:
    """Pools with a gradient that DTensor can split."""
    data_format = backend.standardize_data_format(data_format)
    inputs = channels_last(step.by_batch(inputs), data_format)
    rank = inputs.shape.rank - 2
    sizes, moves = each(pool_size, rank), each(pool_size if strides is None else strides, rank)
    windows = [
        Windows.create(*each_one, padding) for each_one in zip(inputs.shape[1:-1], sizes, moves, strict=True)
    ]
    inside = math.prod(sizes) / _outer(*(one.filled for one in windows))

    @tf.custom_gradient
    def pool(inputs: tf.Tensor) -> Any:
        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            weighted = step.by_batch(upstream) * tf.constant(inside[None, ..., None], upstream.dtype)
            return step.by_batch(stock(of_inputs(weighted, windows), sizes, 1, "valid", "channels_last"))

        return step.by_batch(stock(inputs, sizes, moves, padding, "channels_last")), gradient

    return step.by_batch(as_given(pool(inputs), data_format))


def _outer(*counts: np.ndarray) -> np.ndarray:
    return functools.reduce(np.multiply, np.ix_(*counts))


def adaptive_average_pool(
    step: MeshStep, stock: Any, inputs: Any, output_size: Any, data_format: str | None = None
) -> Any:
    """Pools to a given size by a product for each dimension; stock pools twice and gathers."""
    data_format = backend.standardize_data_format(data_format)
    inputs = channels_last(step.by_batch(inputs), data_format)
    for axis, count in enumerate(each(output_size, inputs.shape.rank - 2), 1):
        size = Windows.create(inputs.shape[axis], 1, 1, "valid").inputs
        means = np.zeros((size, count), "float32")
        for index in range(count):
            start, end = index * size // count, -((index + 1) * -size // count)
            means[start:end, index] = 1 / (end - start)
        letters = "abcdef"[: inputs.shape.rank]
        inputs = tf.einsum(
            f"{letters},{letters[axis]}z->{letters.replace(letters[axis], 'z')}",
            inputs,
            tf.constant(means, inputs.dtype),
        )
    return step.by_batch(as_given(step.by_batch(inputs), data_format))


def depthwise(step: MeshStep, inputs: tf.Tensor, kernel: tf.Tensor, stride: int, padding: str) -> tf.Tensor:
    """Convolves each channel of images by itself, with a gradient that DTensor can split.

    Args:
        step: The step.
        inputs: Images with channels last, split over the batch alone.
        kernel: A whole kernel of the shape (height, width, channels, multiplier).
        stride: The same along height and width.
        padding: `"valid"` or `"same"`.
    """
    height, width, channels, multiplier = kernel.shape
    windows = [
        Windows.create(size, window, stride, padding)
        for size, window in zip(inputs.shape[1:3], (height, width), strict=True)
    ]
    turned = tf.constant(np.arange(height * width)[::-1].copy(), tf.int32)

    def convolve(inputs: tf.Tensor, kernel: tf.Tensor, stride: int, padding: str) -> tf.Tensor:
        return step.by_batch(tf.nn.depthwise_conv2d(inputs, kernel, [1, stride, stride, 1], padding.upper()))

    @tf.custom_gradient
    def convolution(inputs: tf.Tensor, kernel: tf.Tensor) -> Any:
        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            upstream = step.by_batch(upstream)
            flat = tf.gather(tf.reshape(kernel, [height * width, channels * multiplier]), turned)
            mirrored = tf.reshape(flat, [height, width, channels * multiplier, 1])
            of_each = convolve(of_inputs(upstream, windows), mirrored, 1, "valid")
            if multiplier > 1:
                of_each = tf.reduce_sum(
                    tf.reshape(of_each, [-1, *inputs.shape[1:3], channels, multiplier]), axis=-1
                )
            return step.by_batch(of_each), step.whole(_of_kernel(step, inputs, upstream, windows, multiplier))

        return convolve(inputs, kernel, stride, padding), gradient

    return convolution(inputs, kernel)


def _of_kernel(
    step: MeshStep, inputs: tf.Tensor, upstream: tf.Tensor, windows: Sequence[Windows], multiplier: int
) -> tf.Tensor:
    """Returns the kernel's gradient: at each place of the window, its inputs times the gradient of the results."""
    rows, columns = windows
    around = [[0, 0], [rows.before, rows.after], [columns.before, columns.after], [0, 0]]
    inputs = tf.expand_dims(tf.pad(inputs, around), -1)
    channels = inputs.shape[-2]
    upstream = tf.reshape(upstream, [-1, rows.number, columns.number, channels, multiplier])
    # The sum over rows of the batch is one for all places, since the devices of the batch exchange it.
    places = [
        tf.reduce_sum(inputs[:, _seen(rows, top), _seen(columns, left)] * upstream, axis=[1, 2])
        for top, left in itertools.product(range(rows.size), range(columns.size))
    ]
    summed = tf.reduce_sum(tf.stack(places), axis=1)
    return tf.reshape(summed, [rows.size, columns.size, channels, multiplier])


def _seen(windows: Windows, place: int) -> slice:
    return slice(place, place + (windows.number - 1) * windows.stride + 1, windows.stride)
