"""Data of unknown length end an epoch without a step of their own: nothing is counted that no batch was seen for."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist.parity import tiny
from tfdist.parity.context import Context
from tfdist.parity.registry import case
from tfdist.parity.topologies import PLAIN

# Five steps: four whole batches, and a rest that leaves replicas without rows.
COUNT, STEPS = 4 * tiny.BATCH + 1, 5


class Counters(keras.callbacks.Callback):
    """The optimizer's and the model's counters after each epoch, before and after its validation."""

    def __init__(self) -> None:
        super().__init__()
        self.iterations: list[int] = []
        self.seeds: list[np.ndarray] = []

    def on_test_begin(self, logs: Any = None) -> None:
        self.iterations.append(int(self.model.optimizer.iterations.numpy()))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.iterations.append(int(self.model.optimizer.iterations.numpy()))
        self.seeds += [np.asarray(layer.seed_generator.state.numpy()) for layer in self.model.layers[1:-1]]


def _decaying() -> keras.optimizers.Optimizer:
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, decay_steps=1, decay_rate=0.8)
    return keras.optimizers.Adam(schedule)


def _fitted(context: Context, **options: Any) -> dict[str, Any]:
    data = tf.data.Dataset.from_tensor_slices(tiny.rows(COUNT)).batch(tiny.BATCH)
    # Plain Keras counts right where it is told the length, and one update too many in each epoch where it is not.
    if context.topology.strategy != PLAIN:
        data = data.filter(lambda features, labels: True)
    model = tiny.compiled(
        context, lambda: tiny.mlp(lambda: keras.layers.Dropout(0.5, seed=4)), _decaying, **options
    )
    counters = Counters()
    history = model.fit(data, epochs=4, validation_data=data, callbacks=[counters], verbose=0)
    return tiny.outcome(context, model, history) | {
        "exact/iterations of epochs": np.asarray(counters.iterations),
        "exact/seeds": np.asarray(counters.seeds),
        "true/iterations": counters.iterations
        == [count for epoch in range(1, 5) for count in [epoch * STEPS] * 2],
    }


@case("executions", quick=True, stands_for_family=True)
def unknown_length(context: Context) -> dict[str, Any]:
    """A filtered dataset: counters of the optimizer and of dropout after each epoch; one and two steps an execution."""
    found: dict[str, Any] = {}
    with context.random_by_row():
        for steps in (1, 2):
            one = _fitted(context, steps_per_execution=steps)
            found |= {f"{name} with {steps}": value for name, value in one.items()}
    return found
