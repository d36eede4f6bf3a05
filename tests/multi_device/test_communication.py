"""Gradients in a narrow dtype and compressed: each compressor beside NumPy, whole runs, and what is kept of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfdist
from tfdist._internals.communication.compressor import Compressor
from tfdist._internals.communication.link import Link
from tfdist._internals.communication.narrow import sum_narrow
from tfdist._internals.communication.power_sgd import PowerSGD, matrix_shape
from tfdist._internals.communication.sign import Sign, packed_signs, signs_of
from tfdist._internals.communication.top_k import TopK
from tfdist._internals.fit.state import named_state
from tfdist._internals.replica import exchange
from tfdist._internals.replica.exchange import all_reduce
from tfdist.callbacks import BackupAndRestore
from tfdist.errors import ConfigError
from tfdist.numerics import RELATIVE_TOLERANCE

COMPRESSIONS: dict[str, dict[str, Any]] = {
    "powersgd": {"gradient_compression": "powersgd", "compression_rank": 2},
    "topk": {"gradient_compression": "topk", "compression_share": 0.05},
    "sign": {"gradient_compression": "sign"},
}
OPTIONS = COMPRESSIONS | {
    "bfloat16": {"gradient_compression": "bfloat16"},
    "float16": {"communication_dtype": "float16"},
    "powersgd in bfloat16": COMPRESSIONS["powersgd"] | {"communication_dtype": "bfloat16"},
}


def on_replicas(count: int, function: Callable[[Link, int], Any]) -> list[Any]:
    """What a function of a link and the replica's number returns on each replica, as arrays."""
    strategy = tfdist.create_strategy("mirrored", devices=count)

    def in_replica() -> Any:
        number = int(tf.get_static_value(tf.distribute.get_replica_context().replica_id_in_sync_group))
        return function(Link(all_reduce), number)

    found = tf.function(lambda: strategy.run(in_replica), autograph=False)()
    flat = [strategy.experimental_local_results(value) for value in tf.nest.flatten(found)]
    return [[value[index].numpy() for value in flat] for index in range(count)]


def gradients(replica: int, step: int) -> list[np.ndarray]:
    numbers = np.random.default_rng(10 * step + replica)
    return [numbers.standard_normal(shape).astype(np.float32) for shape in ((48, 40), (37, 3, 11))]


class Cell:
    """A variable of one replica, for a compressor."""

    def __init__(self, value: Any) -> None:
        self.value = tf.constant(value)

    def assign(self, value: tf.Tensor) -> None:
        self.value = value

    def __tf_tensor__(self, dtype: Any = None, name: Any = None) -> tf.Tensor:
        return self.value


def three_steps(compressor: Compressor) -> list[list[list[np.ndarray]]]:
    """For each replica: totals of three steps with error feedback, and what is left after them."""

    def run(link: Link, replica: int) -> Any:
        shapes = [one.shape for one in gradients(0, 0)]
        states = [
            {key: Cell(value) for key, value in compressor.first_state(shape).items()} for shape in shapes
        ]
        left = [tf.zeros(shape) for shape in shapes]
        outcome = []
        for step in range(3):
            given = [
                tf.constant(one) + rest for one, rest in zip(gradients(replica, step), left, strict=True)
            ]
            totals, left = compressor.sum(link, given, states)
            outcome.append(totals)
        return [*outcome, left]

    found = on_replicas(compressor.num_replicas, run)
    return [[flat[2 * part : 2 * part + 2] for part in range(4)] for flat in found]


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize(
    "kind", [lambda n: PowerSGD(n, 3), lambda n: TopK(n, 0.1), Sign], ids=list(COMPRESSIONS)
)
def test_what_was_sent_and_what_is_left_are_the_gradients(kind: Any, count: int) -> None:
    found = three_steps(kind(count))
    for replica in found[1:]:
        for own, first in zip(sum(replica[:3], []), sum(found[0][:3], []), strict=True):
            np.testing.assert_array_equal(own, first)  # every replica has the same bits
    for index in range(2):
        sent = sum(found[0][step][index] for step in range(3))
        left = sum(replica[3][index] for replica in found)
        whole = sum(gradients(replica, step)[index] for replica in range(count) for step in range(3))
        np.testing.assert_allclose(sent + left, whole, atol=2e-5)
        assert np.linalg.norm(left) > 0.01 * np.linalg.norm(whole)


def test_powersgd_is_a_projection_by_a_power_iteration() -> None:
    compressor = PowerSGD(2, 3)
    first = three_steps(compressor)[0][0]
    for index, shape in enumerate(one.shape for one in gradients(0, 0)):
        matrix = sum(gradients(replica, 0)[index] for replica in range(2)).reshape(matrix_shape(shape))
        factor = compressor.first_state(shape)["factor"]
        basis = np.linalg.qr(matrix @ factor)[0]
        np.testing.assert_allclose(first[index].reshape(matrix.shape), basis @ (basis.T @ matrix), atol=2e-5)
    assert matrix_shape((384, 12, 32)) == (384, 384)
    assert compressor.sent_bytes((48, 40)) == 4 * 3 * (48 + 40)


def test_topk_sends_the_largest_numbers() -> None:
    expected = np.zeros((48, 40), np.float32)
    for replica in range(2):
        flat = gradients(replica, 0)[0].ravel()
        largest = np.argsort(-np.abs(flat))[:192]
        expected.ravel()[largest] += flat[largest]
    np.testing.assert_array_equal(three_steps(TopK(2, 0.1))[0][0][0], expected)
    assert TopK(2, 0.1).sent_bytes((48, 40)) == 192 * (4 + 4)
    assert not TopK(2, 0.4).takes((48, 40))  # values and places would be no fewer bytes


def test_signs_are_packed_into_bits() -> None:
    values = gradients(0, 0)[0].ravel()
    packed = packed_signs(tf.constant(values)).numpy()
    assert packed.nbytes * 8 == values.size
    np.testing.assert_array_equal(packed.view(np.uint8), np.packbits(values > 0))
    np.testing.assert_array_equal(signs_of(tf.constant(packed)), np.sign(values))
    expected = sum(np.sign(one) * np.abs(one).mean() for one in (gradients(0, 0)[0], gradients(1, 0)[0]))
    np.testing.assert_allclose(three_steps(Sign(2))[0][0][0], expected, rtol=1e-6)
    assert Sign(2).sent_bytes((48, 40)) == 48 * 40 // 8 + 4


@pytest.mark.parametrize(("count", "dtype"), [(2, "bfloat16"), (3, "bfloat16"), (3, "float16")])
def test_narrow_sums_are_float32_sums_of_rounded_shares(count: int, dtype: str) -> None:
    found = on_replicas(
        count,
        lambda link, replica: sum_narrow(
            link, list(map(tf.constant, gradients(replica, 0))), tf.as_dtype(dtype)
        ),
    )
    for index in range(2):
        shares = [tf.cast(gradients(replica, 0)[index], dtype) for replica in range(count)]
        expected = sum(tf.cast(share, tf.float32).numpy() for share in shares)
        if count > 2:
            expected = tf.cast(tf.cast(expected, dtype), tf.float32).numpy()
        for replica in found:
            np.testing.assert_allclose(replica[index], expected, rtol=1e-6, atol=1e-6)


def test_large_sums_are_buckets_and_slices_come_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "BUCKET_BYTES", 4096)
    matrix, small = (tf.TensorSpec(shape, tf.float32) for shape in ((64, 64), (3,)))
    unknown = tf.TensorSpec((None, 4), tf.float32)
    spec = tf.IndexedSlicesSpec((9, 4), tf.float32)
    strategy = tfdist.create_strategy("mirrored", devices=2)

    def kinds(*specs: Any) -> list[str]:
        run = tf.function(lambda *given: strategy.run(all_reduce, (list(given),)), autograph=False)
        graph = run.get_concrete_function(*specs).graph
        found = [node.op for node in graph.as_graph_def().node if "Collective" in node.op]
        return found[: len(found) // 2]  # those of the first device

    assert kinds(small, small) == ["CollectiveReduceV2"]
    assert kinds(spec, unknown, matrix, matrix, small) == 3 * ["CollectiveReduceV2"] + ["CollectiveGatherV2"]


# Whole runs.


def rows() -> tuple[np.ndarray, np.ndarray]:
    numbers = np.random.default_rng(0)
    features = numbers.standard_normal((256, 32)).astype(np.float32)
    return features, (features @ numbers.standard_normal((32, 4))).argmax(1)


def fitted(
    strategy: tf.distribute.Strategy, *, epochs: int = 5, optimizer: Any = None, **arguments: Any
) -> Any:
    keras.utils.set_random_seed(1)
    with strategy.scope():
        model = keras.Sequential(
            [
                keras.Input((32,)),
                keras.layers.Dense(64, "relu"),
                keras.layers.Dense(64, "relu"),
                keras.layers.Dense(4),
            ]
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        chosen = keras.optimizers.Adam(5e-3) if optimizer is None else optimizer()
        options = {
            "steps_per_execution": arguments.pop("steps", 1),
            "loss_weights": arguments.pop("weights", None),
        }
        model.compile(chosen, loss, **options)
    model.fit(*rows(), batch_size=32, epochs=epochs, shuffle=False, verbose=0, **arguments)
    return model


def accuracy(model: Any) -> float:
    return float(np.mean(model.predict(rows()[0], verbose=0).argmax(1) == rows()[1]))


@pytest.fixture(scope="module")
def accuracy_of_one_device() -> float:
    return accuracy(fitted(tfdist.create_strategy("one_device")))


@pytest.mark.parametrize("name", OPTIONS)
def test_a_run_learns_nearly_as_on_one_device(name: str, accuracy_of_one_device: float) -> None:
    strategy: Any = tfdist.create_strategy("mirrored", devices=2, **OPTIONS[name])
    model = fitted(strategy, steps=4)
    assert accuracy_of_one_device > 0.95
    assert accuracy(model) > accuracy_of_one_device - 0.05
    for variable in model.trainable_variables:
        first, second = strategy.experimental_local_results(variable.value)
        np.testing.assert_array_equal(first, second)
    traffic = strategy.communication.traffic
    # 32 x 64 and 64 x 64 are compressed, 64 x 4 and the biases are not.
    small = 4 * (64 * 4 + 64 + 64 + 4)
    sent = {
        "powersgd": 4 * 2 * (96 + 128) + small,
        "topk": 8 * (102 + 205) + small,
        "sign": (2048 + 4096) // 8 + 8 + small,
        "powersgd in bfloat16": (4 * 2 * (96 + 128) + small) // 2,
    }
    assert traffic.exact == 4 * (2048 + 4096) + small
    assert traffic.sent == sent.get(name, traffic.exact // 2)


class Errors(keras.callbacks.Callback):
    """Notes what is kept of the gradients, after each step."""

    def __init__(self, strategy: Any) -> None:
        super().__init__()
        self.strategy, self.seen = strategy, []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seen.append(errors_of(self.strategy, self.model))


def errors_of(strategy: Any, model: Any) -> dict[str, np.ndarray]:
    return {name: read() for name, (read, _) in strategy.own_state(model).items()}


def test_accumulated_gradients_are_compressed_once_an_update() -> None:
    strategy: Any = tfdist.create_strategy("mirrored", devices=2, **COMPRESSIONS["powersgd"])
    watch = Errors(strategy)
    fitted(
        strategy,
        epochs=1,
        optimizer=lambda: keras.optimizers.SGD(0.1, gradient_accumulation_steps=2, global_clipnorm=1.0),
        callbacks=[watch],
    )
    errors = [next(iter(seen.values())) for seen in watch.seen]
    changed = [
        not np.array_equal(a, b) for a, b in zip([np.zeros_like(errors[0]), *errors], errors, strict=False)
    ]
    assert changed == [False, True] * 4


def test_a_skipped_step_leaves_the_errors_alone() -> None:
    strategy: Any = tfdist.create_strategy("mirrored", devices=2, **COMPRESSIONS["sign"])
    watch = Errors(strategy)
    model = fitted(
        strategy,
        epochs=1,
        optimizer=lambda: keras.optimizers.LossScaleOptimizer(
            keras.optimizers.SGD(0.01), initial_scale=2.0**127
        ),
        weights=4.0,
        callbacks=[watch],
    )
    skipped = round(127 - np.log2(float(model.optimizer.dynamic_scale)))
    assert 0 < skipped < 8
    errors = [next(iter(seen.values())) for seen in watch.seen]
    assert not np.any(errors[skipped - 1])
    assert 0 < np.abs(errors[-1]).max() < 10  # of gradients that are not scaled


def test_the_state_is_saved_and_restored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    strategy: Any = tfdist.create_strategy("mirrored", devices=2, **COMPRESSIONS["powersgd"])
    whole = fitted(strategy, epochs=3)
    backup = BackupAndRestore(str(tmp_path), delete_checkpoint=False)
    half = fitted(strategy, epochs=1, callbacks=[backup])
    kept = errors_of(strategy, half)
    assert all(value.shape[0] == 2 and np.any(value) for value in kept.values())
    assert {f"strategy/{name}" for name in kept} <= set(named_state(half))
    rest = fitted(strategy, epochs=3, callbacks=[backup])
    for one, other in zip(whole.get_weights(), rest.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    more: Any = tfdist.create_strategy("mirrored", devices=3, **COMPRESSIONS["powersgd"])
    fitted(more, epochs=3, callbacks=[BackupAndRestore(str(tmp_path))])
    assert "saved by 2 replicas, and there are 3 now" in caplog.text


def test_what_is_left_out_of_the_self_check_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("TFDIST_SELF_CHECK", "on")
    strategy = tfdist.create_strategy("mirrored", devices=2, **COMPRESSIONS["sign"])
    with strategy.scope():
        model = keras.Sequential([keras.Input((32,)), keras.layers.Dense(64)])
        model.compile("sgd", "mse")
    model.fit(np.ones((8, 32)), np.ones((8, 64)), verbose=2)
    printed = capsys.readouterr().out
    assert "equals that of one device" in printed
    assert "without gradient_compression='sign'" in printed


def test_sums_stay_within_rounding_where_nothing_is_compressed() -> None:
    strategy: Any = tfdist.create_strategy("mirrored", devices=2, communication_dtype="float32")
    assert strategy.communication is None
    expected = fitted(
        tfdist.create_strategy("one_device"), epochs=1, optimizer=lambda: keras.optimizers.SGD(0.1)
    )
    found = fitted(strategy, epochs=1, optimizer=lambda: keras.optimizers.SGD(0.1))
    for one, other in zip(found.get_weights(), expected.get_weights(), strict=True):
        assert np.abs(one - other).max() <= RELATIVE_TOLERANCE * np.abs(other).max()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gradient_compression": "powersdg"}, "'powersdg' is not possible.*Did you mean 'powersgd'"),
        ({"communication_dtype": "int8"}, "communication_dtype='int8' is not possible.*'bfloat16'"),
        ({"gradient_compression": "powersgd", "compression_rank": 0}, "compression_rank=0.*at least 1"),
        ({"gradient_compression": "topk", "compression_share": 0.9}, "compression_share=0.9.*at most 0.5"),
        ({"compression_rank": 2}, "compression_rank=2 is an option of gradient_compression='powersgd'"),
        (
            {"gradient_compression": "sign", "compression_share": 0.1},
            "is an option of gradient_compression='topk'",
        ),
        ({"gradient_compression": "bfloat16", "communication_dtype": "float16"}, "exclude each other"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tfdist.create_strategy("mirrored", devices=2, **options)


@pytest.mark.parametrize("name", ["one_device", "mesh", "tpu"])
def test_strategies_that_sum_otherwise_have_no_such_option(name: str) -> None:
    with pytest.raises(ConfigError, match="no option 'gradient_compression'"):
        tfdist.create_strategy(name, gradient_compression="sign")


def test_kernels_behind_texts_of_any_length_are_compressed_too() -> None:
    # TensorFlow does not know the shape of the gradient of a dense layer on (batch, length, width).
    strategy: Any = tfdist.create_strategy("mirrored", devices=2, **COMPRESSIONS["powersgd"])
    with strategy.scope():
        model = keras.Sequential(
            [
                keras.Input((None, 48)),
                keras.layers.Dense(64),
                keras.layers.GlobalAveragePooling1D(),
                keras.layers.Dense(2),
            ]
        )
        model.compile("sgd", "mse")
    rows = [(np.ones((4, length, 48), "float32"), np.ones((4, 2), "float32")) for length in (3, 5)]
    signature = (tf.TensorSpec((None, None, 48)), tf.TensorSpec((None, 2)))
    model.fit(tf.data.Dataset.from_generator(lambda: rows, output_signature=signature), verbose=0)
    traffic = strategy.communication.traffic
    kernel = 48 * 64 * 4
    assert traffic.exact > kernel
    assert traffic.exact - traffic.sent > kernel / 2
