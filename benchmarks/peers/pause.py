"""The callback by which `fit` takes turns with other contestants."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras

from tfdist.bench.turns import Turns


class Pause(keras.callbacks.Callback):
    """Lets the steps of `fit` take turns with those of others.

    Args:
        turns: The turns.
        shapes: Rows and length of each step.
    """

    def __init__(self, turns: Turns, shapes: Iterable[tuple[int, int]]) -> None:
        super().__init__()
        self.turns, self.shapes = turns, iter(shapes)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._total = 0.0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.turns.begin_step()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        total = float(logs["loss"]) * (batch + 1)  # a mean over the steps so far; it waits for the step
        self.turns.end_step(*next(self.shapes), total - self._total)
        self._total = total
