"""How batches are cut into one piece for each replica, and put on a mesh."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdist import create_strategy
from tfdist._internals.mesh import batches as mesh_batches
from tfdist._internals.patches import apply_patches
from tfdist._internals.replica.batches import ReplicaBatches
from tfdist.data.by_index import ByIndex, Epochs
from tfdist.strategies.mirrored import Mirrored

REPLICAS = 2


class Fed(Mirrored):
    """Feeds its devices as if they were accelerators."""

    feeds_devices = True


@pytest.fixture(scope="module", params=[Mirrored, Fed], ids=["on the host", "fed to devices"])
def strategy(request: pytest.FixtureRequest) -> tf.distribute.Strategy:
    created = request.param(REPLICAS)
    apply_patches()
    return created


def pieces(strategy: Any, dataset: tf.data.Dataset) -> list[Any]:
    """Returns the replicas' pieces of all batches, in order."""
    batches = ReplicaBatches(strategy, dataset, None)
    found = []
    for batch in batches:
        local = getattr(batch, "pieces", None)
        found += strategy.experimental_local_results(batch) if local is None else local
    return found


def static_rows(strategy: Any, dataset: tf.data.Dataset) -> list[Any]:
    """Returns the first dimension of each replica's piece as a traced step sees it."""
    seen: list[Any] = []

    @tf.function(autograph=False)
    def step(iterator: Any) -> None:
        strategy.run(lambda data: seen.append(data.shape[0]), args=(next(iterator),))

    step(iter(ReplicaBatches(strategy, dataset, None)))
    return seen


def by_index(count: int, batch_size: int) -> tf.data.Dataset:
    table = tf.constant(np.arange(count * 3, dtype="float32").reshape(count, 3))
    indices = tf.data.Dataset.range(count).batch(batch_size)
    return ByIndex(
        lambda epoch: indices, lambda rows: tf.gather(table, rows), -(-count // batch_size), Epochs()
    ).dataset()


@pytest.mark.parametrize("make", [tf.data.Dataset.range, None], ids=["batches", "row numbers"])
def test_pieces_are_in_order_and_counted(strategy: Any, make: Any) -> None:
    dataset = by_index(9, 4) if make is None else make(9).batch(4)
    found = pieces(strategy, dataset)
    rows = [(piece.data[:, 0] // 3 if make is None else piece.data).numpy().tolist() for piece in found]
    # The replica that would have no row of the last batch computes on one that does not count.
    assert rows == [[0, 1], [2, 3], [4, 5], [6, 7], [8], [8]]
    assert [int(piece.num_valid) for piece in found] == [2, 2, 2, 2, 0, 1]
    assert [int(piece.num_global) for piece in found] == [4, 4, 4, 4, 1, 1]


def test_a_size_that_always_divides_is_static(strategy: Any) -> None:
    assert static_rows(strategy, tf.data.Dataset.range(9).batch(4, drop_remainder=True)) == [2] * REPLICAS


def test_other_sizes_are_as_they_fall(strategy: Any) -> None:
    assert static_rows(strategy, tf.data.Dataset.range(9).batch(4)) == [None] * REPLICAS
    # On the host each replica's piece is one of its own, whose size is known if that of the batch is.
    expected = [None] * REPLICAS if strategy.feeds_devices else [1, 2]
    assert static_rows(strategy, tf.data.Dataset.range(9).batch(3, drop_remainder=True)) == expected


def test_fit_is_that_of_one_device_however_it_is_fed(strategy: Any) -> None:
    def trained(scope: Any) -> list[np.ndarray]:
        with scope:
            model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, kernel_initializer="ones")])
            model.compile("adam", "mse", steps_per_execution=2)
        rows = np.random.default_rng(0).standard_normal((13, 3)).astype("float32")
        model.fit(rows, rows[:, :2], batch_size=4, epochs=2, shuffle=False, verbose=0)
        return [*model.get_weights(), model.predict(rows, batch_size=4, verbose=0)]

    for found, expected in zip(trained(strategy.scope()), trained(contextlib.nullcontext()), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_mesh_puts_one_batch_on_its_devices_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    # First, since it imports the module of the strategy, which must not see the patched function.
    strategy: Any = create_strategy("mesh", mesh={"batch": REPLICAS})
    placed: list[list[int]] = []

    def place(mesh: Any, data: Any) -> Any:
        placed.append(data.numpy().tolist())
        return place_batch(mesh, data)

    place_batch = mesh_batches.place_batch
    monkeypatch.setattr(mesh_batches, "place_batch", place)
    iterator = iter(strategy.batches(tf.data.Dataset.range(5).batch(2), None, None))
    next(iterator)
    iterator.prepare()
    iterator.prepare()
    assert placed == [[0, 1], [2, 3]]
    assert [strategy.gather(batch.data, 0).numpy().tolist() for batch in iterator] == [[2, 3], [4]]


def test_what_fails_in_the_data_of_a_mesh_is_raised_at_its_batch() -> None:
    def batches() -> Iterator[Any]:
        for _ in range(2):
            yield np.ones((2, 3), "float32"), np.ones((2, 1), "float32")
        raise ValueError("the third batch")

    with create_strategy("mesh", mesh={"batch": REPLICAS}).scope():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
    steps: list[int] = []
    callback = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: steps.append(batch))
    with pytest.raises(Exception, match="the third batch"):
        model.fit(batches(), verbose=0, callbacks=[callback])
    assert steps == [0, 1]
