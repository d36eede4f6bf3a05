"""Examples per second in the progress bar and the history."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

import keras

from tfdist._internals.processes.coordination import all_gather_json
from tfdist.measure.cluster_interval import EXAMPLES_PER_SEC, summarize
from tfdist.measure.step_meter import Interval, StepMeter
from tfdist.process import num_processes

THROUGHPUT_LOG = "examples/s"
_REFRESH_S = 0.5


class Throughput(keras.callbacks.Callback):
    """Adds `examples/s`, over all workers, to the logs of `fit`.

    In the progress bar it is the mean of the epoch so far; on several workers, the chief's number times the number of
    workers. In the logs of the epoch it is the number of all workers together for the whole epoch. The first step of a
    fit, which compiles, does not count, and neither does validation. Put this callback before those that are to see
    the number, and give it to `fit` on every worker.

    Args:
        global_batch_size: Examples in one step over all replicas; needed only for models with a training
            function of their own, where they cannot be counted.
    """

    async_safe = True  # on_train_batch_end only adds a number that is known already

    def __init__(self, global_batch_size: int | None = None) -> None:
        super().__init__()
        self.global_batch_size = global_batch_size
        self._in_fit = False

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._in_fit = True
        self._meter = StepMeter(self.model, self.global_batch_size, self.params["steps"])

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._is_training = True
        self._examples_per_s: float | None = None
        self._refreshed_at_s = time.perf_counter()
        self._meter.begin_epoch()

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if time.perf_counter() - self._refreshed_at_s > _REFRESH_S:
            self._refreshed_at_s = time.perf_counter()
            interval = self._meter.measure(batch, restart=False)
            if interval is not None and interval.examples is not None:
                self._examples_per_s = num_processes() * interval.examples / interval.seconds
        self._meter.begin_step(batch)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._meter.end_step(batch)
        self._add(logs)

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._end_training()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._end_training()
        self._add(logs)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self._in_fit = False

    def _end_training(self) -> None:
        if not self._in_fit or not self._is_training:
            return
        self._is_training = False
        interval = self._meter.measure(self._meter.num_steps())
        if interval is not None:
            intervals = [Interval(**worker) for worker in all_gather_json("throughput", asdict(interval))]
            self._examples_per_s = summarize(intervals).get(EXAMPLES_PER_SEC)

    def _add(self, logs: dict[str, Any] | None) -> None:
        if logs is not None and self._examples_per_s is not None:
            logs[THROUGHPUT_LOG] = self._examples_per_s
