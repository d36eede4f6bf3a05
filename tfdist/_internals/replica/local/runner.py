"""Runs the training steps of a round by round, and averages between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfdist._internals.check import Trial
from tfdist._internals.fit.execution.iterators import takes_batches_itself
from tfdist._internals.fit.execution.runner import StepRunner
from tfdist._internals.fit.global_step import synchronized
from tfdist._internals.replica.local.rounds import Rounds


class LocalStepRunner(StepRunner):
    """Runs local steps; an execution of several steps is divided where a round ends.

    The self check does the first step as a synchronous one, since a local one is no step of one device. So it shows
    that rows, losses, gradients and metrics are right, on all devices.

    Args:
        distribution: The strategy.
        model: The model.
        step_function: The model's `train_step`.
        rounds: The rounds of the model.
    """

    def __init__(
        self, distribution: Any, model: Any, step_function: Callable[[Any], Any], rounds: Rounds
    ) -> None:
        super().__init__(distribution, model, step_function)
        self._function = synchronized(model, rounds.counting(step_function))
        self._rounds = rounds

    def stepped(self, iterator: Any) -> None:
        self._rounds.advance(1)

    def _one_step(self, batch: Any, wants_stop: tf.Tensor, function: Any = None) -> Any:
        distribution: Any = self._distribution
        with distribution.local_updates():
            return super()._one_step(batch, wants_stop, function)

    def prepare(self, iterator: Any, first: Any) -> None:
        if self._unchecked:
            self._rounds.settle(slots=True)
        super().prepare(iterator, first)

    def _trial(self, batch: Any, iterator: Any, fixed: bool) -> Trial:
        synchronous = StepRunner(self._distribution, self._model, self._model.train_step)
        return synchronous._trial(batch, iterator, fixed)

    def _execute(self, iterator: Any, wants_stop: tf.Tensor, count: int) -> Any:
        logs = None
        while count > 0:
            part = min(count, self._rounds.begin())
            try:
                logs = super()._execute(iterator, wants_stop, part)
            except (tf.errors.OutOfRangeError, StopIteration):
                if logs is None:
                    raise
                break
            if takes_batches_itself(iterator):
                # If the data have ended before, the epoch has too, and with it the round.
                self._rounds.advance(part)
            count -= part
        return logs
