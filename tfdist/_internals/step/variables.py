"""A step sees every Keras variable that is written in it, and says which value is kept.

The variables that were written tell what the parts must share at the end of the step (moving statistics), and which
metrics have new values. A replica without rows of its own runs on one row of padding, so that no layer is given an
empty batch. What its metrics count of that row is not kept.
"""

from __future__ import annotations

import functools
from typing import Any

import tensorflow as tf
from keras.src.backend.tensorflow.core import Variable

from tfdist._internals.contract import Step, distribution_of
from tfdist._internals.patch import Patch, in_step


def _stored(step: Step, stock: Any, variable: Any, value: Any) -> Any:
    return stock(variable, step.stored(variable, value))


def _kept_by_replica(stock: Any) -> Any:
    """Lets each replica write its own copy; `fit.shared_state` does at the end of a step what the variable names."""

    @functools.wraps(stock)
    def _map_aggregation(variable: Any, aggregation: str) -> tf.VariableAggregation:
        if distribution_of(tf.distribute.get_strategy()) is None:
            return stock(variable, aggregation)
        if variable.synchronization != "on_read":
            return tf.VariableAggregation.NONE
        # All copies are equal after a step, but for those that are summed when they are read.
        return stock(variable, "sum" if aggregation == "sum" else "only_first_replica")

    return _map_aggregation


PATCHES = (
    Patch(
        name="step.variables",
        owner=Variable,
        attribute="_map_aggregation",
        make=_kept_by_replica,
        reason="aggregation='sum' adds the old value once for each replica, at each assignment, by a collective",
        upstream="no thread found",
    ),
    Patch(
        name="step.variables",
        owner=Variable,
        attribute="_direct_assign",
        make=in_step(_stored),
        reason="nothing tells which variables a step wrote, and a replica without rows crashes or counts padding",
        upstream="https://github.com/keras-team/keras/issues/19246",
    ),
)
