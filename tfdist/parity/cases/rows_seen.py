"""Every row of the data is trained on exactly once in an epoch, whatever it comes from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist._internals.contract import current_step
from tfdist._internals.fit import source
from tfdist.data.rows import rows_dataset
from tfdist.parity import tiny
from tfdist.parity.context import Context
from tfdist.parity.registry import NARROW, NO_MESH, WIDE, case

COUNT = 40


class RowRecorder(keras.Model):
    """Calls `record` with the ids (the first feature) of the rows of each training step, and their global count."""

    def __init__(self, record: Callable[[np.ndarray, int], None]) -> None:
        super().__init__()
        self.dense = keras.layers.Dense(1, kernel_initializer="zeros")
        self.record = record

    def call(self, inputs: Any) -> Any:
        return self.dense(inputs)

    def train_step(self, data: Any) -> Any:
        features, _, weights = keras.utils.unpack_x_y_sample_weight(data)
        ids = features[:, 0]
        # Rows of weight zero are padding, and so is the one row of a replica that has no row of its own.
        valid = ids if weights is None else tf.boolean_mask(ids, tf.reshape(weights, (-1,)) > 0)
        num_global = tf.shape(valid, out_type=tf.int64)[0]
        if (step := current_step()) is not None:
            valid, num_global = valid[: step.num_valid], step.num_global
        tf.py_function(lambda ids, count: self.record(ids.numpy(), int(count)), [valid, num_global], [])
        return super().train_step(data)


class EpochIds(keras.callbacks.Callback):
    """Sorts the recorded ids by epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.epochs: list[list[np.ndarray]] = []
        self.num_global: list[int] = []

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.epochs.append([])

    def record(self, ids: np.ndarray, num_global: int) -> None:
        self.epochs[-1].append(ids)
        self.num_global.append(num_global)

    def ids(self, epoch: int) -> np.ndarray:
        return np.concatenate(self.epochs[epoch]).astype("int64")


def numbered(count: int, start: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns features of shape (count, 1) that are the rows' ids, and targets of zero."""
    ids = np.arange(start, start + count, dtype="float32")[:, None]
    return ids, np.zeros_like(ids)


class Batches(keras.utils.PyDataset):
    """Batches of the numbered rows, of which the last is smaller; nothing shuffles them."""

    def __len__(self) -> int:
        return math.ceil(COUNT / tiny.BATCH)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        ids, targets = numbered(COUNT)
        rows = slice(index * tiny.BATCH, (index + 1) * tiny.BATCH)
        return ids[rows], targets[rows]


def by_number(**options: Any) -> tf.data.Dataset:
    """The numbered rows, loaded by their numbers."""
    load = lambda rows: tuple(part[rows] for part in numbered(COUNT))  # noqa: E731
    return rows_dataset(load, COUNT, global_batch_size=tiny.BATCH, **options)


def generator() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields batches of new rows for ever."""
    start = 0
    while True:
        yield numbered(tiny.BATCH, start)
        start += tiny.BATCH


def dataset() -> tf.data.Dataset:
    """The numbered rows, not batched."""
    return tf.data.Dataset.from_tensor_slices(numbered(COUNT))


ONE_EPOCH_EACH: dict[str, Callable[[], dict[str, Any]]] = {
    "numpy": lambda: {
        "x": numbered(COUNT)[0],
        "y": numbered(COUNT)[1],
        "batch_size": tiny.BATCH,
        "shuffle": False,
    },
    "numpy shuffled": lambda: {"x": numbered(COUNT)[0], "y": numbered(COUNT)[1], "batch_size": tiny.BATCH},
    "tf.data": lambda: {"x": dataset().batch(tiny.BATCH)},
    "tf.data shuffled": lambda: {"x": dataset().shuffle(COUNT).batch(tiny.BATCH)},
    "tf.data shuffled, batched, prefetched": lambda: {
        "x": dataset().shuffle(8).batch(tiny.BATCH).map(lambda *row: row).prefetch(1)
    },
    "tf.data repeated": lambda: {"x": dataset().repeat().batch(tiny.BATCH), "steps_per_epoch": 3},
    "pydataset": lambda: {"x": Batches()},
    "pydataset shuffled": lambda: {"x": Batches(), "shuffle": True},
    "pydataset threads": lambda: {"x": Batches(workers=2, max_queue_size=2), "shuffle": False},
    "generator": lambda: {"x": generator(), "steps_per_epoch": 3},
    "rows_dataset": lambda: {"x": by_number()},
    "rows_dataset shuffled": lambda: {"x": by_number(shuffle=True)},
}


@case("rows", each=ONE_EPOCH_EACH, every_item=NARROW, refused_by=NO_MESH)
def rows_seen(context: Context, source: str) -> dict[str, Any]:
    """The ids trained on in each of two epochs; nobody has set a seed."""
    context.forget_seeds()
    epochs = EpochIds()
    model = tiny.compiled(
        context, lambda: RowRecorder(epochs.record), lambda: keras.optimizers.SGD(0.0), lambda: "mse"
    )
    model.fit(epochs=2, verbose=0, callbacks=[epochs], **ONE_EPOCH_EACH[source]())
    found: dict[str, Any] = {f"ids/epoch {epoch}": epochs.ids(epoch) for epoch in range(2)}
    # Each row is shown once, also if the workers are at different batches at one time.
    found["agree/rows of each step"] = epochs.num_global
    if source in ("numpy shuffled", "tf.data shuffled", "rows_dataset shuffled"):
        found["true/another order"] = not np.array_equal(epochs.ids(0), epochs.ids(1))
    return found


@case("rows", on=WIDE, refused_by=NO_MESH)
def rows_loaded(context: Context) -> dict[str, Any]:
    """Each row is loaded once, in the process that trains on it; fit, evaluate and predict against one device."""
    loaded: list[np.ndarray] = []
    features, labels = tiny.rows(40)

    def load(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        loaded.append(rows)
        return features[rows], labels[rows]

    def data(**options: Any) -> tf.data.Dataset:
        dataset = rows_dataset(load, 40, global_batch_size=tiny.BATCH, **options)
        loaded.clear()
        return dataset

    model = tiny.compiled(context)
    history = model.fit(data(shuffle=True, seed=3), epochs=1, verbose=0)
    found = {"ids/fit": np.concatenate(loaded), **tiny.outcome(context, model, history)}
    found["metrics/loss"] = model.evaluate(data(), verbose=0)
    found["ids/evaluate"] = np.concatenate(loaded)
    found["predict/all"] = model.predict(data().map(lambda x, _: x), verbose=0)
    return found


@case("rows", on=WIDE, refused_by=NO_MESH)
def rows_seen_by_unequal_workers(context: Context) -> dict[str, Any]:
    """Workers that hold 36 and 12 rows, or 24, 12 and 12, and say so (auto-sharding off)."""
    bounds = {1: [0, 48], 2: [0, 36, 48], 3: [0, 24, 36, 48]}[context.num_processes]
    start, end = bounds[context.process_index : context.process_index + 2]
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    data = (
        tf.data.Dataset.from_tensor_slices(numbered(end - start, start))
        .batch(tiny.BATCH)
        .with_options(options)
    )
    epochs = EpochIds()
    model = tiny.compiled(
        context, lambda: RowRecorder(epochs.record), lambda: keras.optimizers.SGD(0.0), lambda: "mse"
    )
    model.fit(data, epochs=2, validation_data=data, verbose=0, callbacks=[epochs])
    evaluated = model.evaluate(data, verbose=0)
    return {"ids/epoch 0": epochs.ids(0), "ids/epoch 1": epochs.ids(1), "metrics/loss": evaluated}


@case("rows", on=WIDE, refused_by=NO_MESH)
def rows_gathered(context: Context) -> dict[str, Any]:
    """Of numpy arrays each row is gathered once, in the process that trains on it."""
    gathered: list[np.ndarray] = []
    rows_of = source._rows_of

    def record(rows: np.ndarray) -> None:
        gathered.append(rows)

    def counted(leaf: Any, rows: Any) -> Any:
        if tf.is_tensor(leaf) and leaf.shape.rank > 1:  # the features, and not the labels beside them
            tf.numpy_function(record, [rows], [], stateful=True)
        return rows_of(leaf, rows)

    model = tiny.compiled(context)
    source._rows_of = counted
    try:
        found = tiny.fitted(context, model, 40, epochs=1)
    finally:
        source._rows_of = rows_of
    if context.strategy is None:  # plain Keras gathers rows by itself
        gathered.append(np.arange(40))
    return found | {"ids/gathered": np.concatenate(gathered)}


@case("rows", refused_by=NO_MESH)
def order_of_epochs(context: Context) -> dict[str, Any]:
    """Each epoch of `fit` has its own order, whatever is evaluated or predicted in between."""
    epochs = EpochIds()
    model = tiny.compiled(
        context, lambda: RowRecorder(epochs.record), lambda: keras.optimizers.SGD(0.0), lambda: "mse"
    )
    data = by_number(shuffle=True, seed=3)
    for _ in range(3):
        model.fit(data, validation_data=data, verbose=0, callbacks=[epochs])
        if context.strategy is not None:  # plain Keras cannot tell an evaluation from an epoch
            model.evaluate(data, verbose=0)
            model.predict(data, verbose=0)
    in_order = [np.random.default_rng([3, epoch]).permutation(COUNT) for epoch in range(3)]
    shown = [
        [set(epochs.ids(epoch)[start : start + tiny.BATCH]) for start in range(0, COUNT, tiny.BATCH)]
        for epoch in range(3)
    ]
    own = [
        [set(order[start : start + tiny.BATCH]) for start in range(0, COUNT, tiny.BATCH)]
        for order in in_order
    ]
    return {
        "true/orders": True if context.strategy is None or context.num_processes > 1 else shown == own
    } | {f"ids/epoch {epoch}": epochs.ids(epoch) for epoch in range(3)}
