"""A `PyDataset` without end, whose workers rest between epochs."""

from __future__ import annotations

import time
from typing import Any

import keras
import numpy as np

from tfdist.parity import tiny
from tfdist.parity.context import Context
from tfdist.parity.registry import WIDE, case


class Endless(keras.utils.PyDataset):
    """Batches from a seed for each number."""

    def __init__(self) -> None:
        super().__init__(workers=2)

    @property
    def num_batches(self) -> None:
        return None

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        time.sleep(0.05)  # so that whoever reads ahead still waits when the epoch ends
        return tiny.rows(tiny.BATCH + 1, seed=index)


class SlowEnd(keras.callbacks.Callback):
    """Takes so long at the end of an epoch that whoever reads ahead asks for one more batch."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        time.sleep(0.2)


@case("inputs", on=WIDE)
def endless_dataset(context: Context) -> dict[str, Any]:
    """Three epochs of two steps from a `PyDataset` without end that has workers of its own."""
    model = tiny.compiled(context)
    data = Endless()
    history = model.fit(data, steps_per_epoch=2, epochs=3, verbose=0, callbacks=[SlowEnd()])
    return tiny.outcome(context, model, history)
