"""The compiled train and test functions: several steps in one loop, logs that are global.

Stock nests one tf.function in another's loop, which loses the collectives' instance keys (steps_per_execution > 1
crashes), reduces logs as a mean of the replicas' means, and fails under several workers because it reduces scalars
along an axis.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from keras import tree
from keras.src.backend.tensorflow.trainer import TensorFlowTrainer

from tfdist._internals.fit import global_step as synchronized_step
from tfdist._internals.fit.global_step import STOP_KEY, synchronized
from tfdist._internals.mesh.batches import MeshIterator
from tfdist._internals.registry import Patch
from tfdist._internals.replica.batches import needs_replica_batches
from tfdist._internals.replica.step import current_step


class _Logs:
    """Packs logs into one vector and back, because a loop's variables need one structure from the start."""

    def __init__(self) -> None:
        self.template: Any = None

    def pack(self, logs: Any) -> tf.Tensor:
        self.template = tree.map_structure(tf.TensorSpec.from_tensor, logs)
        return tf.concat([tf.reshape(tf.cast(leaf, tf.float32), [-1]) for leaf in tree.flatten(logs)], 0)

    def unpack(self, vector: tf.Tensor) -> Any:
        specs = tree.flatten(self.template)
        parts = tf.split(vector, [spec.shape.num_elements() for spec in specs])
        leaves = [
            tf.cast(tf.reshape(part, spec.shape), spec.dtype) for part, spec in zip(parts, specs, strict=True)
        ]
        return tree.pack_sequence_as(self.template, leaves)


def _make(stock: Any) -> Any:
    def _make_function(self: Any, step_function: Any) -> Any:
        if not needs_replica_batches(self.distribute_strategy):
            return stock(self, step_function)
        return _train_function(self, *_compiled(self, step_function))

    return _make_function


def _compiled(model: Any, step_function: Any) -> tuple[Any, Any, Any]:
    """Returns what runs one step on a batch, one on an iterator's next batch, and several on an iterator's."""
    strategy = model.distribute_strategy
    replica_function = synchronized(model, step_function)
    # A callback that measures attaches this (tfdist.measure.step_probe) before the function is made.
    probe = getattr(model, "step_probe", None) if step_function == model.train_step else None

    def next_batch(iterator: Any) -> Any:
        return next(iterator) if probe is None else probe.get_next(lambda: next(iterator))

    def one_step(batch: Any, wants_stop: tf.Tensor) -> Any:
        logs = strategy.run(replica_function, args=(batch, wants_stop))
        return tree.map_structure(lambda value: strategy.experimental_local_results(value)[0], logs)

    def compiled(function: Any) -> Any:
        return (
            function if model.run_eagerly else tf.function(function, reduce_retracing=True, autograph=False)
        )

    step = compiled(one_step)

    def next_step(iterator: Any, wants_stop: tf.Tensor) -> Any:
        # A nested function runs when its inputs are there: at the end of the data nothing of the step may run.
        return step(next_batch(iterator), wants_stop)

    def several_steps(iterator: Any, wants_stop: tf.Tensor, count: tf.Tensor) -> Any:
        logs = _Logs()
        _, vector = tf.while_loop(
            lambda index, _: index < count,
            lambda index, _: (index + 1, logs.pack(one_step(next_batch(iterator), wants_stop))),
            (0, tf.zeros([0])),
            shape_invariants=(tf.TensorShape([]), tf.TensorShape([None])),
        )
        return logs.unpack(vector)

    return step, compiled(next_step), compiled(several_steps)


def _train_function(model: Any, step: Any, next_step: Any, several_steps: Any) -> Any:
    """Returns what Keras calls with an iterator for every execution."""
    strategy = model.distribute_strategy

    def execute(iterator: Any, wants_stop: tf.Tensor) -> Any:
        count = model.steps_per_execution
        if not isinstance(iterator, tf.distribute.DistributedIterator):
            return _batch_by_batch(strategy, step, iterator, wants_stop, count)
        if count == 1:
            return next_step(iterator, wants_stop)
        remaining = getattr(iterator, "_tfdist_remaining", None)
        if remaining is None or model.run_eagerly:
            return _until_end(next_step, iterator, wants_stop, count)
        if remaining == 0:
            raise StopIteration
        count = min(count, remaining)
        iterator._tfdist_remaining = remaining - count
        return several_steps(iterator, wants_stop, tf.constant(count))

    def function(iterator: Any) -> Any:
        flag = strategy.flag(float(getattr(model, "_tfdist_wants_stop", False)))
        logs = execute(iterator, flag)
        with strategy.watched_step():
            # In train_on_batch Keras would pass over an error that nobody has waited for.
            at_once = not isinstance(iterator, MeshIterator)
            model._tfdist_stop = strategy.sum_of_flags(logs.pop(STOP_KEY), at_once)
        return logs

    return function


def _batch_by_batch(strategy: Any, step: Any, iterator: Any, wants_stop: tf.Tensor, count: int) -> Any:
    logs = None
    for _, data in zip(range(count), iterator, strict=False):
        batch = strategy.distribute_batch(data)
        with strategy.watched_step():
            logs = step(batch, wants_stop)
        if isinstance(iterator, MeshIterator):
            iterator.prepare()
    if logs is None:
        raise StopIteration
    return logs


def _until_end(next_step: Any, iterator: Iterator[Any], wants_stop: tf.Tensor, count: int) -> Any:
    logs = None
    for _ in range(count):
        try:
            logs = next_step(iterator, wants_stop)
        except tf.errors.OutOfRangeError:
            break
    if logs is None:
        raise StopIteration
    return logs


def _as_replica(name: str) -> Any:
    def make(stock: Any) -> Any:
        def step(self: Any, data: Any) -> Any:
            replica = current_step()
            if replica is None:
                return stock(self, data)
            return getattr(synchronized_step, name)(self, replica, data)

        step.__name__ = name
        return step

    return make


PATCHES = (
    Patch(
        name="train_function",
        owner=TensorFlowTrainer,
        attribute="_make_function",
        make=_make,
        reason="steps_per_execution crashes, logs are means of means, multi-worker logs raise a ValueError",
        upstream="https://github.com/keras-team/keras/issues/19246, https://github.com/keras-team/keras/issues/20585",
    ),
    Patch(
        name="train_function",
        owner=TensorFlowTrainer,
        attribute="train_step",
        make=_as_replica("train_step"),
        reason="metrics after the gradients need a collective of their own in every step",
        upstream="no thread found",
    ),
    Patch(
        name="train_function",
        owner=TensorFlowTrainer,
        attribute="test_step",
        make=_as_replica("test_step"),
        reason="the loss counts padding rows",
        upstream="https://github.com/keras-team/keras/issues/19246",
    ),
)
