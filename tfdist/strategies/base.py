"""What every tfdist strategy of several replicas adds to TensorFlow's."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import tensorflow as tf

from tfdist import process
from tfdist._internals.replica.batches import (
    DistributedBatches,
    OwnShare,
    ReplicaBatch,
    count_rows,
    distribute_one_batch,
    first_row,
)
from tfdist._internals.replica.step import ReplicaStep, RowPosition, replica_step
from tfdist._internals.step import keras_state
from tfdist.errors import ConfigError, UnsupportedError


def check_timeout(timeout_s: float) -> None:
    """Raises ConfigError unless `timeout_s` is above 0, in seconds."""
    if not timeout_s > 0:
        raise ConfigError(f"timeout_s={timeout_s} is not possible; give seconds above 0, for example 300.")


class Distributed:
    """Mixin of every strategy that `fit` sees: which process this is, and the seeds of its steps."""

    @property
    def process_index(self) -> int:
        """The index of this process, 0 for the chief."""
        return process.process_index()

    @property
    def num_processes(self) -> int:
        """How many processes train together."""
        return process.num_processes()

    @property
    def is_chief(self) -> bool:
        """Whether this process writes files and shows the progress bar."""
        return process.is_chief()

    def prepare_seeds(self) -> None:
        """Makes what unseeded functions of `keras.random` draw from; no variable can be made inside a step."""
        keras_state.adopt_seed_generator(self)


class DataParallel(Distributed):
    """Mixin for strategies whose replicas each hold the whole model and a share of every batch.

    Attributes:
        static_shapes: Whether batches are padded to one static shape, as XLA wants it.
        random_by_row: Whether each row gets the random numbers (dropout masks, noise) that it gets on one device,
            whatever the number of replicas, at the price of drawing for the global batch on every replica.
    """

    static_shapes = False
    random_by_row = False

    @property
    def cuts_batches(self) -> bool:
        """Whether `fit` needs `distribute_batches`; one replica without padding takes the dataset as it is."""
        return self.static_shapes or self.num_replicas_in_sync > 1  # type: ignore[attr-defined]

    def flag(self, value: float) -> tf.Tensor:
        """Returns a value of this process's that a step sums over all."""
        return _constant(value)

    def sum_of_flags(self, value: tf.Tensor, at_once: bool) -> Any:
        """Returns the sum that a step gave; `at_once` where a strategy must wait for the step's end."""
        return value

    def watched_step(self) -> contextlib.AbstractContextManager[None]:
        """Is open around each step; here its collectives have limits of their own."""
        return contextlib.nullcontext()

    def distribute_batches(
        self, dataset: tf.data.Dataset, num_batches: int | None = None, batch_size: int | None = None
    ) -> DistributedBatches:
        """Returns `dataset` cut into one piece with its row count for each replica; what `fit` iterates.

        Args:
            dataset: Global batches, the same in every process.
            num_batches: How many there are, if known.
            batch_size: Rows of each but the last, if known; static shapes need it, or a dataset that says it.
        """
        return DistributedBatches(self, dataset, num_batches, batch_size)

    def distribute_batch(self, data: Any) -> Any:
        """Returns one global batch cut likewise; what `train_on_batch` runs on."""
        return distribute_one_batch(self, data)

    def run(self, fn: Any, args: tuple[Any, ...] = (), kwargs: Any = None, options: Any = None) -> Any:
        """Runs `fn` on every replica, as `tf.distribute.Strategy.run`.

        Given a batch of `distribute_batches`, `fn` gets the replica's data alone, and what is patched in Keras
        knows which share of the global batch it is.
        """
        state = keras_state.capture()
        static = self.static_shapes

        def replica_fn(*args: Any, **kwargs: Any) -> Any:
            with keras_state.restored(state):
                if not args or not isinstance(args[0], ReplicaBatch | OwnShare):
                    return fn(*args, **kwargs)
                batch = args[0]
                if isinstance(batch, ReplicaBatch):
                    step = ReplicaStep(batch.num_valid, batch.num_global, static)
                    if self.random_by_row:
                        first = first_row(step.replica_id, batch.num_global, self.num_replicas_in_sync)  # type: ignore[attr-defined]
                        step.rows = RowPosition(first, count_rows(batch.data))
                elif self.random_by_row:
                    raise UnsupportedError(
                        "random_by_row needs to know where each row stands in the global batch, and with auto-sharding "
                        "off the workers' batches have no order. Leave auto-sharding on, or random_by_row off."
                    )
                else:
                    step = ReplicaStep.of_counted_rows(batch.num_valid, static)
                with replica_step(step):
                    return fn(batch.data, *args[1:], **kwargs)

        return super().run(replica_fn, args=args, kwargs=kwargs, options=options)  # type: ignore[misc]


@functools.cache
def _constant(value: float) -> tf.Tensor:
    # A new tensor for each step is a hundredth of a small model's step.
    return tf.constant(value)
