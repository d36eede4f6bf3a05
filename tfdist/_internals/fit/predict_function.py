"""Predictions without padding, in the order of the rows, on every worker."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from keras import tree
from keras.src.backend.tensorflow.trainer import TensorFlowTrainer, concat

from tfdist._internals.registry import Patch
from tfdist._internals.replica.batches import OwnShare, ReplicaBatch, needs_replica_batches
from tfdist._internals.replica.step import current_step
from tfdist.errors import UnsupportedError


def _without_padding(output: Any, num_valid: tf.Tensor) -> Any:
    if isinstance(output, tf.SparseTensor):
        rest = output.dense_shape[1:]
        return tf.sparse.slice(output, tf.zeros_like(output.dense_shape), tf.concat([[num_valid], rest], 0))
    return output[:num_valid] if output.shape.rank != 0 else output


def _gathered(strategy: Any, output: Any) -> Any:
    """Returns the replicas' rows of one output, one after the other."""
    local = strategy.experimental_local_results(output)
    if strategy.num_processes == 1:
        return concat(local)
    if not isinstance(local[0], tf.Tensor) or local[0].dtype == tf.string or local[0].shape.rank == 0:
        raise UnsupportedError(
            f"predict over several workers gathers dense numbers with one row an example; the model gives "
            f"{local[0]}. Convert it in the model, for example with .to_tensor(), or predict in one process."
        )
    if local[0].dtype == tf.bool:
        as_int = strategy.run(lambda value: tf.cast(value, tf.int32), args=(output,))
        return tf.cast(strategy.gather(as_int, axis=0), tf.bool)
    return strategy.gather(output, axis=0)


def _on_mesh(model: Any, strategy: Any, compiled: Any) -> Any:
    step = compiled(lambda batch: strategy.run(model.predict_step, args=(batch,)))

    def one_step(batch: Any) -> Any:
        with strategy.watched_step():
            return strategy.on_host(step(batch))

    return one_step


def _on_replicas(model: Any, strategy: Any, compiled: Any) -> Any:
    def on_replica(data: Any) -> Any:
        outputs, step = model.predict_step(data), current_step()
        if step is None:
            return outputs
        return tree.map_structure(lambda output: _without_padding(output, step.num_valid), outputs)

    def one_step(batch: Any) -> Any:
        outputs = strategy.run(on_replica, args=(batch,))
        return tree.map_structure(lambda output: _gathered(strategy, output), outputs)

    return compiled(one_step)


def _make(stock: Any) -> Any:
    def make_predict_function(self: Any, force: bool = False) -> Any:
        strategy = self.distribute_strategy
        if not needs_replica_batches(strategy):
            return stock(self, force)
        if self.predict_function is not None and not force:
            return self.predict_function

        def compiled(function: Any) -> Any:
            if self.run_eagerly:
                return function
            return tf.function(function, reduce_retracing=True, autograph=False)

        make = _on_mesh if hasattr(strategy, "on_host") else _on_replicas
        one_step = make(self, strategy, compiled)

        def predict_function(batches: list[Any]) -> Any:
            outputs = [
                one_step(
                    batch
                    if isinstance(batch, ReplicaBatch | OwnShare) or _is_distributed(batch)
                    else strategy.distribute_batch(batch)
                )
                for batch in batches
            ]
            return (
                outputs[0]
                if len(outputs) == 1
                else tree.map_structure(lambda *parts: concat(parts), *outputs)
            )

        self.predict_function = predict_function
        return predict_function

    return make_predict_function


def _is_distributed(batch: Any) -> bool:
    return any(isinstance(leaf, tf.distribute.DistributedValues) for leaf in tree.flatten(batch))


PATCHES = (
    Patch(
        name="predict_function",
        owner=TensorFlowTrainer,
        attribute="make_predict_function",
        make=_make,
        reason="predict_on_batch returns every row once for each replica; padding rows would be returned",
        upstream="no thread found",
    ),
)
