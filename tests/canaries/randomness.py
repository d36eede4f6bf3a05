"""Canaries of the patches of random numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from canary import assert_one_device, canary, compiled, dense, strategy


@canary({"SeedGenerator.next": "the replicas' draws differ by 0$"})
def random_numbers_of_each_replica() -> None:
    class Noise(keras.layers.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.seeds = keras.random.SeedGenerator(1)

        def call(self, inputs: Any) -> Any:
            return inputs * 0 + keras.random.uniform(keras.ops.shape(inputs), seed=self.seeds)

    with strategy().scope():
        model = keras.Sequential([Noise()])
    first, second = model.predict(np.ones((2, 4), "float32"), verbose=0)
    distance = np.abs(first - second).max()
    assert distance > 0, f"the replicas' draws differ by {distance:g}"


DRAWS = {
    "dropout": lambda x: keras.random.dropout(x, 0.5),
    "normal": lambda x: x + keras.random.normal(keras.ops.shape(x)),
    "truncated_normal": lambda x: x + keras.random.truncated_normal(keras.ops.shape(x)),
    "uniform": lambda x: x + keras.random.uniform(keras.ops.shape(x)),
    "randint": lambda x: x + keras.ops.cast(keras.random.randint(keras.ops.shape(x), 0, 9), "float32"),
}
STOCK = {
    "dropout": "weight 0 differs by 2",
    "normal": r"weight 0 differs by 1\.4",
    "truncated_normal": r"weight 0 differs by 1\.3",
    "uniform": r"weight 0 differs by 0\.31",
    "randint": r"loss differs by 2\.6",
}


def random_by_row(name: str) -> Callable[[], None]:
    class Noise(keras.layers.Layer):
        def call(self, inputs: Any) -> Any:
            return DRAWS[name](inputs)

    def check() -> None:
        assert_one_device(lambda: compiled(lambda: dense(Noise())), random_by_row=True)

    return check


for _name, _pattern in STOCK.items():
    canary({f"tensorflow.random.{_name}": _pattern})(random_by_row(_name))
