"""Random numbers on a mesh: each device draws its own part, alike on devices that hold the same part."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.experimental import dtensor

import tfdist
from tfdist._internals.mesh.programs import expanded_functions
from tfdist.parity import tiny
from tfdist.parity.cases.normalization import LAYERS_BY_ROW

ROWS, WIDTH = 8, 16
MESH = {"batch": 2, "model": 2}
LAYERS = {
    "dropout": lambda: keras.layers.Dropout(0.5, seed=3),
    "noise": lambda: keras.layers.GaussianNoise(1.0, seed=3),
}


def drawn(strategy: Any, layer: keras.layers.Layer, num_steps: int) -> list[list[np.ndarray]]:
    """Returns what the layer makes of ones in each step, as each device of the mesh has it."""

    @tf.function(autograph=False)
    def step(batch: Any) -> tf.Tensor:
        return strategy.run(lambda rows: layer(rows, training=True), args=(batch,))

    batch = strategy.place(np.ones((ROWS, WIDTH), np.float32))
    return [[piece.numpy() for piece in dtensor.unpack(step(batch))] for _ in range(num_steps)]


@pytest.mark.parametrize("name", LAYERS)
def test_draws_are_alike_along_the_model_axis_and_differ_along_the_batch_axis(name) -> None:
    strategy = tfdist.create_strategy("mesh", mesh=MESH)
    runs = []
    for _ in range(2):
        with strategy.scope():
            layer = LAYERS[name]()
        runs.append(drawn(strategy, layer, 2))
    np.testing.assert_array_equal(runs[0], runs[1])
    for first, its_twin, second, second_twin in runs[0]:
        assert first.shape == (ROWS // 2, WIDTH)
        np.testing.assert_array_equal(first, its_twin)
        np.testing.assert_array_equal(second, second_twin)
        assert not np.array_equal(first, second)
    assert not np.array_equal(runs[0][0], runs[0][1])


def split_model() -> keras.Model:
    """Dropout on activations that are whole in a group, and on ones that the model axis splits."""
    model = keras.Sequential(
        [
            keras.Input((WIDTH,)),
            keras.layers.Dropout(0.5, seed=1),
            keras.layers.Dense(WIDTH, "tanh", name="up"),
            keras.layers.Dropout(0.5, seed=2),
            keras.layers.Dense(1, name="down"),
        ]
    )
    model.compile("sgd", "mse")
    return model


@pytest.mark.parametrize(("random_by_row", "rows"), [(False, ROWS // MESH["batch"]), (True, ROWS)])
def test_a_device_draws_no_more_than_its_rows(random_by_row, rows) -> None:
    rules = {"up/kernel$": (None, "model"), "up/bias$": ("model",), "down/kernel$": ("model", None)}
    strategy = tfdist.create_strategy("mesh", mesh=MESH, layout_map=rules, random_by_row=random_by_row)
    with strategy.scope():
        model = split_model()
    before = set(expanded_functions())
    data = np.ones((ROWS, WIDTH), np.float32)
    model.fit(data, data[:, :1], batch_size=ROWS, verbose=0)
    shapes = [
        tuple(size.size for size in node.attr["_output_shapes"].list.shape[0].dim)
        for name, function in expanded_functions().items()
        if name not in before
        for node in function.node_def
        if node.op == "StatelessRandomUniformV2"
    ]
    assert len(shapes) >= 2 and {shape[0] for shape in shapes} == {rows}, shapes


@pytest.mark.parametrize("name", LAYERS_BY_ROW)
def test_devices_stay_equal_with_draws_of_their_own(name) -> None:
    """The last batch is one that the batch axis does not divide, which is whole on every device."""
    with tfdist.create_strategy("mesh", mesh={"batch": 4}).scope():
        model = tiny.mlp(LAYERS_BY_ROW[name])
        model.compile("sgd", tiny.crossentropy())
    model.fit(*tiny.rows(27), batch_size=ROWS, epochs=2, verbose=0)
    for weight in model.trainable_variables:
        pieces = [piece.numpy() for piece in dtensor.unpack(weight.value._pieces())]
        assert np.isfinite(pieces[0]).all()
        for piece in pieces[1:]:
            np.testing.assert_array_equal(piece, pieces[0])
