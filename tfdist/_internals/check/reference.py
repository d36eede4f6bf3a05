"""The same step by one replica that has all rows: plain Keras, without a strategy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree
from tensorflow.python.eager import context

from tfdist._internals import keras_state
from tfdist._internals.check.one_device import OneDevice
from tfdist._internals.check.rows import RowsOfReplicas
from tfdist._internals.check.variables import SLOT, WEIGHT, Tracked, Values, value_of
from tfdist._internals.contract import Distribution, Sample, drawn_by

# How far the weights of the disturbed run are off, relative to a number: as far as the sums of a deep network are. That
# is more than one spacing, so that an activation that rounding alone puts above or below zero changes sides in it.
_OFF = {"float64": 2.0**-46, "float32": 2.0**-17, "float16": 2.0**-10, "bfloat16": 2.0**-7}


class Outcome:
    """What a step left.

    Attributes:
        logs: Name -> value; of nested logs, as of a metric that returns several, each with its path.
        values: Path -> the value of the variable.
    """

    def __init__(self, logs: Mapping[str, Any], values: Values) -> None:
        self.logs: Values = {
            "/".join(map(str, path)): np.asarray(value, np.float64)
            for path, value in tree.flatten_with_path(dict(logs))
        }
        self.values = values


class Reference:
    """The step of a model on one device.

    It is traced before the step of all devices. So variables that are made in the first step are made here, on all
    devices, as a model or optimizer has them that nobody has built.

    Args:
        distribution: Where variables belong.
        model: The model.
        sample: The rows.
        draws: Gives the rows the random numbers of their replicas.
    """

    def __init__(
        self, distribution: Distribution, model: keras.Model, sample: Sample, draws: RowsOfReplicas
    ) -> None:
        self._model, self._data, self._draws = model, sample.data, draws
        self._state = keras_state.capture()
        self._device = OneDevice(distribution, model)
        self._step: Callable[[Any], Any] = model.train_step

    def trace(self) -> bool:
        """Compiles the step, unless the model runs eagerly; returns whether variables were made."""
        if not self._model.run_eagerly:
            # A concrete function, since TensorFlow warns of many traces of one method, and each check has one.
            function = tf.function(self._with_creator(self._step), autograph=False)
            self._step = self._alone(lambda: function.get_concrete_function(self._data))
        return self._device.has_made

    def run(self, before: Values, tracked: list[Tracked]) -> Outcome:
        """Returns what a step leaves, given the values of the variables before it."""

        def run() -> Outcome:
            variables = {one.path: self._device.plain(one) for one in tracked}
            for path, variable in variables.items():
                variable.assign(before[path])
            logs = self._step(self._data)
            return Outcome(logs, {path: value_of(variable) for path, variable in variables.items()})

        return self._alone(run)

    def _with_creator(self, step: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def with_creator(data: Any) -> Any:
            with tf.variable_creator_scope(self._device.create):
                return step(data)

        return with_creator

    def _alone(self, function: Callable[[], Any]) -> Any:
        """Calls a function in a thread of its own, since this one may be in a strategy's scope."""

        def call() -> Any:
            _leave_graphs_as_they_are()
            with keras_state.restored(self._state), self._device, drawn_by(self._draws):
                return function()

        with ThreadPoolExecutor(1) as pool:
            return pool.submit(call).result()


def _leave_graphs_as_they_are() -> None:
    """Has TensorFlow not optimize the functions that this thread calls first: that takes longer than two steps."""
    config = context.context().config
    config.allow_soft_placement = True
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    context.context().function_call_options = context.FunctionCallOptions(config_proto=config)


def disturbed(before: Values, tracked: list[Tracked], precision: str) -> Values:
    """Returns values of which weights and slots are off by as much as rounding is in a deep network."""
    found = dict(before)
    for one in tracked:
        value = np.asarray(before[one.path])
        is_weight = one.role == WEIGHT
        # An optimizer may subtract two roots of nearly the same accumulator, as Ftrl does, and rounding is large then.
        has_rounding = is_weight or (one.role == SLOT and value.ndim > 0 and value.any())
        if has_rounding and np.issubdtype(value.dtype, np.floating):
            found[one.path] = _moved(value, _OFF[precision], with_zeros=is_weight)
    return found


def _moved(value: np.ndarray, spacing: float, with_zeros: bool) -> np.ndarray:
    """Returns numbers that are off by a part of their size, half of them up and half down."""
    signs = np.random.default_rng(0).choice([1.0 - spacing, 1.0 + spacing], 4093).astype(value.dtype)
    flat, off = value.ravel(), np.empty(value.size, value.dtype)
    whole = value.size - value.size % signs.size
    np.multiply(flat[:whole].reshape(-1, signs.size), signs, out=off[:whole].reshape(-1, signs.size))
    np.multiply(flat[whole:], signs[: value.size - whole], out=off[whole:])
    if with_zeros:
        # A bias of zero before a ReLU leaves it to rounding which rows pass, and so must be off too.
        zeros = np.flatnonzero(flat == 0)
        off[zeros] = signs[zeros % signs.size] - 1
    return off.reshape(value.shape)
