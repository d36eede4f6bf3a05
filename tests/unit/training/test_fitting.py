"""A number of steps that ends in the middle of an epoch: what is trained, shown and told to callbacks."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfdist
from tfdist.data.batches import make_dataset
from tfdist.training.arithmetic import Steps
from tfdist.training.fitting import fit_steps

NUM_ROWS, BATCH = 19, 4  # five batches, the last of three rows
STEPS_OF_EPOCH = 5


class Note(keras.callbacks.Callback):
    """Notes what Keras tells a callback."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []

    def on_train_begin(self, logs: Any = None) -> None:
        self.calls.append("begin")

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.calls.append((epoch, self.params["steps"], self.params["epochs"]))

    def on_train_end(self, logs: Any = None) -> None:
        self.calls.append("end")


def dataset(first_epoch: int = 0) -> tf.data.Dataset:
    rng = np.random.default_rng(0)
    rows = [{"x": rng.integers(0, 9, 3).astype("int32")} for _ in range(NUM_ROWS)]
    labels = rng.integers(0, 2, NUM_ROWS)
    return make_dataset(
        rows,
        labels,
        global_batch_size=BATCH,
        max_length=3,
        pad_values={"x": 0},
        shuffle=True,
        seed=4,
        first_epoch=first_epoch,
        padding="fixed",
    )


def model_of(strategy: tf.distribute.Strategy, steps_per_execution: int = 1) -> keras.Model:
    keras.utils.set_random_seed(0)
    with strategy.scope():
        tokens = keras.Input((3,), dtype="int32", name="x")
        hidden = keras.layers.Flatten()(keras.layers.Embedding(9, 4)(tokens))
        model = keras.Model({"x": tokens}, keras.layers.Dense(2)(hidden))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(0.05), loss, steps_per_execution=steps_per_execution)
    return model


def expected_weights(num_steps: int) -> list[np.ndarray]:
    """The weights after so many steps of a loop that knows no `fit`."""
    model = model_of(tfdist.create_strategy("one_device"))
    done = 0
    for epoch in range(3):
        for x, y in dataset(epoch):
            if done < num_steps:
                model.train_on_batch(x, y)
                done += 1
    return model.get_weights()


@pytest.mark.parametrize(
    ("num_steps", "steps_per_execution", "options"),
    [
        (3, 4, {"name": "one_device"}),
        (5, 1, {"name": "one_device"}),
        (8, 1, {"name": "one_device"}),
        (8, 4, {"name": "one_device"}),
        (8, 4, {"name": "mirrored", "devices": 2}),
    ],
)
def test_exactly_so_many_steps_in_the_same_order(num_steps, steps_per_execution, options):
    model = model_of(tfdist.create_strategy(**options), steps_per_execution)
    history = fit_steps(model, dataset(), Steps(num_steps, STEPS_OF_EPOCH), [], shuffle=False, verbose=0)
    assert int(keras.ops.convert_to_numpy(model.optimizer.iterations)) == num_steps
    assert len(history["loss"]) == (2 if num_steps > STEPS_OF_EPOCH else 1)
    for found, expected in zip(model.get_weights(), expected_weights(num_steps), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_callbacks_see_one_fit_and_the_steps_of_each_epoch():
    note = Note()
    fit_steps(
        model_of(tfdist.create_strategy("one_device")),
        dataset(),
        Steps(13, STEPS_OF_EPOCH),
        [note],
        verbose=0,
    )
    assert note.calls == ["begin", (0, 5, 3), (1, 5, 3), (2, 3, 3), "end"]
    assert "on_train_end" not in vars(note) and "on_train_begin" not in vars(note)


def test_the_printed_lines_have_the_steps_that_ran(capsys):
    fit_steps(
        model_of(tfdist.create_strategy("one_device")), dataset(), Steps(8, STEPS_OF_EPOCH), [], verbose=2
    )
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" - ")[0] for line in lines] == ["Epoch 1/2", "5/5", "Epoch 2/2", "3/3"]


class StopAt(keras.callbacks.Callback):
    def __init__(self, epoch: int) -> None:
        super().__init__()
        self._epoch = epoch

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.model.stop_training = epoch == self._epoch


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_callback_that_stops_ends_all(epoch):
    note, model = Note(), model_of(tfdist.create_strategy("one_device"))
    history = fit_steps(model, dataset(), Steps(13, STEPS_OF_EPOCH), [note, StopAt(epoch)], verbose=0)
    assert len(history["loss"]) == epoch + 1
    assert int(model.optimizer.iterations) == (epoch + 1) * STEPS_OF_EPOCH
    assert note.calls.count("begin") == note.calls.count("end") == 1


@pytest.mark.parametrize("best_epoch", [0, 2])
def test_the_best_weights_come_back_at_the_end_of_all(best_epoch):
    """The last epoch is short, and early stopping remembers over it what was best before."""
    model = model_of(tfdist.create_strategy("one_device"))
    seen: list[list[np.ndarray]] = []

    class Score(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            logs["score"] = float(epoch == best_epoch)
            seen.append(self.model.get_weights())

    stopping = tfdist.callbacks.EarlyStopping("score", mode="max", patience=9, restore_best_weights=True)
    fit_steps(model, dataset(), Steps(13, STEPS_OF_EPOCH), [Score(), stopping], verbose=0)
    assert len(seen) == 3
    for found, best in zip(model.get_weights(), seen[best_epoch], strict=True):
        np.testing.assert_array_equal(found, best)
