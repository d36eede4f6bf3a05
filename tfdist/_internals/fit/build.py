"""Builds the model from the dataset's element spec.

Stock takes a batch for it: a generator loses what it and the prefetching behind it consumed, text, bool, ragged and
sparse inputs have no mean to take over the replicas, and several workers crash at once.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from keras import tree
from keras.src.backend.tensorflow.trainer import TensorFlowTrainer

from tfdist._internals.registry import Patch
from tfdist._internals.replica.batches import ReplicaBatch, needs_replica_batches


def _from_spec(stock: Any) -> Any:
    def _maybe_symbolic_build(self: Any, iterator: Any = None, data_batch: Any = None) -> Any:
        if not needs_replica_batches(self._distribute_strategy):
            return stock(self, iterator=iterator, data_batch=data_batch)
        if iterator is not None:
            data_batch = _one_replica(iterator._distributed_dataset.element_spec)
        with self._distribute_strategy.scope():
            self._symbolic_build(data_batch=data_batch)
        for metric in getattr(self._compile_loss, "metrics", ()):
            metric.counts_steps = True
        if hasattr(self._distribute_strategy, "check_model"):
            self._distribute_strategy.check_model(self)
        return None

    return _maybe_symbolic_build


def _one_replica(spec: Any) -> Any:
    def of(leaf: Any) -> Any:
        if isinstance(leaf, tf.OptionalSpec):
            return None
        # A dataset that the user distributed has one spec for each replica.
        return getattr(leaf, "_value_specs", (leaf,))[0]

    spec = tree.map_structure(of, spec)
    return spec.data if isinstance(spec, ReplicaBatch) else spec


PATCHES = (
    Patch(
        name="symbolic_build",
        owner=TensorFlowTrainer,
        attribute="_maybe_symbolic_build",
        make=_from_spec,
        reason="fit takes a batch to build the model: generators lose data, text crashes, several workers crash",
        upstream="https://github.com/keras-team/keras/issues/20585, https://github.com/keras-team/keras/issues/21172",
    ),
)
