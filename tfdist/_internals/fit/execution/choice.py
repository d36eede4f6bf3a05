"""`compile(jit_compile="auto")`: XLA compiles the training step if that makes it faster.

The first batch is trained a few times with and without XLA, in turns, and all state is put back. The faster step stays,
and the training has no other.
"""

from __future__ import annotations

import itertools
import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from keras import tree
from keras.src.trainers.trainer import model_supports_jit

from tfdist._internals.check import Program, kept_state
from tfdist._internals.contract import distribution_of
from tfdist._internals.fit.execution.iterators import note_taken
from tfdist._internals.fit.execution.runner import StepRunner
from tfdist._internals.fit.run import run_of
from tfdist._internals.processes.coordination import all_gather_json
from tfdist._internals.processes.watch import shared_step
from tfdist._internals.rows import row_errors
from tfdist._internals.step.compiled_update import is_chosen
from tfdist.errors import UnsupportedError
from tfdist.log import LOGGER, warn_once
from tfdist.process import is_chief

# Steps of each kind that are measured, after one in which it is compiled.
_MEASURED = 5

# XLA has to save so much of a step: less is noise, and each new shape of a batch costs its compilation.
_WORTH = 0.97

# How Keras prints what it has to say.
_BOLD = re.compile(r"\x1b\[\d+m")

# What Keras and TensorFlow put before the reason.
_WRAPPED_IN = ("Exception encountered when", "Graph execution error", "Detected at node", "<stack traces")


class ChoosingFunction:
    """A training function that finds out at its first batch whether XLA makes the step faster.

    Args:
        model: The model; its `jit_compile` is set to what was found.
        make: Makes the training function for the model as it is.

    Attributes:
        wrap: What makes of the training function that was chosen the one that is called.
    """

    def __init__(self, model: Any, make: Callable[[], Any]) -> None:
        self._model, self._make = model, make
        self._function: Any = None
        self.wrap: Callable[[Any], Any] = lambda function: function

    def __call__(self, iterator: Any) -> Any:
        if self._function is not None:
            return self._function(iterator)
        distribution = distribution_of(self._model.distribute_strategy)
        batch = next(iterator)
        if distribution is not None:
            batch = distribution.place(batch)
            note_taken(iterator)
        with shared_step(), row_errors():
            self._function = self._chosen(iterator, batch)
        if isinstance(self._function, StepRunner):
            self._function.begin_with(batch)
            return self._function(iterator)
        self._function = self.wrap(self._function)
        return self._function(_Rest(batch, iterator))

    def _chosen(self, iterator: Any, batch: Any) -> Any:
        """Returns the training function that was faster, and tells which it is."""
        model = self._model
        functions, programs = {}, {}
        for compiled in (False, True):
            model.jit_compile = compiled
            functions[compiled] = self._make()
            programs[compiled] = _program(model, functions[compiled], iterator)
        if isinstance(functions[False], StepRunner):
            model.jit_compile = False
            functions[False].prepare(iterator, batch)  # makes the variables that no step may make
        seconds, reason = _measured(model, programs, batch)
        # XLA refuses in all processes alike, and the choice is one for all of them.
        told = all_gather_json("jit_compile", [statistics.median(seconds[kind]) for kind in sorted(seconds)])
        totals = [sum(times) for times in zip(*told, strict=True)]
        model.jit_compile = not reason and totals[1] < _WORTH * totals[0]
        run = run_of(model)
        run.chooses_compilation = False
        if is_chief():
            line = _told(model.jit_compile, [1e3 * total / len(told) for total in totals], reason)
            if reason:
                LOGGER.warning(line)
            elif run.is_shown:
                print(line, flush=True)  # beside what `fit` prints; a script shows no information of a logger
        return functions[model.jit_compile]


class _Rest:
    """An iterator of which a batch was taken already, with that batch before the others."""

    def __init__(self, batch: Any, iterator: Any) -> None:
        self._batches = itertools.chain([batch], iterator)
        self.element_spec = getattr(iterator, "element_spec", None)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return next(self._batches)


def can_choose(model: Any) -> bool:
    """Returns whether the training of a model begins with such a choice; says so where it was asked for and cannot."""
    run = run_of(model)
    if not run.chooses_compilation:
        return False
    strategy = model.distribute_strategy
    distribution = distribution_of(strategy)
    reason = None
    if model.run_eagerly:
        reason = "run_eagerly compiles nothing"
    elif not model_supports_jit(model):
        reason = (
            "a layer of the model says that XLA cannot compile it, or TensorFlow was told to be deterministic"
        )
    elif distribution is not None and not distribution.compares_compilation:
        reason = f"{distribution.describe()} has one way to compile a step"
    elif distribution is None and not is_chosen(strategy):
        reason = "one_device is plain Keras unless it is made with compiled_update=True"
    if reason is not None:
        run.chooses_compilation = False
        warn_once(f"jit_compile='auto' stays what Keras makes of it, {model.jit_compile}: {reason}.")
    return reason is None


def _program(model: Any, function: Any, iterator: Any) -> Program:
    """Returns the step of a training function for batches that are like those of `iterator`."""
    if isinstance(function, StepRunner):
        return function.program(iterator)

    def trace(batch: Any) -> list[Any]:
        # Stock makes metrics and slots when it traces the first step.
        given = tree.map_structure(
            lambda one: None if isinstance(one, tf.experimental.Optional) else one, batch
        )
        step = tf.function(model.train_step, autograph=False)
        return list(step.get_concrete_function(given).graph.variables)

    return Program(trace, lambda batch: dict(function(iter([batch]))))


def _measured(
    model: Any, programs: Mapping[bool, Program], batch: Any
) -> tuple[dict[bool, list[float]], str]:
    """Returns the seconds of steps of each kind, and why XLA has none, if so; puts all state back."""
    seconds: dict[bool, list[float]] = {kind: [] for kind in programs}
    reason = ""
    with kept_state(model, programs[False].trace(batch)):
        for turn, kind in itertools.product(range(_MEASURED + 1), programs):
            if kind and reason:
                continue
            model.jit_compile = kind
            began = time.perf_counter()
            try:
                tree.map_structure(np.asarray, programs[kind].execute(batch))
            except (tf.errors.OpError, UnsupportedError) as error:
                if not kind:
                    raise
                reason = str(error)
                continue
            if turn:  # the first one compiles
                seconds[kind].append(time.perf_counter() - began)
    if reason:
        del seconds[True]
    return seconds, reason


def _told(chosen: bool, milliseconds: Sequence[float], reason: str) -> str:
    """Returns the line that says what was chosen, and why."""
    if reason:
        lines = [line.strip() for line in _BOLD.sub("", reason).splitlines()]
        telling = next((line for line in lines if line and not line.startswith(_WRAPPED_IN)), reason)
        return f'jit_compile="auto": off, since XLA cannot compile this step: {telling}'
    without, with_xla = milliseconds
    word = "on" if chosen else "off"
    return (
        f'jit_compile="auto": {word}; a step takes {with_xla:.1f} ms with XLA and {without:.1f} ms without.'
    )
