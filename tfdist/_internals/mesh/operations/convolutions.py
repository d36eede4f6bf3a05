"""Convolutions with whole kernels, of inputs that are split over the batch alone."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from keras.src import backend

from tfdist._internals.mesh.operations.windows import as_given, channels_last, depthwise, each
from tfdist._internals.mesh.step import MeshStep


def conv(step: MeshStep, stock: Any, inputs: Any, kernel: Any, *args: Any, **kwargs: Any) -> Any:
    """Convolves; in groups, where a kernel takes a part of the channels. Stock has XLA do those on a CPU."""
    strides, padding, data_format, dilation_rate = _options(*args, **kwargs)
    # A CPU has no gradient for channels first.
    inputs, kernel = channels_last(step.by_batch(inputs), data_format), step.whole(kernel)
    num_channels, taken = inputs.shape[-1], kernel.shape[-2]
    groups = num_channels // taken
    kernel = _dilated(kernel, dilation_rate)
    options = (strides, padding, "channels_last")
    if groups == 1:
        results = stock(inputs, kernel, *options)
    elif taken == 1 and inputs.shape.rank < 5:
        by_channel = tf.reshape(kernel, [*kernel.shape[:-2], num_channels, -1])
        results = depthwise_conv(step, None, inputs, by_channel, *options)
    else:
        # Each part is a slice of its own: DTensor may number the results of one operation otherwise in each process.
        given = kernel.shape[-1] // groups
        parts = [
            stock(
                step.by_batch(inputs[..., group * taken : (group + 1) * taken]),
                step.whole(kernel[..., group * given : (group + 1) * given]),
                *options,
            )
            for group in range(groups)
        ]
        results = tf.concat([step.by_batch(part) for part in parts], -1)
    return step.by_batch(as_given(step.by_batch(results), data_format))


def _options(
    strides: Any = 1, padding: str = "valid", data_format: str | None = None, dilation_rate: Any = 1
) -> tuple[Any, str, str, Any]:
    return strides, padding, backend.standardize_data_format(data_format), dilation_rate


def depthwise_conv(
    step: MeshStep,
    stock: Any,
    inputs: Any,
    kernel: Any,
    strides: Any = 1,
    padding: str = "valid",
    data_format: str | None = None,
    dilation_rate: Any = 1,
) -> Any:
    """Convolves each channel by itself."""
    data_format = backend.standardize_data_format(data_format)
    inputs, kernel = channels_last(step.by_batch(inputs), data_format), step.whole(kernel)
    rank = inputs.shape.rank - 2
    rates, moves = each(dilation_rate, rank), each(strides, rank)
    if rank == 1:
        inputs, kernel, rates = tf.expand_dims(inputs, 1), tf.expand_dims(kernel, 0), (1, *rates)
    # One stride for both dimensions, as TensorFlow has it.
    results = depthwise(step, inputs, step.whole(_dilated(kernel, rates)), moves[-1], padding)
    return step.by_batch(as_given(tf.squeeze(results, [1]) if rank == 1 else results, data_format))


def _dilated(kernel: tf.Tensor, rates: Any) -> tf.Tensor:
    """Returns the kernel with zeros between its values, since DTensor has no rule for what stock makes of the rates."""
    for axis, rate in enumerate(each(rates, kernel.shape.rank - 2)):
        if rate == 1:
            continue
        before, size, after = kernel.shape[:axis], kernel.shape[axis], kernel.shape[axis + 1 :]
        spread = tf.expand_dims(kernel, axis + 1)
        around = [[0, rate - 1 if index == axis + 1 else 0] for index in range(spread.shape.rank)]
        spread = tf.reshape(tf.pad(spread, around), [*before, size * rate, *after])
        kernel = spread[(slice(None),) * axis + (slice((size - 1) * rate + 1),)]
    return kernel


def separable_conv(
    step: MeshStep,
    stock: Any,
    inputs: Any,
    depthwise_kernel: Any,
    pointwise_kernel: Any,
    strides: Any = 1,
    padding: str = "valid",
    data_format: str | None = None,
    dilation_rate: Any = 1,
) -> Any:
    """Convolves each channel by itself, and then across the channels with a window of one."""
    by_channel = depthwise_conv(
        step, None, inputs, depthwise_kernel, strides, padding, data_format, dilation_rate
    )
    # Keras's own function, which the step runs as this mesh does.
    return backend.nn.conv(by_channel, pointwise_kernel, 1, "valid", data_format)
