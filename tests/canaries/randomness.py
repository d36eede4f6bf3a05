"""Canaries of the patches of random numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from canary import assert_one_device, canary, compiled, dense, rows, strategy

from tfdist._internals.contract import step_scope
from tfdist._internals.mesh.step import MeshStep
from tfdist.models import BertConfig, compiled_parts, counter_random
from tfdist.models.bert_layers import BertEmbeddings


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


def normalized() -> keras.Model:
    """A classifier with a layer of BERT, which makes masks of dropout by the numbers of rows."""
    config = BertConfig(
        vocab_size=9, hidden_size=4, num_attention_heads=2, intermediate_size=4, num_hidden_layers=1
    )
    ids = keras.Input((5,), dtype="int32")
    x = BertEmbeddings(config)(ids, keras.ops.zeros_like(ids))
    return keras.Model(ids, keras.layers.Dense(3)(x[:, 0]))


def tokens() -> tuple[np.ndarray, np.ndarray]:
    return np.random.default_rng(0).integers(0, 9, (25, 5)), rows()[1]


@canary({"counter_random.next_key": r"weight 0 differs by 1\.1"})
def masks_by_the_numbers_of_rows() -> None:
    assert_one_device(lambda: compiled(normalized), tokens())


@canary(
    {
        "compiled_parts.are_on": r"^AssertionError: \(True, False\) on a mesh",
        "counter_random.are_used": r"^AssertionError: \(False, True\) on a mesh",
    }
)
def plain_operations_on_a_mesh() -> None:
    found, mesh = [], strategy(mesh=True).mesh

    @tf.function(autograph=False)
    def step() -> None:
        with step_scope(MeshStep(tf.constant(8, tf.int64), mesh, {}, by_row=False)):
            found.append((compiled_parts.are_on(), counter_random.are_used()))

    step()
    assert found == [(False, False)], f"{found[0]} on a mesh"
