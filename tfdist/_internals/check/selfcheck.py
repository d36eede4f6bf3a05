"""The first step of a training function, done twice: by all devices, and by one that has all rows."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfdist._internals.check.compare import Sizes
from tfdist._internals.check.kept import same_random_state
from tfdist._internals.check.reference import Outcome, Reference, disturbed
from tfdist._internals.check.result import (
    OWN_TRACE,
    Outcomes,
    Result,
    compared,
    has_own_loss,
    is_random,
)
from tfdist._internals.check.rows import RowsOfReplicas
from tfdist._internals.check.settings import acting, has_open_accumulation
from tfdist._internals.check.variables import METRIC, Tracked, Values, variables_of, with_others
from tfdist._internals.contract import Distribution, Sample
from tfdist.errors import UnsupportedError


class CannotCheckError(Exception):
    """The step cannot be done twice; says why."""


class NoMemoryError(CannotCheckError):
    """One device has not the memory for the rows of the step."""


class Clock:
    """Takes the time of parts.

    Attributes:
        parts: Part -> seconds.
    """

    def __init__(self) -> None:
        self.parts: dict[str, float] = {}
        self._last = time.monotonic()

    def end(self, part: str) -> None:
        """Notes that a part has ended, and that the next one begins."""
        now = time.monotonic()
        self.parts[part] = self.parts.get(part, 0.0) + now - self._last
        self._last = now


class Program(NamedTuple):
    """A training step as the strategy compiles it.

    Attributes:
        trace: Compiles it for a placed batch; returns TensorFlow's variables that it reads or writes.
        execute: Runs it on a placed batch; returns its logs.
    """

    trace: Callable[[Any], list[Any]]
    execute: Callable[[Any], dict[str, Any]]


class Trial(NamedTuple):
    """One way to do the step.

    Attributes:
        take_sample: Returns a few rows of the first batch.
        program: The step for them.
        drawing_by_row: Opens the step as it would be with `random_by_row`, for a model whose random numbers are
            comparable in no other way.
    """

    take_sample: Callable[[], Sample]
    program: Program
    drawing_by_row: Callable[[], AbstractContextManager[Program]]


def check_step(distribution: Distribution, model: keras.Model, trial: Trial) -> Result:
    """Does one step on a few rows of a batch twice, compares, and puts all state back.

    Raises:
        CannotCheckError: The step cannot be done twice.
    """
    clock = Clock()
    try:
        sample = trial.take_sample()
    except UnsupportedError as error:
        raise CannotCheckError(str(error)) from error
    clock.end("take rows")
    with same_random_state() as keep_state, _garbage_kept():
        draws = RowsOfReplicas(sample.sizes, sample.padded_size, distribution.random_by_row)
        outcomes, sizes = _both(distribution, model, sample, trial.program, draws, keep_state, clock)
        if draws.unlike:
            with trial.drawing_by_row() as by_row:
                draws = RowsOfReplicas(sample.sizes, sample.padded_size, True)
                outcomes, sizes = _both(distribution, model, sample, by_row, draws, keep_state, clock)
    differences, unjudged = compared(outcomes, sizes, precision_of(model))
    has_own_step = not type(model).train_step.__module__.startswith("keras.")
    return Result(
        sample.num_rows,
        differences,
        outcomes.differing,
        unjudged,
        clock.parts,
        has_own_step,
        has_own_loss(model),
        model.run_eagerly,
    )


def make_variables(distribution: Distribution, model: keras.Model, sample: Sample) -> None:
    """Makes the variables that the first step would make, on all devices."""
    Reference(distribution, model, sample, RowsOfReplicas(sample.sizes, sample.padded_size, True)).trace()


def _both(
    distribution: Distribution,
    model: keras.Model,
    sample: Sample,
    program: Program,
    draws: RowsOfReplicas,
    keep_state: Callable[[], None],
    clock: Clock,
) -> tuple[Outcomes, list[Sizes]]:
    """Does the step by all devices, then by one, and puts all state back."""
    reference = Reference(distribution, model, sample, draws)
    problem: Exception | None = None
    try:
        if reference.trace():
            keep_state()
    # The model's code may raise anything. A fault of its own is raised by the step of all devices too, below.
    except Exception as error:
        problem = error
    clock.end("compile on one device")
    tracked, meters = with_others(variables_of(model), program.trace(sample.batch))
    clock.end(OWN_TRACE)
    if problem is not None:
        raise CannotCheckError(f"one device cannot compile it: {problem}") from problem
    accumulates = has_open_accumulation(model)
    with acting(model):
        kept = [one.read() for one in tracked]
        metered = [one.read() for one in meters]
        before = _totals(distribution, tracked, kept, with_accumulators=accumulates)
        # A metric begins with what one replica has of it, and not with the sum over all.
        before |= {one.path: own[0] for one, own in zip(tracked, kept, strict=True) if one.role == METRIC}
        clock.end("read and write")
        logs = program.execute(sample.batch)
        clock.end("step of all devices")
        found = Outcome(logs, _totals(distribution, tracked, [one.read() for one in tracked]))
        differing = [one.path for one in tracked if one.copies_differ]
        clock.end("read and write")
        try:
            expected = reference.run(before, tracked)
            clock.end("first step of one device")
            start = disturbed(before, tracked, precision_of(model))
            again = reference.run(start, tracked)
            clock.end("second step of one device")
            outcomes = Outcomes(tracked, before, found, expected, start, again, differing)
            sizes = outcomes.sizes()
            clock.end("compare")
            if not draws.unlike and is_random(outcomes, sizes, lambda: reference.run(before, tracked)):
                raise CannotCheckError(
                    "two runs of it on one device differ, as with random numbers of its own (tf.random)"
                )
        except tf.errors.ResourceExhaustedError as error:
            raise NoMemoryError("one device has not the memory for it") from error
        finally:
            for one, values in zip([*tracked, *meters], [*kept, *metered], strict=True):
                one.write(values)
    clock.end("read and write")
    return outcomes, sizes


def precision_of(model: keras.Model) -> str:
    """Returns the coarsest dtype that a layer of a model computes in."""
    found = {layer.compute_dtype for layer in model._flatten_layers()}
    for precision in ("bfloat16", "float16", "float32", "float64"):
        if precision in found:
            return precision
    return "float32"


@contextmanager
def _garbage_kept() -> Iterator[None]:
    """Has Python not look for garbage, which while two steps are traced takes longer than a step."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _totals(
    distribution: Distribution,
    tracked: list[Tracked],
    read: list[list[tf.Tensor]],
    with_accumulators: bool = False,
) -> Values:
    """Returns each variable's value: of copies the first, and of parts, as those of metrics, their sum or mean."""
    values: Values = {
        one.path: sum(map(np.asarray, parts)) if one.is_sum and parts[0].dtype != tf.bool else parts[0]
        for one, parts in zip(tracked, read, strict=True)
    }
    divided = [one for one in tracked if one.is_sum and (with_accumulators or "accumulator" not in one.path)]
    if divided and distribution.num_processes > 1:
        own = [values[one.path] for one in divided]
        # All of them in one message.
        gathered = distribution.all_gather_arrays(
            np.concatenate([value.astype(np.float32).ravel() for value in own])
        )
        ends = np.cumsum([value.size for value in own])
        for one, value, total in zip(divided, own, np.split(sum(gathered), ends[:-1]), strict=True):
            values[one.path] = total.reshape(value.shape).astype(value.dtype)
    for one in tracked:
        if one.is_mean:
            values[one.path] = values[one.path] / distribution.row_shards
    return values
