"""Counts inside the compiled training step: the wait for each batch, its examples and its tokens."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from tfdist._internals.contract import METER_NAME, Distribution, distribution_of
from tfdist._internals.fit.execution.choice import ChoosingFunction
from tfdist._internals.fit.run import run_of
from tfdist.measure.probed_function import ProbedFunction


@dataclass(frozen=True)
class Counts:
    """Totals of this process since the probe was made."""

    examples: int
    tokens: int
    input_s: float


class StepProbe:
    """Counts examples, tokens and the seconds in which the training step waited for its batch.

    `StepProbe.of(model)` attaches one. With one replica it is put around Keras's training function. With more, the
    training function of tfdist's strategies takes each batch through `get_next`. The step of a model without a probe is
    unchanged. The totals are plain variables on the host, so that reading them waits for no accelerator.

    `input_s` is the time from asking the iterator until the batch is there, on the host, in seconds. On a CPU this time
    is lost. An accelerator may still be busy with the step before, so there it is an upper bound of the time that is
    lost.
    """

    def __init__(self, distribution: Distribution | None) -> None:
        self._distribution = distribution
        with tf.init_scope(), tf.device("CPU:0"):
            self._examples = tf.Variable(0, dtype=tf.int64, trainable=False, name=METER_NAME)
            self._tokens = tf.Variable(0, dtype=tf.int64, trainable=False, name=METER_NAME)
            self._input_s = tf.Variable(0.0, dtype=tf.float64, trainable=False, name=METER_NAME)
        self.is_connected = False

    @classmethod
    def of(cls, model: keras.Model) -> StepProbe:
        """Returns the model's probe; makes and attaches one if there is none. To be called in `on_train_begin`."""
        run = run_of(model)
        if run.probe is None:
            run.probe = cls(distribution_of(model.distribute_strategy))
            model.make_train_function(force=True)  # the present function may have been traced without a probe
        probe: Any = run.probe
        if _is_stock(model):
            wrap = functools.partial(ProbedFunction, add=probe.add, run_eagerly=model.run_eagerly)
            if isinstance(model.train_function, ChoosingFunction):
                model.train_function.wrap = wrap
            elif not isinstance(model.train_function, ProbedFunction):
                model.train_function = wrap(model.train_function)
        return probe

    def get_next(self, get_next: Callable[[], Any]) -> Any:
        """Returns the batch that `get_next()` returns, after it was timed and counted.

        A compiled training function calls this in cross-replica context.
        """
        begin = tf.timestamp()
        with tf.control_dependencies([begin]):
            batch = get_next()
        tensors = tf.nest.flatten(self._parts_of(batch), expand_composites=True)
        with tf.control_dependencies([tensor for tensor in tensors if tf.is_tensor(tensor)]):
            self.add(batch, tf.timestamp() - begin)
        return batch

    def add(self, batch: Any, input_s: tf.Tensor) -> None:
        """Counts a batch, `x`, `(x, y)` or `(x, y, sample_weight)`, that came after `input_s` seconds."""
        self.is_connected = True
        self._input_s.assign_add(input_s)
        for data, num_examples in self._parts_of(batch):  # rows after the first `num_examples` are padding
            x = data[0] if isinstance(data, tuple) else data
            self._examples.assign_add(num_examples)
            self._tokens.assign_add(_num_tokens(x, num_examples))

    def read(self) -> Counts:
        return Counts(
            examples=int(self._examples.numpy()),
            tokens=int(self._tokens.numpy()),
            input_s=float(self._input_s.numpy()),
        )

    def _parts_of(self, batch: Any) -> list[tuple[Any, tf.Tensor]]:
        """Returns the data and the number of rows of each local part of the batch."""
        if self._distribution is not None:
            return self._distribution.parts_of(batch)
        return [(batch, _num_rows(batch[0] if isinstance(batch, tuple) else batch))]


def _is_stock(model: keras.Model) -> bool:
    """Returns whether the training function is Keras's own for one replica, which takes batches from any iterator."""
    strategy = model.distribute_strategy
    return (
        distribution_of(strategy) is None
        and strategy.num_replicas_in_sync == 1
        and model.steps_per_execution == 1  # Keras unrolls several steps
        and type(model).make_train_function is keras.Model.make_train_function
    )


def _num_rows(x: Any) -> tf.Tensor:
    first = next(leaf for leaf in tf.nest.flatten(x) if leaf is not None)
    size = first.nrows() if isinstance(first, tf.RaggedTensor) else tf.shape(first)[0]
    return tf.cast(size, tf.int64)


def _num_tokens(x: Any, num_examples: tf.Tensor) -> tf.Tensor:
    """Returns how many tokens are not padding in the dictionary inputs of a text model; 0 for other inputs."""
    for name in ("padding_mask", "token_ids"):
        if isinstance(x, Mapping) and name in x:
            return tf.math.count_nonzero(x[name][:num_examples], dtype=tf.int64)
    return tf.constant(0, tf.int64)
