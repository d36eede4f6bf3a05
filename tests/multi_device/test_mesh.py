"""The mesh strategy: what it places where, what it refuses, and that files and host values pass in and out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager import context

import tfdist
from tfdist.errors import ClusterError, ConfigError, UnsupportedError
from tfdist.models import BertConfig, bert_classifier, build_bert
from tfdist.numerics import RELATIVE_TOLERANCE
from tfdist.planner import plan_sharding

RULES = {"up/kernel$": (None, "model"), "up/bias$": ("model",), "down/kernel$": ("model", None)}
MESH = {"batch": 2, "model": 2}


def rows(count: int = 21) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    return generator.standard_normal((count, 8)).astype("float32"), generator.integers(0, 4, count)


def layers() -> keras.Model:
    up, down = keras.layers.Dense(16, "tanh", name="up"), keras.layers.Dense(4, name="down")
    return keras.Sequential([keras.Input((8,)), up, down], name="net")


def build() -> keras.Model:
    keras.utils.set_random_seed(0)
    model = layers()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.05, name="adam"), loss, metrics=["accuracy"])
    return model


def trained(strategy: tf.distribute.Strategy) -> keras.Model:
    with strategy.scope():
        model = build()
    model.fit(*rows(), batch_size=8, epochs=2, shuffle=False, verbose=0)
    return model


@pytest.fixture(scope="module")
def alone() -> keras.Model:
    return trained(tf.distribute.get_strategy())


def mesh(**options: Any) -> tf.distribute.Strategy:
    return tfdist.create_strategy("mesh", **{"mesh": MESH, "layout_map": RULES} | options)


@pytest.mark.parametrize("options", [{}, {"shard_optimizer": True}, {"shard_weights": True}])
def test_training_equals_one_device_and_layouts_stay(alone, options) -> None:
    model = trained(mesh(**options))
    for weight, expected in zip(model.get_weights(), alone.get_weights(), strict=True):
        np.testing.assert_allclose(weight, expected, atol=RELATIVE_TOLERANCE)
    kernel, bias = model.layers[0].kernel.value, model.layers[1].bias.value
    # (8, 16): the columns over model, and with sharded weights the rows over batch.
    assert kernel.device_bytes() == [8 * 16 * 4 // (4 if "shard_weights" in options else 2)] * 4
    assert bias.device_bytes() == [4 * 4 // (2 if "shard_weights" in options else 1)] * 4
    momentum = next(v for v in model.optimizer.variables if "up_kernel" in v.path)
    assert momentum.value.device_bytes() == [8 * 16 * 4 // (4 if options else 2)] * 4


@pytest.mark.parametrize("stock", [False, True])
def test_the_memory_optimizer_logs_no_errors(capfd, monkeypatch, stock) -> None:
    """With stock it does, for the products of a BERT; delete `memory_optimizer` once it does not."""
    strategy = tfdist.create_strategy("mesh", mesh=MESH)
    if stock:
        monkeypatch.setattr(context.context(), "_config", None)
        tf.config.optimizer.set_experimental_options({})  # this thread reads the configuration again
    config = BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    ids = np.ones((8, 4), "int32")
    with strategy.scope():
        model = bert_classifier(build_bert(config), 2)
        model.compile("sgd", "mse")
    model.fit({"token_ids": ids, "segment_ids": 0 * ids, "padding_mask": ids}, ids[:, :2], verbose=0)
    assert ("Incompatible Matrix dimensions" in capfd.readouterr().err) == stock


def test_bytes_are_those_of_the_pieces() -> None:
    """At most 1/N of the unsharded and 5 %, counters and what does not divide included."""
    model = trained(
        mesh(shard_weights=True, layout_map={"up/kernel$": (None, "model"), "down/kernel$": ("model", None)})
    )
    variables = [*model.trainable_variables, *model.optimizer.variables]
    per_device = sum(max(variable.value.device_bytes()) for variable in variables)
    whole = sum(np.asarray(variable).nbytes for variable in variables)
    assert per_device <= 1.05 * whole / 2


def test_files_pass_between_a_mesh_and_one_device(alone, tmp_path: Path) -> None:
    strategy = mesh(shard_weights=True)
    model = trained(strategy)
    model.save(tmp_path / "mesh.keras")
    alone.save(tmp_path / "alone.keras")
    loaded = keras.models.load_model(tmp_path / "mesh.keras")
    with strategy.scope():
        placed = keras.models.load_model(tmp_path / "alone.keras")
    assert placed.layers[0].kernel.value.device_bytes() == [8 * 16] * 4
    expected = keras.models.clone_model(alone)
    for continued in (loaded, placed, alone_again := keras.models.load_model(tmp_path / "alone.keras")):
        continued.fit(*rows(), batch_size=8, shuffle=False, verbose=0)
    expected.set_weights(alone_again.get_weights())
    for one in (loaded, placed):
        for weight, other in zip(one.get_weights(), expected.get_weights(), strict=True):
            np.testing.assert_allclose(weight, other, atol=RELATIVE_TOLERANCE)


def test_single_batches_and_predictions(alone) -> None:
    model = trained(mesh())
    features, labels = rows(5)
    np.testing.assert_allclose(
        model.predict(features, verbose=0), alone.predict(features, verbose=0), atol=1e-5
    )
    np.testing.assert_allclose(model.predict_on_batch(features), alone.predict_on_batch(features), atol=1e-5)
    np.testing.assert_allclose(
        model.test_on_batch(features, labels), alone.test_on_batch(features, labels), atol=1e-5
    )


def test_keras_distribution_objects_are_taken_as_they_are(alone) -> None:
    keras_mesh = keras.distribution.DeviceMesh((2, 2), ("batch", "model"), [f"cpu:{i}" for i in range(4)])
    layouts = keras.distribution.LayoutMap(keras_mesh)
    for pattern, axes in RULES.items():
        layouts[pattern] = axes
    model = trained(tfdist.create_strategy("mesh", mesh=keras_mesh, layout_map=layouts))
    assert model.layers[0].kernel.value.device_bytes() == [8 * 8 * 4] * 4
    np.testing.assert_allclose(model.get_weights()[0], alone.get_weights()[0], atol=RELATIVE_TOLERANCE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mesh": {"batch": 2, "modle": 2}}, "no axis 'modle'"),
        ({"mesh": {"batch": 0}}, "has the size 0"),
        ({"mesh": "batch:2"}, "mesh='batch:2' is not possible"),
        ({"mesh": {"model": 2}, "shard_weights": True}, "shard_weights=True splits over the batch axis"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(options, message) -> None:
    with pytest.raises(ConfigError, match=message):
        mesh(**options)


def test_a_layout_map_for_another_mesh_is_refused() -> None:
    devices = [f"cpu:{index}" for index in range(4)]
    other = keras.distribution.LayoutMap(keras.distribution.DeviceMesh((4,), ("model",), devices))
    other["up/kernel$"] = (None, "model")
    with pytest.raises(ConfigError, match="made for the mesh {'model': 4}, and the strategy's is"):
        mesh(layout_map=other)


def test_more_devices_than_there_are() -> None:
    tf.zeros(1)  # from now on their number is fixed
    with pytest.raises(ClusterError, match="4 logical CPU devices|TensorFlow already"):
        mesh(mesh={"batch": 4, "model": 2})
    with pytest.raises(ConfigError, match="timeout_s=0 is not possible"):
        mesh(timeout_s=0)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"upp/kernel$": (None, "model")}, "'upp/kernel\\$' matches no variable"),
        ({"up/bias$": (None,)}, "no variable .* is split over it"),
    ],
)
def test_rules_that_split_nothing_are_refused_before_training(rules, message) -> None:
    with pytest.raises(ConfigError, match=message):
        trained(mesh(layout_map=rules))


def test_a_model_that_nothing_divides_is_refused_before_training() -> None:
    with tfdist.create_strategy("mesh", mesh=MESH).scope():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(5)], name="odd")
        model.compile("sgd", "mse")
    with pytest.raises(
        ConfigError, match=r"no variable of 'odd' is split over it.*kernel \(3, 5\): none of \[3, 5\] is"
    ):
        model.fit(np.zeros((4, 3), "float32"), np.zeros((4, 5), "float32"), verbose=0)


def test_inputs_without_a_layout_are_refused() -> None:
    strategy = mesh()
    with pytest.raises(UnsupportedError, match="was given text"):
        strategy.place(np.array(["a", "b"]))
    with pytest.raises(UnsupportedError, match="RaggedTensor"):
        strategy.place(tf.ragged.constant([[1], [2, 3]]))


def test_what_dtensor_cannot_split_is_said_with_a_cure() -> None:
    """An operation of TensorFlow's without a rule, not called through Keras."""
    with mesh(layout_map={"up/kernel$": (None, "model")}).scope():
        inputs = keras.Input((8,))
        hidden = keras.layers.Dense(16, name="up")(inputs)
        pooled = keras.layers.Lambda(lambda x: tf.nn.avg_pool1d(x[..., None], 2, 2, "VALID")[..., 0])(hidden)
        model = keras.Model(inputs, keras.layers.Dense(4)(pooled))
        model.compile("sgd", "mse")
    with pytest.raises(UnsupportedError, match=r"no rule for the operation tf\.AvgPoolGrad.*mirrored"):
        model.fit(np.ones((8, 8), "float32"), np.ones((8, 4), "float32"), verbose=0)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda x: (tf.print(tf.reduce_mean(x)), x)[1], r"tf\.print needs the host.*run_eagerly=True"),
        (lambda x: tf.numpy_function(np.tanh, [x], tf.float32), "tf.numpy_function .* needs the host"),
        (
            lambda x: x * tf.linalg.svd(tf.matmul(x, x, transpose_a=True))[0],
            r"no rule for the operation tf\.Svd.*metric.*callback",
        ),
    ],
    ids=["print", "python", "matrix"],
)
def test_an_operation_without_a_rule_is_said_with_a_cure_and_runs_eagerly(function, said) -> None:
    class Layer(keras.layers.Layer):
        def call(self, x):
            return tf.ensure_shape(function(x), x.shape)

    strategy = tfdist.create_strategy("mesh", mesh={"batch": 2})
    with strategy.scope():
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4), Layer()])
    features = np.ones((8, 4), "float32")
    with pytest.raises(UnsupportedError, match=said):
        model.predict(features, verbose=0)
    with strategy.scope():
        model.compile("sgd", "mse", run_eagerly=True)
    assert model.predict(features, verbose=0).shape == (8, 4)


def test_outside_of_a_step_variables_are_values_of_the_host() -> None:
    strategy = mesh()
    model = trained(strategy)
    features = np.ones((3, 8), "float32")
    np.testing.assert_allclose(model(features), model.predict(features, verbose=0), atol=1e-6)
    with strategy.scope():
        model.compile("sgd", "mse", run_eagerly=True)
    np.testing.assert_allclose(model(features), model.predict(features, verbose=0), atol=1e-6)


def test_the_report_says_where_each_variable_is(capsys) -> None:
    report = tfdist.sharding_report(trained(mesh(shard_optimizer=True)))
    placed = {variable.path.removeprefix("net/"): variable for variable in report.variables}
    kernel, bias = placed["up/kernel"], placed["down/bias"]
    assert (kernel.axes, kernel.num_bytes, kernel.device_bytes) == (
        (None, "model"),
        8 * 16 * 4,
        (8 * 16 * 2,) * 4,
    )
    assert (bias.axes, bias.reason) == ((None,), "no rule")
    (slot,) = [v for v in report.variables if v.path.endswith("up_kernel_momentum")]
    assert slot.axes == ("batch", "model")
    assert report.device_bytes == tuple(sum(v.device_bytes[i] for v in report.variables) for i in range(4))
    assert report.num_bytes == sum(variable.num_bytes for variable in report.variables)
    with pytest.raises(UnsupportedError, match="was not. Build it under"):
        tfdist.sharding_report(build())


@pytest.mark.parametrize("options", [{}, {"shard_optimizer": True}, {"shard_weights": True}])
def test_a_plan_is_what_becomes_of_it(options) -> None:
    report = tfdist.sharding_report(trained(mesh(**options)))
    plan = plan_sharding(layers, MESH, RULES, optimizer=keras.optimizers.Adam(name="adam"), **options)
    assert {(v.path, v.axes, v.device_bytes, v.reason) for v in plan.variables} == {
        (v.path, v.axes, v.device_bytes, v.reason) for v in report.variables
    }


def test_a_plan_needs_neither_devices_nor_memory() -> None:
    wide = lambda: keras.Sequential([keras.Input((2**20,)), keras.layers.Dense(2**20, name="up")])  # noqa: E731
    plan = plan_sharding(wide, {"batch": 64, "model": 8}, {"up/kernel$": (None, "model")}, shard_weights=True)
    assert plan.device_bytes == (2**42 // 512 + 2**22 // 64,) * 512
    # Nothing of it is left for Keras to give a value to, which it would do here.
    keras.Sequential([layers(), keras.layers.Lambda(lambda x: x + 1)])(keras.Input((8,)))
    with pytest.raises(ConfigError, match="matches no variable"):
        plan_sharding(layers, MESH, {"upp/kernel$": (None, "model")})


def test_variables_are_read_whole_outside_of_a_step() -> None:
    """As `SwapEMAWeights` does, which exchanges two variables by sums and differences."""
    rows, columns = (np.arange(16, dtype="float32").reshape(4, 4) * factor for factor in (1, 3))
    with mesh(layout_map={"rows$": ("model", None), "columns$": (None, "model")}).scope():
        variables = [keras.Variable(rows, name="rows"), keras.Variable(columns, name="columns")]
    first, second = (variable.value for variable in variables)
    np.testing.assert_array_equal(variables[0] * columns, rows * columns)
    np.testing.assert_array_equal(variables[0] == rows, np.ones((4, 4), bool))
    np.testing.assert_array_equal(tf.concat([first, columns], 0), np.concatenate([rows, columns]))
    np.testing.assert_array_equal(first - second, rows - columns)
    np.testing.assert_array_equal(first + second * first, rows + columns * rows)
    first.assign_add(second)
    second.assign(first - second)
    first.assign(first - second)
    np.testing.assert_array_equal(first.numpy(), columns)
    np.testing.assert_array_equal(second.numpy(), rows)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(first * rows + tf.matmul(second, columns))
    by_first, by_second = tape.gradient(total, variables)
    np.testing.assert_array_equal(by_first, rows)
    np.testing.assert_array_equal(by_second, np.tile(columns.sum(1), (4, 1)))
