"""What a script reads of a variable between two steps, in callbacks and after `fit`, is what it reads on one device."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist.parity import tiny
from tfdist.parity.context import Context
from tfdist.parity.registry import case

# What is done with a learning rate, a counter and a kernel.
OF_RATE: dict[str, Callable[[Any], Any]] = {
    "float": float,
    "format": lambda rate: float(f"{float(rate):.4f}"),
    "percent": lambda rate: float("%.4f" % rate),  # noqa: UP031
    "round": lambda rate: round(float(rate), 3),
    "math": math.sqrt,
    "complex": lambda rate: complex(rate).real,
    "maximum": lambda rate: float(max(rate, 0.01)),
    "compared": lambda rate: [rate < 0.5, rate == 0.5, rate != 0.5],
    "arithmetic": lambda rate: [rate + 1, 1 - rate, rate * rate, rate / 2, rate**2, -rate, abs(rate)],
    "numpy": lambda rate: [np.asarray(rate).item(), np.float32(rate), rate.numpy()],
    "value": lambda rate: [float(rate.value), np.asarray(rate.value).item(), bool(rate.value > 0.01)],
    "config": lambda rate: float(keras.ops.convert_to_numpy(rate)),
}
OF_COUNTER: dict[str, Callable[[Any], Any]] = {
    "int": int,
    "percent": lambda count: int("%d" % count),  # noqa: UP031
    "range": lambda count: list(range(int(count))),
    "true": lambda count: [bool(count.value), bool(count > 0), bool(count.value - count.value)],
    "divided": lambda count: [count % 3, count // 2],
    "cast": lambda count: keras.ops.cast(count, "float32"),
}
OF_KERNEL: dict[str, Callable[[Any], Any]] = {
    "tensor": tf.convert_to_tensor,
    "numpy": lambda kernel: np.mean(kernel) + np.max(kernel) + np.dot(np.ones(4), kernel),
    "index": lambda kernel: [kernel[0, 0], kernel.value[0, 0]],
    "ops": lambda kernel: keras.ops.norm(kernel) + keras.ops.sum(keras.ops.square(kernel)),
    "functions": lambda kernel: tf.norm(kernel) + tf.nn.l2_loss(kernel) + tf.reduce_sum(tf.abs(kernel)),
    "compared": lambda kernel: keras.ops.any(keras.ops.isnan(kernel)),
    "with itself": lambda kernel: [
        kernel == kernel,
        kernel > 0 * kernel,
        kernel % np.ones((4, 3), "float32"),
    ],
    "with others": lambda kernel: kernel - np.ones((4, 3), "float32") + tf.ones((4, 3)),
    "maximum": lambda kernel: keras.ops.maximum(kernel, keras.ops.zeros((4, 3))),
    "transposed": lambda kernel: keras.ops.matmul(keras.ops.transpose(kernel), kernel),
}


class Reader(keras.callbacks.Callback):
    """Does all of it after each batch, and the last time in the scope."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        self.context = context
        self.read: dict[str, Any] = {}

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        optimizer, kernel = self.model.optimizer, self.model.layers[0].kernel
        groups = (("rate", OF_RATE, optimizer.learning_rate), ("count", OF_COUNTER, optimizer.iterations))
        for group, idioms, variable in (*groups, ("kernel", OF_KERNEL, kernel)):
            for name, idiom in idioms.items():
                self.read[f"{group} {name} {batch}"] = np.asarray(idiom(variable), "float64")
        # Callbacks for the learning rate set it in each of these ways.
        if batch == 0:
            optimizer.learning_rate = 0.3
        elif batch == 1:
            optimizer.learning_rate.assign(optimizer.learning_rate * 0.5)
        else:
            optimizer.learning_rate.assign(float(optimizer.learning_rate) * 0.5)

    def on_train_end(self, logs: Any = None) -> None:
        with self.context.scope():
            self.on_train_batch_end(3)


@case("variables", quick=True, stands_for_family=True)
def idioms(context: Context) -> dict[str, Any]:
    """Conversions, formats, comparisons, numpy and `keras.ops` on variables of an optimizer and of a layer."""
    reader = Reader(context)
    found = tiny.fitted(context, tiny.compiled(context), 25, epochs=1, callbacks=[reader])
    return found | {f"predict/{name}": value for name, value in reader.read.items()}


def _drawn(model: keras.Model) -> dict[str, Any]:
    return {f"weights/{index}": value for index, value in enumerate(model.get_weights())} | {
        "exact/python": random.random()
    }


class Noise(keras.layers.Layer):
    """Draws from Keras's global generator, which is made by its first draw."""

    def call(self, inputs: Any, training: bool = False) -> Any:
        return inputs + keras.random.normal((4,)) if training else inputs


class Late(keras.Model):
    """A model that is built by its first batch, and draws from the global generator in its first step."""

    def __init__(self) -> None:
        super().__init__()
        self.noise, self.dense = Noise(), keras.layers.Dense(tiny.CLASSES)

    def call(self, inputs: Any, training: bool = False) -> Any:
        return self.dense(self.noise(inputs, training=training))


@case("randomness")
def models_after_the_first(context: Context) -> dict[str, Any]:
    """Weights of models made after a predict, an evaluate and a fit; what `random` and `keras.random` give then."""

    def build() -> keras.Model:
        return keras.Sequential(
            [keras.Input((tiny.FEATURES,)), keras.layers.Dropout(0.5), keras.layers.Dense(tiny.CLASSES)]
        )

    keras.utils.set_random_seed(7)
    features, labels = tiny.rows(13)
    found: dict[str, Any] = {}
    for name in ("predict", "evaluate", "fit"):
        model = tiny.compiled(context, build)
        found |= {f"{key} before {name}": value for key, value in _drawn(model).items()}
        arguments = (features,) if name == "predict" else (features, labels)
        getattr(model, name)(*arguments, batch_size=tiny.BATCH, verbose=0)
    found["exact/global"] = np.asarray(keras.random.uniform((3,)))
    for number in range(2):
        # With one device's random numbers for each row, what was drawn by the row shows in the weights.
        with context.random_by_row():
            model = tiny.compiled(context, Late)
            model.fit(features, labels, batch_size=tiny.BATCH, verbose=0)
        found |= {f"{key} after late {number}": value for key, value in _drawn(model).items()}
    return found
