"""A profiler trace of a few training steps."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfdist.errors import ConfigError
from tfdist.log import LOGGER


class StepProfile:
    """Traces the training steps `first` to `last` of a fit (from 1) into `log_dir`.

    Args:
        log_dir: Folder of the run, in which TensorBoard looks for the trace.
        profile_batch: 0 for none, a step, `(first, last)` or `"first,last"`, as in Keras.
    """

    def __init__(self, log_dir: str, profile_batch: int | str | tuple[int, int]) -> None:
        self._log_dir = log_dir
        self.first, self.last = _parse(profile_batch)
        self._is_running = False
        self._step_trace: Any = None

    def begin_step(self, step: int) -> None:
        """To be called when training step `step` (from 1, over all epochs of the fit) is about to run."""
        self.end_step()
        if self._is_running and step > self.last:
            self.stop()
        if not self._is_running and self.first and self.first <= step <= self.last:
            try:
                tf.profiler.experimental.start(self._log_dir)
            except tf.errors.OpError as error:  # another profiler is at work, and the training must go on
                LOGGER.warning("Steps %d to %d are not profiled: %s", self.first, self.last, error.message)
                self.first = 0
                return
            self._is_running = True
        if self._is_running:
            self._step_trace = tf.profiler.experimental.Trace("train", step_num=step, _r=1)
            self._step_trace.__enter__()

    def stop(self) -> None:
        """Ends and writes a trace that is being taken."""
        self.end_step()
        if self._is_running:
            self._is_running = False
            self.first = 0  # a fit has one trace
            tf.profiler.experimental.stop()

    def end_step(self) -> None:
        """To be called when the step that `begin_step` announced is over, or will not come."""
        if self._step_trace is not None:
            self._step_trace.__exit__(None, None, None)
            self._step_trace = None


def _parse(profile_batch: Any) -> tuple[int, int]:
    try:
        parts = profile_batch.split(",") if isinstance(profile_batch, str) else profile_batch
        steps = [int(part) for part in parts] if isinstance(parts, (list, tuple)) else [int(parts)]
        first, last = (steps[0], steps[-1]) if len(steps) <= 2 else (-1, -1)
    except (ValueError, TypeError, IndexError):
        first, last = -1, -1
    if first < 0 or last < first or (first == 0 and last > 0):
        raise ConfigError(
            f"profile_batch={profile_batch!r} is no step or pair of steps. Allowed: 0 (no profile), a step "
            'from 1, (first, last) or "first,last". For example profile_batch=(10, 20).'
        )
    return first, last
