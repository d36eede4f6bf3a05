"""What `fit` sees of a strategy in which each replica holds the whole model and a part of every batch."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from keras import tree
from tensorflow.python.distribute.distribute_utils import regroup
from tensorflow.python.distribute.values import SyncOnReadVariable

from tfdist._internals.communication.options import CommunicationOptions
from tfdist._internals.communication.states import read_kept, write_kept
from tfdist._internals.communication.sums import Communication
from tfdist._internals.contract import Batches, Distribution, Sample, Step
from tfdist._internals.contract.sums import sum_error_of
from tfdist._internals.fit.execution.divided import step_runner
from tfdist._internals.fit.execution.runner import constant
from tfdist._internals.fit.shared_state import shared_outputs
from tfdist._internals.processes.watch import shared_step
from tfdist._internals.replica.batches import ReplicaBatches, pieces_of, place_one_batch
from tfdist._internals.replica.cut import LocalPieces, OwnShare, ReplicaBatch, first_row
from tfdist._internals.replica.exchange import all_reduce
from tfdist._internals.replica.gather import gather_rows_of
from tfdist._internals.replica.rows import RowPosition
from tfdist._internals.replica.sample import sample
from tfdist._internals.replica.step import ReplicaStep
from tfdist._internals.rows import count_rows
from tfdist.errors import UnsupportedError


class ReplicaDistribution(Distribution):
    """Mixin for a subclass of one of TensorFlow's strategies of replicas; stands before it among the bases.

    Attributes:
        pads_batches: Whether batches are padded to one static shape, as XLA wants it.
        random_by_row: Whether each row gets the random numbers (dropout masks, noise) that it gets on one device,
            whatever the number of replicas, at the price of drawing for the global batch on every replica.
        communication: How gradients travel; None if as they are.
    """

    pads_batches = False
    random_by_row = False
    communication: Communication | None = None
    num_replicas_in_sync: int
    extended: tf.distribute.StrategyExtended
    # The step of a replica. A strategy that exchanges in another way names a subclass of its own.
    step_class: type[ReplicaStep] = ReplicaStep

    @property
    def is_stock(self) -> bool:
        # One replica without padding takes the dataset as it is.
        return not self.pads_batches and self.num_replicas_in_sync == 1

    @property
    def takes_any_rows(self) -> bool:
        return not self.pads_batches

    @property
    def compiles_updates(self) -> bool:
        # Batches are padded where XLA compiles the whole step.
        return not self.pads_batches

    @property
    def compares_compilation(self) -> bool:
        return not self.pads_batches

    @property
    def feeds_devices(self) -> bool:
        """Whether batches are copied ahead to the devices, while these compute; the host's own devices need no copy."""
        return not all("CPU" in device.rpartition("/")[2] for device in self.extended.worker_devices)

    @property
    def row_shards(self) -> int:
        return self.num_replicas_in_sync

    def check(self, model: Any) -> None:
        """Refuses a recurrent layer that keeps the state of each row for the next batch.

        Raises:
            UnsupportedError: There is one, and several replicas.
        """
        stateful = [layer.name for layer in model._flatten_layers() if getattr(layer, "stateful", False)]
        if stateful and self.num_replicas_in_sync > 1:
            raise UnsupportedError(
                f"the layer {stateful[0]!r} has stateful=True: it keeps the state of each row of a batch for that row "
                f"of the next batch, and each of {self.num_replicas_in_sync} replicas has other rows of every batch. "
                "Make it with stateful=False and give whole sequences, or train under 'one_device'."
            )

    def sum_error(self) -> float:
        return sum_error_of(self)

    def batches(self, dataset: tf.data.Dataset, num_batches: int | None, batch_size: int | None) -> Batches:
        return ReplicaBatches(self, dataset, num_batches, batch_size)

    def place(self, data: Any) -> Any:
        return data if _is_placed(data) else place_one_batch(self, data)

    def step_of(self, batch: Any) -> tuple[Step, Any] | None:
        if isinstance(batch, ReplicaBatch):
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            first = first_row(replica, batch.num_global, self.num_replicas_in_sync)
            rows = RowPosition(first, count_rows(batch.data))
            step = self.step_class(
                batch.num_valid, batch.num_global, rows, self.pads_batches, self.random_by_row
            )
            return step, batch.data
        if not isinstance(batch, OwnShare):
            return None
        if self.random_by_row:
            raise UnsupportedError(
                "random_by_row needs to know where each row stands in the global batch, and with auto-sharding "
                "off the workers' batches have no order. Leave auto-sharding on, or random_by_row off."
            )
        size = count_rows(batch.data)
        return self.step_class.of_counted_rows(batch.num_valid, size, self.pads_batches), batch.data

    def counted_step(self, data: Any) -> tuple[Step, Any]:
        rows = count_rows(data)
        # A replica without rows gets one row of zeros, since some layers cannot take an empty batch.
        missing = tf.cast(tf.equal(rows, 0), tf.int32)

        def padded(value: Any) -> Any:
            if not isinstance(value, tf.Tensor) or not value.shape.rank or value.dtype == tf.string:
                return value
            padding = tf.concat([[[0, missing]], tf.zeros([value.shape.rank - 1, 2], tf.int32)], 0)
            return tf.ensure_shape(tf.pad(value, padding), value.shape)

        data = tree.map_structure(padded, data, none_is_leaf=False)
        return self.step_class.of_counted_rows(rows, count_rows(data)), data

    def run(self, fn: Any, args: tuple[Any, ...] = (), kwargs: Any = None, options: Any = None) -> Any:
        if args and isinstance(args[0], LocalPieces):
            own, *others = args[0].pieces
            args = (regroup(args[0].pieces, always_wrap=True) if others else own, *args[1:])
        return super().run(fn, args, kwargs, options)

    def parts_of(self, batch: Any) -> list[tuple[Any, Any]]:
        return [
            (part.data, part.num_valid)
            if isinstance(part, (ReplicaBatch, OwnShare))
            else (part, count_rows(part))
            for part in pieces_of(self, batch)
        ]

    def sample(self, batch: Any, has_fixed_rows: bool) -> Sample:
        pieces = pieces_of(self, batch)
        if not pieces or not all(isinstance(piece, ReplicaBatch) for piece in pieces):
            raise UnsupportedError(
                "the rows of a batch are known to their worker alone, or were distributed by hand"
            )
        return sample(self, batch, pieces, has_fixed_rows)

    def pieces_of(self, variable: Any) -> dict[str, np.ndarray]:
        value = variable.value
        if isinstance(value, SyncOnReadVariable) and value.aggregation != tf.VariableAggregation.MEAN:
            return {}  # each replica has a part of its own
        strategy: Any = self
        return {"": strategy.experimental_local_results(value)[0].numpy()}

    def any_process(self, flag: bool) -> bool:
        if self.num_processes == 1:
            return bool(flag)
        with shared_step("sum"):
            total = self._sum_of_flags(constant(float(flag)))
        strategy: Any = self
        return float(strategy.experimental_local_results(total)[0]) > 0

    @functools.cached_property
    def _sum_of_flags(self) -> Any:
        return tf.function(
            lambda flag: self.run(lambda own: all_reduce([own])[0], args=(flag,)), autograph=False
        )

    def runner(self, model: Any, step_function: Callable[..., Any]) -> Callable[[Any], Any]:
        if self.communication is not None:
            self.communication.prepare(self, model.trainable_variables)
        return step_runner(self, model, step_function)

    def communicate(self, options: CommunicationOptions) -> None:
        """Sets how gradients travel."""
        if not options.is_exact:
            self.communication = Communication(options, self.num_replicas_in_sync)

    @contextlib.contextmanager
    def exact_sums(self) -> Iterator[str]:
        before, self.communication = self.communication, None
        try:
            yield "" if before is None else before.options.describe()
        finally:
            self.communication = before

    def watch(self) -> None:
        if self.communication is not None:
            self.communication.watch()

    def figures(self, model: Any) -> dict[str, float]:
        return {} if self.communication is None else self.communication.figures()

    def own_state(self, model: Any) -> dict[str, tuple[Callable[[], Any], Callable[[Any], None]]]:
        if self.communication is None:
            return {}
        gather = self.all_gather_arrays if self.num_processes > 1 else None
        return {
            f"communication/{name}": (
                functools.partial(read_kept, kept, gather),
                functools.partial(
                    write_kept, kept, process_index=self.process_index, num_replicas=self.row_shards
                ),
            )
            for name, kept in self.communication.states.named(model.trainable_variables).items()
        }

    def predictor(
        self, model: Any, compiled: Callable[[Callable[..., Any]], Callable[..., Any]]
    ) -> Callable[[Any], Any]:
        # For each output, whether it has one row for the whole batch; known once a replica was traced.
        of_batch: list[bool] = []

        def counted(step: Step, output: Any) -> Any:
            of_batch.append(not self.pads_batches and _has_one_row(output))
            return _share_of_row(step, output) if of_batch[-1] else step.counted(output)

        def on_replica(data: Any) -> Any:
            of_batch.clear()
            return shared_outputs(model, tree.map_structure(_of_any_rows, data, none_is_leaf=False), counted)

        def predict(batch: Any) -> Any:
            outputs = self.run(on_replica, args=(batch,))
            rows = [gather_rows_of(self, output, self.num_processes) for output in tree.flatten(outputs)]
            rows = [
                tf.reduce_sum(row, axis=0, keepdims=True) if is_of_batch else row
                for row, is_of_batch in zip(rows, of_batch or [False] * len(rows), strict=True)
            ]
            return tree.pack_sequence_as(outputs, rows)

        return compiled(predict)


def _is_placed(data: Any) -> bool:
    if isinstance(data, (LocalPieces, ReplicaBatch, OwnShare)):
        return True
    return any(isinstance(leaf, tf.distribute.DistributedValues) for leaf in tree.flatten(data))


def _of_any_rows(leaf: Any) -> Any:
    """Returns a part of a batch; if it has one row by its shape, as one of which the shape does not tell it.

    So an output of one row by its shape is one for the whole batch, such as a mean, and not that of one row.
    """
    if leaf is None or tf.executing_eagerly() or not leaf.shape.rank or leaf.shape[0] != 1:
        return leaf
    if isinstance(leaf, tf.SparseTensor):
        rest = leaf.shape[1:]
        inner = tf.constant(rest.as_list(), tf.int64) if rest.is_fully_defined() else leaf.dense_shape[1:]
        shape = tf.concat([_untold(leaf.dense_shape[:1], [1]), inner], 0)
        return tf.SparseTensor(leaf.indices, leaf.values, shape)
    if isinstance(leaf, tf.RaggedTensor):
        splits = _untold(leaf.row_splits, [None])
        return tf.RaggedTensor.from_row_splits(leaf.values, splits, validate=False)
    return _untold(leaf, [None, *leaf.shape[1:]])


def _untold(value: tf.Tensor, shape: list[int | None]) -> tf.Tensor:
    """Returns a value of which tracing knows this of its shape alone, and nothing else."""
    return tf.compat.v1.placeholder_with_default(value, shape)


def _has_one_row(output: Any) -> bool:
    is_traced = isinstance(output, tf.Tensor) and not tf.executing_eagerly()
    return is_traced and output.shape.rank not in (None, 0) and output.shape[0] == 1


def _share_of_row(step: Any, output: tf.Tensor) -> tf.Tensor:
    """Returns what a replica's row adds to the one that a `predict_step` makes of a batch: a mean, by its rows."""
    if not output.dtype.is_floating:
        raise UnsupportedError(
            f"predict_step returns one row of {output.dtype.name} for a whole batch, of which each replica has a part. "
            "Only a mean, in floating point, can be made of the replicas' rows; return one row for each row of the "
            "batch, or predict in one process under 'one_device'."
        )
    return tf.where(step.has_rows, step.share(output), tf.zeros_like(output))
