"""One train or test step as each part runs it: stock's step, and then the sum of what the parts share.

The parts share the states of the metrics, so that the logs are the metrics of all rows seen and not a mean of the
replicas' means. They also share the moving statistics that the step wrote. In a training step both travel with the
gradients and cost no collective of their own.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from keras.src.backend.common.stateless_scope import StatelessScope
from keras.src.trainers.data_adapters import data_adapter_utils

from tfdist._internals.contract import Step, current_step, step_scope
from tfdist._internals.fit.shared_state import SharedState, begin

STOP_KEY = "_tfdist_stop"


# What travels with the gradients of a step.
_on_their_way: weakref.WeakKeyDictionary[Step, SharedState] = weakref.WeakKeyDictionary()


def _share_now(model: Any, step: Step, extra: list[tf.Tensor]) -> tuple[list[Any], list[tf.Tensor]]:
    state = SharedState(model, step)
    summed = step.sum([*state.tensors, *extra])
    values = state.store(summed[: len(state.tensors)])
    return values, summed[len(state.tensors) :]


def _metrics_result(model: Any, values: list[Any]) -> dict[str, Any]:
    with StatelessScope(state_mapping=values):
        return dict(model.get_metrics_result())


def synchronized(model: Any, step_function: Callable[[Any], Any]) -> Callable[..., dict[str, Any]]:
    """Returns `step_function` with logs that are the same, and global, in every part.

    The function takes the part's data and the flag of this process that it wants training to stop (scalar
    float32); the logs hold the sum of the flags under `STOP_KEY`.
    """

    def on_part(data: Any, wants_stop: tf.Tensor) -> dict[str, Any]:
        step = current_step()
        if step is None:
            # The user has distributed the data, so the rows of each part are counted here.
            step, data = model.distribute_strategy.counted_step(data)
        with step_scope(step):
            return _with_global_logs(model, step, step_function, data, wants_stop)

    return on_part


def _with_global_logs(
    model: Any, step: Step, step_function: Callable[[Any], Any], data: Any, wants_stop: tf.Tensor
) -> dict[str, Any]:
    # On a mesh there is one flag for each device. Elsewhere this makes a copy: if all replicas gave one and the same
    # eager tensor, TensorFlow would take it for a value that is reduced already.
    step.wants_stop = tf.identity(tf.reduce_sum(wants_stop))
    begin(model, step)
    return _global_logs(model, step, step_function(data))


def _global_logs(model: Any, step: Step, logs: Any) -> dict[str, Any]:
    if not isinstance(logs, dict):
        raise TypeError(f"train_step and test_step must return a dict of logs, not {type(logs).__name__}.")
    own = {id(variable) for variable in step.written}
    live = {
        name
        for metric in model.metrics
        if any(id(variable) in own for variable in metric.variables)
        for name in _result_names(metric)
    }
    extra = {key: value for key, value in logs.items() if key not in live}
    extra_shares = [step.share(_exact(value)) for value in extra.values()]
    shared = _on_their_way.get(step)
    if shared is not None and not extra:
        summed = step.take_passengers()
        count = len(shared.tensors)
        if shared.is_outdated:
            values, told = _share_now(model, step, step.told())
        else:
            values, told = shared.store(summed[:count]), summed[count:]
    else:
        values, summed = _share_now(model, step, [*extra_shares, *step.told()])
        extra_shares, told = summed[: len(extra)], summed[len(extra) :]
    stop = step.heard(told)
    results = _metrics_result(model, values)
    for key, value in zip(extra, extra_shares, strict=True):
        results[key] = tf.cast(value, extra[key].dtype) if tf.is_tensor(extra[key]) else value
    ordered = {key: results[key] for key in logs if key in results}
    return {**ordered, STOP_KEY: stop}


def _exact(value: Any) -> tf.Tensor:
    value = tf.convert_to_tensor(value)
    return value if value.dtype == tf.float64 else tf.cast(value, tf.float32)


def _result_names(metric: Any) -> list[str]:
    # The result is computed from zeros, so that no read of a variable stays in the graph.
    zeros = [(variable, tf.zeros(variable.shape, variable.dtype)) for variable in metric.variables]
    with StatelessScope(state_mapping=zeros):
        result = metric.result()
    return list(result) if isinstance(result, dict) else [metric.name]


def _share_with_gradients(model: Any, step: Step) -> None:
    shared = _on_their_way[step] = SharedState(model, step)
    step.add_passengers([*shared.tensors, *step.told()])


def train_step(model: Any, step: Step, data: Any) -> dict[str, Any]:
    """Stock's train_step, but metrics come before gradients, so that their states travel with them."""
    if step.wants_stop is None:  # in a training function of the user's own, which nobody has wrapped
        logs = _with_global_logs(
            model, step, lambda data: train_step(model, step, data), data, tf.constant(0.0)
        )
        del logs[STOP_KEY]
        return logs
    x, y, sample_weight = data_adapter_utils.unpack_x_y_sample_weight(data)

    def forward_and_backward() -> tuple[Any, Any]:
        with tf.GradientTape() as tape:
            y_pred, loss = _forward(model, step, x, y, sample_weight, training=True)
            # A loss with one value for each row (reduction=None) is summed by the gradient, as on one device.
            scaled = step.objective(loss)
            if model.optimizer is not None:
                scaled = model.optimizer.scale_loss(scaled)
        with step.shared_gradients():
            return y_pred, tape.gradient(scaled, model.trainable_weights)

    if model.jit_compile and not model.run_eagerly:
        # XLA cannot compile a whole step, which has collectives and the variables of all replicas. It can compile
        # each replica's forward and backward pass (tensorflow issue 45940).
        with step.compiled():
            compiled = tf.function(forward_and_backward, jit_compile=True, autograph=False)
            y_pred, gradients = compiled()
    else:
        y_pred, gradients = forward_and_backward()
    logs = model.compute_metrics(x, y, y_pred, sample_weight=sample_weight)
    if model.trainable_weights:
        _share_with_gradients(model, step)
        with step.shared_gradients():
            model.optimizer.apply_gradients(zip(gradients, model.trainable_weights, strict=True))
    return logs


def test_step(model: Any, step: Step, data: Any) -> dict[str, Any]:
    """Stock's test_step, in which padding does not count."""
    x, y, sample_weight = data_adapter_utils.unpack_x_y_sample_weight(data)
    y_pred, _ = _forward(model, step, x, y, sample_weight, training=False)
    return model.compute_metrics(x, y, y_pred, sample_weight=sample_weight)


def _forward(model: Any, step: Step, x: Any, y: Any, sample_weight: Any, training: bool) -> tuple[Any, Any]:
    y_pred = model(x, training=training) if model._call_has_training_arg else model(x)
    loss = model._compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=training)
    model._loss_tracker.update_state(loss, sample_weight=tf.cast(step.num_valid, tf.float32))
    return y_pred, loss
