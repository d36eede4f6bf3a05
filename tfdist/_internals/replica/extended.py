"""TensorFlow's mirrored and multi-worker strategies with collectives launched inside each replica.

Stock strategies trace each replica in a thread, and the threads meet in `merge_call` to reduce and to update.
`merge_call` cannot stand inside a condition, and so gradient accumulation, loss scaling and averaged weights crash
there. TensorFlow has a second mode, without `merge_call`, in which each replica launches its own collectives and
updates its own copy. Stock uses this mode under XLA on GPUs only. Here every traced function uses it.

No public method can be overridden for this: the methods here are the private protocol of `StrategyExtended`.
"""

from __future__ import annotations

import contextlib
import itertools
from typing import Any

import tensorflow as tf
from tensorflow.python.distribute import collective_all_reduce_strategy, collective_util, mirrored_strategy

from tfdist._internals.processes.place import HERE, STEPS
from tfdist._internals.processes.watch import shared_step
from tfdist._internals.replica.variables import SummedVariable, of_replicas

# Two strategies in one process must not share collective keys. TensorFlow starts each of them at the same number, and
# the second one then fails with an InternalError from CollectiveReduceV2. A stock strategy has numbers below these.
_key_bases = itertools.count(start=10_000, step=10_000)


class ReplicaLocalUpdates:
    """Mixin for `MirroredExtended`: no `merge_call` in traced functions, no broadcast for equal writes."""

    def _use_merge_call(self) -> bool:
        # Eagerly, replicas run one after the other, and a collective of the first would wait for ever. Outside of them,
        # where a user applies gradients by hand, there is nothing to merge: each replica's copy is given the same.
        return tf.executing_eagerly() and not tf.distribute.in_cross_replica_context()

    def _replica_ctx_all_reduce(self, reduce_op: Any, value: Any, options: Any = None) -> Any:
        if self._num_replicas_in_sync == 1 and not tf.executing_eagerly():  # type: ignore[attr-defined]
            # There is nothing to sum, and XLA on a CPU cannot compile a collective.
            return tf.nest.map_structure(tf.identity, value)
        return super()._replica_ctx_all_reduce(reduce_op, value, options)  # type: ignore[misc]

    def _update(self, var: Any, fn: Any, args: Any, kwargs: Any, group: bool) -> Any:
        given = tf.nest.flatten((args, kwargs))
        if isinstance(var, SummedVariable) and not any(
            isinstance(one, tf.distribute.DistributedValues) for one in given
        ):
            # One gradient for all replicas, which is added to the accumulator once.
            return var.update_first(fn, *args, **kwargs)
        return super()._update(var, fn, args, kwargs, group)  # type: ignore[misc]

    def _create_variable(self, next_creator: Any, **kwargs: Any) -> Any:
        # The aggregation "only the first replica" is a broadcast through merge_call, unless it is about reading. Keras
        # uses it for counters and learning rates. Every replica computes these alike, so that each can write its own
        # copy at no cost.
        on_read = kwargs.get("synchronization") == tf.VariableSynchronization.ON_READ
        if kwargs.get("aggregation") == tf.VariableAggregation.ONLY_FIRST_REPLICA and not on_read:
            kwargs["aggregation"] = tf.VariableAggregation.NONE
        # Between two updates each replica keeps the gradients of its own rows. Their sum is what is read and saved.
        # With local steps nobody sums them, and they are a slot as the others.
        strategy: Any = self._container_strategy()  # type: ignore[attr-defined]
        is_summed = getattr(strategy, "local_steps", None) is None
        if is_summed and str(kwargs.get("name")).endswith("gradient_accumulator"):
            kwargs["aggregation"] = tf.VariableAggregation.SUM
            kwargs["synchronization"] = tf.VariableSynchronization.ON_READ
        return of_replicas(super()._create_variable(next_creator, **kwargs))  # type: ignore[misc]


class MirroredExtended(ReplicaLocalUpdates, mirrored_strategy.MirroredExtended):
    """One process, several devices."""


class CollectiveOptions(collective_util.Options):
    """Gives collectives a limit of time only where nobody watches over them.

    For each execution of a collective with a limit TensorFlow starts a thread that sleeps until the limit. At ten steps
    a second and 300 s that is thousands of threads in each process, and the process ends when the system has no more.
    The steps of `fit`, `evaluate` and `predict` have the limit of `processes.watch`.
    """

    def merge(self, options: Any) -> Any:
        merged = super().merge(options)
        if HERE.waits in STEPS:
            merged.timeout_seconds = 0.0
        return merged


class MultiWorkerExtended(ReplicaLocalUpdates, collective_all_reduce_strategy.CollectiveAllReduceExtended):
    """Several processes with the same number of devices each."""

    def __init__(
        self, strategy: Any, resolver: Any, options: CollectiveOptions, devices_per_worker: int | None
    ) -> None:
        self._devices_per_worker = devices_per_worker
        super().__init__(strategy, cluster_resolver=resolver, communication_options=options)

    def _initialize_local_devices(
        self, cluster_resolver: Any, worker_device: str
    ) -> tuple[tuple[str, ...], str]:
        # Stock takes one CPU device, however many logical devices there are.
        gpus = len(tf.config.list_logical_devices("GPU"))
        kind = "GPU" if gpus else "CPU"
        count = self._devices_per_worker or gpus or 1
        return tuple(f"{worker_device}/device:{kind}:{i}" for i in range(count)), kind

    def _reduce_to(self, *args: Any, **kwargs: Any) -> Any:
        # The reading of a metric is one: outside of a function it waits for all workers.
        with shared_step("sum") if tf.executing_eagerly() else contextlib.nullcontext():
            return super()._reduce_to(*args, **kwargs)


def next_collective_key_base() -> int:
    """Returns a collective key base that no other strategy of this process has."""
    return next(_key_bases)
