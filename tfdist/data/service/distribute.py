"""`tfdist.data.distribute`: the batches of a dataset are prepared by the data workers of a tf.data service."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import tensorflow as tf
from tensorflow.data.experimental import service as tf_service

from tfdist.cluster.data_service import DataServiceAddress, find_data_service
from tfdist.data.by_index import ByIndex, by_index_of
from tfdist.data.service.in_order import Arrivals, InOrder, Limits
from tfdist.errors import DataError, UnsupportedError
from tfdist.log import LOGGER

# How TensorFlow names the operations that call back into the Python process that has traced them.
_PYTHON_CALLS = {"PyFunc", "PyFuncStateless", "EagerPyFunc"}
MAX_BYTES = 1 << 30
_CURE = (
    "Give rows by their numbers and load them by TensorFlow's operations: tfdist.data.rows_dataset(load, num_rows, "
    "global_batch_size=..., in_graph=True)"
)


def distribute(
    dataset: tf.data.Dataset, service: str = "auto", *, timeout_s: float = 60.0
) -> tf.data.Dataset:
    """Returns the same batches, prepared by the data workers of a tf.data service and not by this process.

    Each row comes once an epoch, in the order and in the batches of `dataset`, and with the same values; so the result
    of a training is that without a service. The batches of an epoch are numbered, each data worker takes the next
    number when it is free, and this process gives them out in order. Under several replicas or workers a data worker
    prepares, for each training process by itself, only the rows that this process computes with (`mesh`: all). A batch
    that was lost with its data worker, or does not come for ten seconds, is prepared here.

    Args:
        dataset: What `tfdist.data.make_dataset` or `tfdist.data.rows_dataset(..., in_graph=True)` has returned.
        service: `auto`: the service that `tfdist launch --data-workers N` has started; or the `host:port` of a
            dispatcher, see `tfdist data-service`.
        timeout_s: If the service delivers nothing for so long, the error says who of it does not answer.

    Raises:
        ConfigError: There is no such service in the environment, or the address is none.
        DataError: The tensors that it loads rows from are too large to be sent to the data workers.
        UnsupportedError: The dataset is not known by the numbers of its rows, or loads them by Python code.
    """
    source = by_index_of(dataset)
    if source is None:
        raise UnsupportedError(
            "only datasets that are known by the numbers of their rows can be prepared by a data service so that each "
            f"row comes once and in order; this one was made otherwise, or was mapped or batched since. {_CURE}."
        )
    if not timeout_s > 0:
        raise DataError(f"timeout_s is {timeout_s}; it must be more than 0 seconds.")
    limits = Limits(patience_s=min(Limits.patience_s, timeout_s), silence_s=timeout_s)
    return replace(source, elsewhere=DataService(find_data_service(service), limits)).dataset()


@dataclass(frozen=True)
class DataService:
    """Prepares batches by a tf.data service; see `tfdist.data.by_index.Elsewhere`."""

    address: DataServiceAddress
    limits: Limits

    def prepared(self, source: ByIndex, function: Callable[[Any], Any]) -> tf.data.Dataset:
        """Returns `function` of every element of `source.indices()`, in order."""
        with tf.device("CPU:0"), warnings.catch_warnings():
            # TensorFlow warns that a dataset's options are not known in a function. None are asked for here.
            warnings.simplefilter("ignore", UserWarning)
            of_epoch, one = _functions(self.address.dispatcher, source, function)
            traced = of_epoch.get_concrete_function()
            (_, spec) = traced.structured_outputs.element_spec
        _check_size(traced.captured_inputs)

        def batches() -> Iterator[Any]:
            yield from self._epoch(of_epoch, one, source.epochs.begin(source.advances), source.num_batches)

        dataset = tf.data.Dataset.from_generator(batches, output_signature=spec)
        return dataset.apply(tf.data.experimental.assert_cardinality(source.num_batches))

    def _epoch(self, of_epoch: Any, one: Any, epoch: int, count: int) -> Iterator[Any]:
        self.address.wait(self.limits.silence_s)
        number_of_epoch = tf.constant(epoch, tf.int64)
        arrivals = Arrivals(self._read(of_epoch, number_of_epoch), count)
        in_order = InOrder(
            arrivals,
            count,
            lambda number: one(number_of_epoch, tf.constant(number, tf.int64)),
            self.limits,
            self._silent,
        )
        try:
            yield from in_order
        finally:
            arrivals.close()
            if in_order.made_here:
                self._warn(in_order.made_here, epoch)

    def _read(self, of_epoch: Any, epoch: tf.Tensor) -> Iterator[tuple[int, Any]]:
        try:
            with tf.device("CPU:0"):
                for number, batch in of_epoch(epoch):
                    yield int(number), batch
            return
        except tf.errors.OpError as error:
            told = _first_lines(error)
        # TensorFlow's own error is not chained: its frames would hold on to the epoch, and so to the data workers.
        raise DataError(f"the data service at {self.address.dispatcher} failed to prepare a batch. {told}")

    def _silent(self, seconds: float) -> DataError:
        silent = self.address.silent
        who = f"No answer from {', '.join(silent)}" if silent else "Its processes answer, but may be too slow"
        return DataError(
            f"the data service at {self.address.dispatcher} has delivered no batch for {seconds:.0f} s. {who}. Start "
            "what has ended, or raise timeout_s of tfdist.data.distribute if a batch needs that long."
        )

    def _warn(self, numbers: list[int], epoch: int) -> None:
        shown = ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")
        silent = self.address.silent
        LOGGER.warning(
            "data service: %d batches of epoch %d (%s) were lost or late, and were prepared by this process; the "
            "epoch is complete.%s",
            len(numbers),
            epoch,
            shown,
            f" No answer from {', '.join(silent)}." if silent else "",
        )


def _functions(dispatcher: str, source: ByIndex, function: Callable[[Any], Any]) -> tuple[Any, Any]:
    """Returns a function from an epoch to its dataset of numbered batches, and one from epoch and number to a batch."""
    number_spec = tf.TensorSpec([], tf.int64)

    def numbered(epoch: tf.Tensor) -> tf.data.Dataset:
        # All numbers of an epoch are few bytes. They go to the data workers with the dataset, since its order is drawn
        # by Python here.
        batches = source.indices_of(epoch).ragged_batch(source.num_batches).get_single_element()

        @tf.autograph.experimental.do_not_convert
        def of_number(number: tf.Tensor) -> tuple[tf.Tensor, Any]:
            found = function(tf.nest.map_structure(lambda leaf: leaf[number], batches))
            _check_no_python(tf.compat.v1.get_default_graph())
            return number, found

        # The range can be split between data workers, batch by batch. What follows it is one to one.
        numbers = tf.data.Dataset.range(source.num_batches)
        return numbers.map(of_number, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

    @tf.function(input_signature=[number_spec], autograph=False)
    def of_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        return numbered(epoch).apply(
            tf_service.distribute(tf_service.ShardingPolicy.DYNAMIC, f"grpc://{dispatcher}")
        )

    @tf.function(input_signature=[number_spec, number_spec], autograph=False)
    def one(epoch: tf.Tensor, number: tf.Tensor) -> Any:
        return function(source.indices_of(epoch).skip(number).take(1).get_single_element())

    return of_epoch, one


def _check_no_python(graph: Any) -> None:
    definition = graph.as_graph_def()
    nodes = [*definition.node, *(node for each in definition.library.function for node in each.node_def)]
    if any(node.op in _PYTHON_CALLS for node in nodes):
        raise UnsupportedError(
            "the rows of this dataset are loaded by Python code, which lives in this process, and the data workers of "
            f"tf.data's service run TensorFlow's operations only. {_CURE}; or leave the data service out."
        )


def _check_size(captured: list[tf.Tensor]) -> None:
    sizes = [
        tensor.dtype.size * tensor.shape.num_elements()
        for tensor in captured
        if tensor.dtype.size and tensor.shape.is_fully_defined()
    ]
    if sum(sizes) > MAX_BYTES:
        raise DataError(
            f"what `load` needs to load the rows of this dataset takes {sum(sizes):,} bytes, which would travel to the "
            f"data workers in each epoch; {MAX_BYTES:,} are allowed, as TensorFlow sends 2 GB at most. Let `load` read "
            "files by their names, or leave the data service out."
        )


def _first_lines(error: Exception) -> str:
    return " ".join(str(error).split("\n\n")[0].split())[:600]
