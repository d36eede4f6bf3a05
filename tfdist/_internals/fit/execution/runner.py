"""Runs training or test steps on all devices: one compiled function for one step, and one for a loop of steps."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from keras import tree

from tfdist._internals.check import Program, Trial, check_first_step, needs_first_step
from tfdist._internals.contract import Distribution, SizesVaryError
from tfdist._internals.fit.execution.compiled import compiled
from tfdist._internals.fit.execution.iterators import (
    batches_left,
    has_fixed_rows,
    note_taken,
    of_one,
    takes_batches_itself,
)
from tfdist._internals.fit.execution.packed_logs import PackedLogs
from tfdist._internals.fit.global_step import STOP_KEY, synchronized
from tfdist._internals.fit.run import run_of
from tfdist._internals.processes.watch import shared_step
from tfdist._internals.rows import row_errors
from tfdist.process import num_processes


def after(batch: Any) -> contextlib.AbstractContextManager[Any]:
    """Returns a context in which a step is called that waits for its batch.

    Counters and seeds use nothing of the batch, and TensorFlow puts the operations of a called function in the place of
    the call. So they would run when the data have ended, and count an update that changes nothing else.
    """
    if tf.executing_eagerly():
        return contextlib.nullcontext()
    leaves = tf.nest.flatten(batch, expand_composites=True)
    # An input that is also waited for is taken for an input alone. So the step waits for something between them.
    return tf.control_dependencies([tf.group([leaf for leaf in leaves if tf.is_tensor(leaf)])])


class StepRunner:
    """What Keras calls with an iterator for every execution of one or several steps.

    Args:
        distribution: Places the batches that are on the host, and runs the step on every part.
        model: The model whose step it is.
        step_function: The model's `train_step` or `test_step`.
    """

    def __init__(self, distribution: Distribution, model: Any, step_function: Any) -> None:
        self._distribution = distribution
        self._model = model
        self._function = synchronized(model, step_function)
        run = run_of(model)
        # A meter that watches training attaches this before the function is made.
        self._probe = run.probe if step_function == model.train_step else None
        self._unchecked = step_function == model.train_step and needs_first_step(distribution, model)
        self._first: Any = None
        self._loops = True
        self._step = compiled(model, self._one_step)
        self._next_step = compiled(model, self._step_on_next)
        self._several_steps = compiled(model, self._steps_in_loop)

    def __call__(self, iterator: Any) -> Any:
        run = run_of(self._model)
        execute = self._begun if self._unchecked or self._first is not None else self._execute
        with shared_step(), row_errors():
            logs = execute(iterator, self.flag(float(run.wants_stop)), self._model.steps_per_execution)
            if num_processes() > 1:
                run.votes()  # of the step before: this waits for nothing
            run.heard = self.votes(logs.pop(STOP_KEY), iterator)
        return logs

    # Hooks that a strategy may override.

    def flag(self, value: float) -> tf.Tensor:
        """Returns a value of this process, scalar float32, which a step sums over all processes."""
        return constant(value)

    def votes(self, total: tf.Tensor, iterator: Any) -> Any:
        """Returns the sum of the flags, given the one that a step returned."""
        return total

    def watched(self) -> contextlib.AbstractContextManager[None]:
        """Returns a context that surrounds each step."""
        return contextlib.nullcontext()

    def stepped(self, iterator: Any) -> None:
        """Is called when a step on a batch of `iterator` has been started."""

    # The functions that are compiled.

    def _one_step(self, batch: Any, wants_stop: tf.Tensor, function: Any = None) -> Any:
        strategy: Any = self._distribution
        logs = strategy.run(function or self._function, args=(batch, wants_stop))
        return tree.map_structure(lambda value: strategy.experimental_local_results(value)[0], logs)

    def _next_batch(self, iterator: Any) -> Any:
        return next(iterator) if self._probe is None else self._probe.get_next(lambda: next(iterator))

    def _step_on_next(self, iterator: Any, wants_stop: tf.Tensor) -> Any:
        return self._one_step(self._next_batch(iterator), wants_stop, self._after_batch)

    def _after_batch(self, data: Any, wants_stop: tf.Tensor) -> Any:
        with after(data):
            return self._function(data, wants_stop)

    def _steps_in_loop(self, iterator: Any, wants_stop: tf.Tensor, count: tf.Tensor) -> Any:
        logs = PackedLogs(tf.float64 if self._model.compute_dtype == "float64" else tf.float32)

        def step(index: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return index + 1, logs.pack(self._one_step(self._next_batch(iterator), wants_stop))

        self._distribution.in_loop = True
        try:
            _, vector = tf.while_loop(
                lambda index, _: index < count,
                step,
                (0, tf.zeros([0], logs.dtype)),
                shape_invariants=(tf.TensorShape([]), tf.TensorShape([None])),
            )
        finally:
            self._distribution.in_loop = False
        return logs.unpack(vector)

    # Which of them runs.

    def begin_with(self, batch: Any) -> None:
        """Gives the next execution its first batch, placed, which was taken from the iterator already."""
        self._first = batch

    def _begun(self, iterator: Any, wants_stop: tf.Tensor, count: int) -> Any:
        """Executes steps, of which the first has a batch that is taken here, and is checked before it counts."""
        first, self._first = self._first, None
        if first is None:
            first = self._distribution.place(next(iterator))
            note_taken(iterator)
        self.prepare(iterator, first)
        logs = self._execute(of_one(iterator, first), wants_stop, 1)
        if count > 1:
            with contextlib.suppress(StopIteration):
                logs = self._execute(iterator, wants_stop, count - 1)
        return logs

    def prepare(self, iterator: Any, first: Any) -> None:
        """Checks the step, if that is due: it is done twice before, on a placed batch, and compared."""
        if not self._unchecked:
            return
        self._unchecked = False
        fixed = has_fixed_rows(iterator)
        with self._distribution.exact_sums() as left_out:
            # What is compiled here is not what trains, if sums are not exact otherwise.
            checked = (
                type(self)(self._distribution, self._model, self._model.train_step) if left_out else self
            )
            trials = [checked._trial(first, iterator, fixed)]
            if fixed and self._distribution.takes_any_rows:
                # A device may have no room for a whole batch. A few rows need a program of their own.
                trials.append(checked._trial(first, None, False))
            check_first_step(self._distribution, self._model, trials, show=run_of(self._model).is_shown)
            if left_out and self._distribution.self_check != "off" and run_of(self._model).is_shown:
                print(f"self check: without {left_out}, by which a step is another one", flush=True)

    def _trial(self, batch: Any, iterator: Any, fixed: bool) -> Trial:
        """Returns how the step is done on rows of a placed batch, as one of `iterator`, or as one by itself."""
        take_sample = functools.partial(self._distribution.sample, batch, fixed)
        return Trial(take_sample, self.program(iterator), functools.partial(self._drawing_by_row, iterator))

    def program(self, iterator: Any) -> Program:
        """Returns the step for batches that are like those of `iterator`."""

        def execute(batch: Any) -> dict[str, Any]:
            logs = self._execute(of_one(iterator, batch), self.flag(0.0), 1)
            return {key: value for key, value in logs.items() if key != STOP_KEY}

        return Program(lambda batch: self._traced(of_one(iterator, batch)), execute)

    @contextlib.contextmanager
    def _drawing_by_row(self, iterator: Any) -> Iterator[Program]:
        distribution: Any = self._distribution
        before, distribution.random_by_row = distribution.random_by_row, True
        try:
            yield type(self)(distribution, self._model, self._model.train_step).program(iterator)
        finally:
            distribution.random_by_row = before

    def _traced(self, single: Any) -> list[Any]:
        """Compiles what runs the batch of `single`; returns TensorFlow's variables in it."""
        if self._model.run_eagerly:
            return []
        if not takes_batches_itself(single):
            function = self._step.get_concrete_function(next(single), self.flag(0.0))
            return list(function.graph.variables)
        if self._model.steps_per_execution > 1 and batches_left(single) is not None and self._loops:
            try:
                function = self._several_steps.get_concrete_function(single, self.flag(0.0), tf.constant(1))
                return list(function.graph.variables)
            except SizesVaryError:
                self._loops = False
        return list(self._next_step.get_concrete_function(single, self.flag(0.0)).graph.variables)

    def _execute(self, iterator: Any, wants_stop: tf.Tensor, count: int) -> Any:
        if not takes_batches_itself(iterator):
            return self._batch_by_batch(iterator, wants_stop, count)
        if self._model.steps_per_execution == 1:
            return self._next_step(iterator, wants_stop)
        remaining = batches_left(iterator)
        if remaining is None or self._model.run_eagerly:
            return self._until_end(iterator, wants_stop, count)
        if remaining == 0:
            raise StopIteration
        count = min(count, remaining)
        note_taken(iterator, count)
        if self._loops:
            try:
                return self._several_steps(iterator, wants_stop, tf.constant(count))
            except SizesVaryError:  # while it is traced, so that no step has been done
                self._loops = False
        return self._until_end(iterator, wants_stop, count)

    def _batch_by_batch(self, iterator: Any, wants_stop: tf.Tensor, count: int) -> Any:
        logs = None
        for _, data in zip(range(count), iterator, strict=False):
            batch = self._distribution.place(data)
            with self.watched():
                logs = self._step(batch, wants_stop)
            self.stepped(iterator)
        if logs is None:
            raise StopIteration
        return logs

    def _until_end(self, iterator: Any, wants_stop: tf.Tensor, count: int) -> Any:
        logs = None
        for _ in range(count):
            try:
                logs = self._next_step(iterator, wants_stop)
            except (tf.errors.OutOfRangeError, StopIteration):  # the second where nothing is compiled
                break
        if logs is None:
            raise StopIteration
        return logs


@functools.cache
def constant(value: float) -> tf.Tensor:
    """Returns a scalar float32 tensor, which is made once."""
    # Making a new tensor for each step would take a hundredth of the time of a small model's step.
    return tf.constant(value)
