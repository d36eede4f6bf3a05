"""What the parts of a step share at its end: the states of metrics, and what layers and steps wrote to their variables.

A variable names its `aggregation`, and each part writes its own copy during the step. At the end, `sum` adds up the
changes of all parts, and `only_first_replica` takes the value of the first. `mean` takes the mean over the rows, and so
does a floating-point variable that names nothing, such as a moving mean. What all parts wrote alike needs no exchange.
The states of metrics add up when they are read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf
from keras import tree

from tfdist._internals.contract import Step, current_step


class _Exchange(NamedTuple):
    """One variable's part in the exchange.

    Attributes:
        variable: A Keras variable.
        sent: What this part adds to the sum.
        received: Returns the variable's value, given the sum.
        stored: Whether the value is written to every copy. A metric's state that adds up stays as it is in each part.
    """

    variable: Any
    sent: tf.Tensor
    received: Callable[[tf.Tensor], tf.Tensor]
    stored: bool


def begin(model: Any, step: Step) -> None:
    """Notes what the parts have in common before the step, and the values to which changes are added."""
    step.trust([*model.variables, *getattr(getattr(model, "optimizer", None), "variables", ())])
    in_metrics = _ids(_states(model))
    step.before = {
        id(variable): tf.identity(variable.value)
        for variable in model.non_trainable_variables
        if variable.aggregation == "sum" and id(variable) not in in_metrics and not step.is_whole
    }


def shared_outputs(model: Any, data: Any, counted: Callable[[Step, Any], Any] | None = None) -> Any:
    """Returns the outputs of `predict_step`, after which the parts share what layers wrote.

    Args:
        model: The model.
        data: The part's data.
        counted: Returns what counts of one output; the rows that count, if it is not given.
    """
    step = current_step()
    if step is None:
        return model.predict_step(data)
    begin(model, step)
    outputs = model.predict_step(data)
    state = SharedState(model, step, with_metrics=False)
    state.store(step.sum(state.tensors))
    if counted is None:
        return tree.map_structure(step.counted, outputs)
    return tree.map_structure(lambda output: counted(step, output), outputs)


class SharedState:
    """What the parts share at the end of a step.

    Attributes:
        tensors: What travels, a flat list; most of it is float32.
    """

    def __init__(self, model: Any, step: Step, with_metrics: bool = True) -> None:
        self._model, self._step = model, step
        self._num_written = len(step.written)
        self._exchanges = [
            *(_of_metric(variable, step) for variable in (_states(model) if with_metrics else ())),
            *(_of_layer(variable, step) for variable in _written(model, step, step.written)),
        ]
        self.tensors = [exchange.sent for exchange in self._exchanges]

    @property
    def is_outdated(self) -> bool:
        """Whether any of it, or another variable of the kind, was written since."""
        late = self._step.written[self._num_written :]
        return bool(_ids(late) & _ids(_states(self._model)) or _written(self._model, self._step, late))

    def store(self, summed: list[tf.Tensor]) -> list[tuple[Any, tf.Tensor]]:
        """Writes what every copy has to hold, given the sums; returns the metrics' variables with global values."""
        states = _ids(_states(self._model))
        values: list[tuple[Any, tf.Tensor]] = []
        for exchange, total in zip(self._exchanges, summed, strict=True):
            variable = exchange.variable
            value = tf.cast(exchange.received(total), variable.dtype)
            if exchange.stored:
                variable._value.assign(value)
            if id(variable) in states:
                values.append((variable, value))
        return values


def _states(model: Any) -> list[Any]:
    return [variable for metric in model.metrics for variable in metric.variables]


def _ids(variables: Any) -> set[int]:
    return {id(variable) for variable in variables}


def _written(model: Any, step: Step, written: list[Any]) -> list[Any]:
    """Returns the variables of layers that are to be exchanged, because they are among those written."""
    among, in_metrics = _ids(written), _ids(_states(model))
    return [
        variable
        for variable in model.non_trainable_variables
        if id(variable) in among and id(variable) not in in_metrics and _is_exchanged(variable, step)
    ]


def _is_exchanged(variable: Any, step: Step) -> bool:
    if variable.aggregation == "sum":
        return id(variable) in step.before
    return step.differs(variable) and (variable.aggregation != "none" or _is_floating(variable))


def _is_floating(variable: Any) -> bool:
    return tf.as_dtype(variable.dtype).is_floating


def _of_metric(variable: Any, step: Step) -> _Exchange:
    if variable.aggregation == "sum":
        return _Exchange(variable, _travelling(variable.value), lambda total: total, stored=False)
    if not step.differs(variable):
        value = tf.convert_to_tensor(variable.value)
        return _Exchange(variable, tf.zeros([]), lambda _: value, stored=False)
    return _of_layer(variable, step)


def _of_layer(variable: Any, step: Step) -> _Exchange:
    value = tf.convert_to_tensor(variable._value)
    if variable.aggregation == "only_first_replica":
        return _Exchange(variable, step.of_first(_travelling(value)), lambda total: total, stored=True)
    if variable.aggregation == "sum":
        before = step.before[id(variable)]
        change = _travelling(value) - _travelling(before)
        change = tf.where(step.has_rows, change, tf.zeros_like(change))
        return _Exchange(
            variable, change, lambda total: before + tf.cast(total, before.dtype), stored=not step.is_whole
        )
    mean = step.share(_travelling(value) if _is_floating(variable) else tf.cast(value, tf.float32))
    finish = tf.identity if _is_floating(variable) else tf.round
    return _Exchange(variable, mean, finish, stored=True)


def _travelling(value: Any) -> tf.Tensor:
    """Returns a value in a type that collectives take, and that holds it exactly."""
    value = tf.convert_to_tensor(value)
    if value.dtype in (tf.float32, tf.float64, tf.int32, tf.int64):
        return value
    return tf.cast(
        value, tf.float32 if value.dtype.is_floating else tf.int64 if value.dtype.size >= 4 else tf.int32
    )
