"""The train and test functions are the strategy's runner, and their steps are tfdist's.

Stock calls a tf.function in the loop of another. The collectives lose their instance keys there, and
`steps_per_execution` above 1 crashes. Stock also reduces logs to a mean of the replicas' means, and fails under several
workers because it reduces scalars along an axis.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from keras.src.backend.tensorflow.trainer import TensorFlowTrainer

from tfdist._internals.contract import Step, current_step, distribution_of, drawing_step, drawn_by, is_foreign
from tfdist._internals.fit.execution.choice import ChoosingFunction, can_choose
from tfdist._internals.fit.execution.runner import after
from tfdist._internals.fit.execution.stock import stock_function, waits_for_batches
from tfdist._internals.fit.global_step import test_step, train_step
from tfdist._internals.patch import Patch, in_step
from tfdist._internals.step.compiled_update import is_chosen


def _made(stock: Any) -> Any:
    @functools.wraps(stock)
    def _make_function(model: Any, step_function: Any) -> Any:
        distribution = distribution_of(model.distribute_strategy)
        if is_foreign(model.distribute_strategy):
            return stock(model, step_function)
        maker: Any = functools.partial(stock_function, stock) if distribution is None else distribution.runner
        make = functools.partial(maker, model, step_function)
        is_training = step_function == model.train_step
        return ChoosingFunction(model, make) if is_training and can_choose(model) else make()

    return _make_function


def _after_batch(stock: Any) -> Any:
    @functools.wraps(stock)
    def _autoconvert_optionals(model: Any, step_function: Any) -> Any:
        if not waits_for_batches():
            return stock(model, step_function)

        def step(data: Any) -> Any:
            with after(data):
                return step_function(data)

        return stock(model, step)

    return _autoconvert_optionals


def _train_step(stock: Any) -> Any:
    @functools.wraps(stock)
    def of_model(model: Any, data: Any) -> Any:
        step = current_step()
        if step is not None:
            return train_step(model, step, data)
        with _drawing(model):
            return stock(model, data)

    return of_model


@contextlib.contextmanager
def _drawing(model: Any) -> Iterator[None]:
    """While open, stock's step draws its masks as one that XLA compiles, if it is to be compiled."""
    with contextlib.ExitStack() as stack:
        if model.jit_compile and not model.run_eagerly:
            step = drawing_step()  # that of the self check, which draws what the replicas draw
            # On one device all is plain Keras, bit for bit, unless it is asked to be otherwise.
            if step is None and is_chosen(model.distribute_strategy):
                step = Step(tf.constant(0, tf.int64), tf.constant(0, tf.int64))
                stack.enter_context(drawn_by(step))
            if step is not None:
                stack.enter_context(step.compiled())
        yield


def _test_step(step: Step, stock: Any, model: Any, data: Any) -> Any:
    return test_step(model, step, data)


PATCHES = (
    Patch(
        name="fit.train_function",
        owner=TensorFlowTrainer,
        attribute="_make_function",
        make=_made,
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
        make=_train_step,
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
