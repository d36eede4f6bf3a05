"""How fast the training part of an epoch goes, seen from the hooks of a callback."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import keras

from tfdist.measure.step_probe import StepProbe
from tfdist.process import num_processes


@dataclass(frozen=True)
class Interval:
    """What this process did between two marks; None for what cannot be known."""

    num_steps: int
    seconds: float
    examples: int | None
    tokens: int | None
    input_s: float | None


@dataclass(frozen=True)
class _Mark:
    step: int
    time_s: float
    examples: int | None
    tokens: int | None
    input_s: float | None


class StepMeter:
    """Measures intervals of training steps, without validation and without the first step of a fit, which compiles.

    The step's probe counts the examples if the training function has one. Without a probe, a single process takes them
    from the loss metric, whose weight is the batch size. If that is impossible, they are the steps times
    `global_batch_size`.

    Args:
        model: The model that `fit` trains.
        global_batch_size: Examples in one step over all replicas; needed only for models with a training
            function of their own.
        num_steps: Steps of an epoch, None if they are not known.
    """

    def __init__(
        self, model: keras.Model, global_batch_size: int | None = None, num_steps: int | None = None
    ) -> None:
        self._model = model
        self._global_batch_size = global_batch_size
        self._num_steps = num_steps
        self._probe = StepProbe.of(model)
        self._is_compiled = False
        self._start: _Mark | None = None
        self._last_step: int | None = None
        self._last_end: tuple[int, float] = (-1, 0.0)
        self.first_iteration = 0

    def begin_epoch(self) -> None:
        """Forgets the last epoch, and sets `first_iteration` to the optimizer's count, which outlives restarts."""
        self._start = None
        self._last_step = None
        self._last_end = (-1, 0.0)
        self.first_iteration = self._iterations()

    def begin_step(self, step: int) -> None:
        """To be called when the epoch's step number `step` (from 0) is about to run."""
        if self._start is None and (self._is_compiled or step > 0):
            self._start = self._mark(step)
        self._is_compiled = True
        self._last_step = step

    def end_step(self, step: int) -> None:
        """May be called when the logs of step `step` are there, as Keras does from another thread."""
        if step > self._last_end[0]:
            self._last_end = (step, time.perf_counter())

    def num_steps(self) -> int:
        """Steps that the epoch had, once it is over."""
        if self._last_step is None:
            return 0
        most = self._last_step + self._model.steps_per_execution
        counted = self._iterations() - self.first_iteration
        if self._last_step <= counted <= most:  # fewer than `most` if the data ended early
            return counted
        return min(most, self._num_steps or most)

    def measure(self, step: int, restart: bool = True) -> Interval | None:
        """Returns the interval from the last mark to the beginning of `step`; None if it has no step.

        Args:
            step: Number of the step in the epoch, from 0.
            restart: Whether the next interval begins here.
        """
        start, end = self._start, self._mark(step)
        if self._last_step is not None and self._last_step < step <= self._last_end[0] + 1:
            # After the last step of an epoch Keras prepares the validation. That time is no training.
            end = replace(end, time_s=self._last_end[1])
        if start is None or end.step <= start.step:
            return None
        if restart:
            self._start = end
        return Interval(
            num_steps=end.step - start.step,
            seconds=end.time_s - start.time_s,
            examples=_difference(end.examples, start.examples),
            tokens=_difference(end.tokens, start.tokens),
            input_s=_difference(end.input_s, start.input_s),
        )

    def _iterations(self) -> int:
        optimizer = self._model.optimizer
        return 0 if optimizer is None else int(keras.ops.convert_to_numpy(optimizer.iterations))

    def _mark(self, step: int) -> _Mark:
        if self._probe.is_connected:
            counts = self._probe.read()
            return _Mark(step, time.perf_counter(), counts.examples, counts.tokens, counts.input_s)
        examples = self._examples_in_loss(step)
        if examples is None and self._global_batch_size:
            examples = step * self._global_batch_size // num_processes()
        return _Mark(step, time.perf_counter(), examples, None, None)

    def _examples_in_loss(self, step: int) -> int | None:
        if (
            num_processes() > 1
        ):  # reading a metric there is a collective, which one worker alone must not start
            return None
        for metric in self._model.metrics:
            if metric.name == "loss" and isinstance(metric, keras.metrics.Mean):
                count = round(float(keras.ops.convert_to_numpy(metric.count)))
                return count if count or step == 0 else None  # 0 later on: this training step keeps no loss
        return None


def _difference(end: Any, start: Any) -> Any:
    return None if end is None or start is None else end - start
