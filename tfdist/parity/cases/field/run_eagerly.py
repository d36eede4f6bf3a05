"""`run_eagerly=True` takes the steps that a compiled step takes, and is seen by callbacks as on one device."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist.parity import tiny
from tfdist.parity.context import Context
from tfdist.parity.registry import MESH, NARROW, case

# Two whole batches, and one row that leaves replicas without one.
COUNT = 2 * tiny.BATCH + 1

# Whether the step is eager, whether the length is known, steps of an execution, and how many of them are unrolled.
BRANCHES = {
    "eager": (True, True, 2, 1),
    "eager, more than there are": (True, True, 101, 4),
    "eager, unknown length": (True, False, 2, 1),
    "eager, unknown length, more than there are": (True, False, 101, 1),
    "compiled, unrolled": (False, True, 2, 2),
}


class BatchesSeen(keras.callbacks.Callback):
    """The numbers of the batches that callbacks are told of."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.seen.append(batch)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seen.append(-batch)

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seen.append(1000 + batch)

    def on_predict_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seen.append(2000 + batch)


@case("executions", on=(*NARROW, MESH))
def run_eagerly(context: Context) -> dict[str, Any]:
    """Eager and unrolled executions of several steps, known and unknown length: steps, batches and weights."""
    found: dict[str, Any] = {}
    for name, branch in BRANCHES.items():
        found |= {
            key.replace("/", f"/{name} ", 1): value for key, value in _trained(context, *branch).items()
        }
    return found


def _trained(context: Context, eager: bool, known: bool, steps: int, unrolled: int) -> dict[str, Any]:
    model = tiny.compiled(
        context,
        optimizer=lambda: keras.optimizers.Adam(0.1),
        run_eagerly=eager,
        steps_per_execution=steps,
        metrics=["accuracy"],
    )
    model.unrolled_steps_per_execution = unrolled
    data = tf.data.Dataset.from_tensor_slices(tiny.rows(COUNT)).batch(tiny.BATCH)
    if not known:
        data = data.filter(lambda features, labels: True)
    seen = BatchesSeen()
    history = model.fit(data, validation_data=data, epochs=2, verbose=0, callbacks=[seen])
    predictions = model.predict(data, verbose=0, callbacks=[seen])
    return tiny.outcome(context, model, history) | {
        "predict/all": predictions,
        "exact/seen": np.asarray(seen.seen),
    }
