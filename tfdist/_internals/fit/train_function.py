"""The train and test functions are the strategy's runner, and their steps are tfdist's.

Stock calls a tf.function in the loop of another. The collectives lose their instance keys there, and
`steps_per_execution` above 1 crashes. Stock also reduces logs to a mean of the replicas' means, and fails under several
workers because it reduces scalars along an axis.
"""

from __future__ import annotations

import functools
from typing import Any

from keras.src.backend.tensorflow.trainer import TensorFlowTrainer

from tfdist._internals.contract import Distribution, Step, is_foreign
from tfdist._internals.fit.execution.runner import after
from tfdist._internals.fit.global_step import test_step, train_step
from tfdist._internals.patch import Patch, in_step, of_model


def _runner(distribution: Distribution, stock: Any, model: Any, step_function: Any) -> Any:
    return distribution.runner(model, step_function)


def _after_batch(stock: Any) -> Any:
    @functools.wraps(stock)
    def _autoconvert_optionals(model: Any, step_function: Any) -> Any:
        if is_foreign(model.distribute_strategy):
            return stock(model, step_function)

        def step(data: Any) -> Any:
            with after(data):
                return step_function(data)

        return stock(model, step)

    return _autoconvert_optionals


def _train_step(step: Step, stock: Any, model: Any, data: Any) -> Any:
    return train_step(model, step, data)


def _test_step(step: Step, stock: Any, model: Any, data: Any) -> Any:
    return test_step(model, step, data)


PATCHES = (
    Patch(
        name="fit.train_function",
        owner=TensorFlowTrainer,
        attribute="_make_function",
        make=of_model(_runner),
        reason="steps_per_execution crashes, logs are means of means, multi-worker logs raise a ValueError",
        upstream="https://github.com/keras-team/keras/issues/19246, https://github.com/keras-team/keras/issues/20585",
    ),
    Patch(
        name="fit.train_function",
        owner=TensorFlowTrainer,
        attribute="_autoconvert_optionals",
        make=_after_batch,
        reason="on one device, data of unknown length end each epoch in an update that only counts",
        upstream="no thread found",
    ),
    Patch(
        name="fit.train_function",
        owner=TensorFlowTrainer,
        attribute="train_step",
        make=in_step(_train_step),
        reason="metrics after the gradients need a collective of their own in every step",
        upstream="no thread found",
    ),
    Patch(
        name="fit.train_function",
        owner=TensorFlowTrainer,
        attribute="test_step",
        make=in_step(_test_step),
        reason="the loss counts padding rows",
        upstream="https://github.com/keras-team/keras/issues/19246",
    ),
)
