"""The sum of an update's gradients as the options of a strategy have it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tfdist._internals.communication.compressor import Compressor, ring_bytes
from tfdist._internals.communication.link import AllReduce, Link
from tfdist._internals.communication.narrow import sum_narrow, sum_slices_narrow
from tfdist._internals.communication.options import CommunicationOptions
from tfdist._internals.communication.power_sgd import PowerSGD
from tfdist._internals.communication.sign import Sign
from tfdist._internals.communication.states import ERROR, States
from tfdist._internals.communication.top_k import TopK


class Traffic(NamedTuple):
    """What each replica sends for the dense gradients of a step, in bytes; slices of tables vary and are not counted.

    Attributes:
        sent: With the options.
        exact: Without them: float32, by a ring.
    """

    sent: int
    exact: int


class Communication:
    """How the gradients of a strategy travel, and what is kept for it from step to step.

    Args:
        options: They are not exact.
        num_replicas: Over all processes.

    Attributes:
        options: As given.
        states: What is kept of each variable.
    """

    def __init__(self, options: CommunicationOptions, num_replicas: int) -> None:
        self.options = options
        self.states = States()
        self._num_replicas = num_replicas
        self._compressor = _compressor(options, num_replicas)
        self._dtype = tf.as_dtype(options.dtype)
        self._traffic: dict[tuple[int, ...], Traffic] = {}
        self._error: Any = None

    @property
    def compresses(self) -> bool:
        """Whether something is kept from step to step, so that only gradients that are applied may be summed."""
        return self._compressor is not None

    def prepare(self, strategy: Any, variables: Iterable[Any]) -> None:
        """Makes what is to be kept of the Keras variables that are trained; outside of any step."""
        if self._compressor is not None:
            self.states.make(strategy, variables, self._compressor)

    def compressed(self, all_reduce: AllReduce, shares: Sequence[Any], variables: Sequence[Any]) -> list[Any]:
        """Returns sums over the replicas, and None for what is not compressed.

        Args:
            all_reduce: Sums tensors over the replicas exactly.
            shares: What this replica adds to the gradients: tensors, IndexedSlices and None.
            variables: Their Keras variables; empty if these are not known.
        """
        found: list[Any] = [None] * len(shares)
        owners = variables if len(variables) == len(shares) else [None] * len(shares)
        kept = [
            self.states.of(variable) if _is_plain(share) and _fits(share, variable) else None
            for share, variable in zip(shares, owners, strict=True)
        ]
        chosen = [index for index, states in enumerate(kept) if states is not None]
        self._count(shares, owners, chosen)
        if not chosen or self._compressor is None:
            return found
        states = [kept[index] or {} for index in chosen]
        given = [
            shares[index] + state[ERROR].read_value() for index, state in zip(chosen, states, strict=True)
        ]
        totals, leftovers = self._compressor.sum(self._link(all_reduce), given, states)
        for state, leftover in zip(states, leftovers, strict=True):
            state[ERROR].assign(leftover)
        self._record(given, leftovers)
        for index, total in zip(chosen, totals, strict=True):
            found[index] = total
        return found

    def sum(self, all_reduce: AllReduce, values: Sequence[Any]) -> list[Any]:
        """Returns the sums over the replicas of gradients that are not compressed: tensors and IndexedSlices."""
        if self._dtype == tf.float32:
            return all_reduce(values)
        narrow = [index for index, value in enumerate(values) if _is_plain(value)]
        others = [
            index for index, value in enumerate(values) if not _is_plain(value) and not _has_pairs(value)
        ]
        found = dict(
            zip(narrow, sum_narrow(Link(all_reduce), [values[i] for i in narrow], self._dtype), strict=True)
        )
        found |= dict(zip(others, all_reduce([values[i] for i in others]), strict=True))
        return [
            found[index] if index in found else sum_slices_narrow(all_reduce, value, self._dtype)
            for index, value in enumerate(values)
        ]

    def _link(self, all_reduce: AllReduce) -> Link:
        link = Link(all_reduce)
        if self._dtype != tf.float32:
            link.all_reduce = lambda tensors: sum_narrow(link, tensors, self._dtype)
            link.rounded = lambda tensor: tf.cast(tf.cast(tensor, self._dtype), tf.float32)
        return link

    # Figures.

    @property
    def traffic(self) -> Traffic | None:
        """What a step sends; None before the first is compiled."""
        found = self._traffic.values()
        return Traffic(sum(one.sent for one in found), sum(one.exact for one in found)) if found else None

    def watch(self) -> None:
        """Has steps that are compiled from now on measure the norm of what was not sent, relative to what was to be."""
        if self._error is None and self.compresses:
            with tf.init_scope():
                self._error = tf.Variable(0.0, trainable=False)

    def figures(self) -> dict[str, float]:
        """Returns the bytes of a step, how many times more it would be, and the relative error of the last one."""
        found: dict[str, float] = {}
        if (traffic := self.traffic) is not None:
            found["communication/bytes_per_step"] = float(traffic.sent)
            found["communication/compression_ratio"] = traffic.exact / max(traffic.sent, 1)
        if self._error is not None:
            found["communication/relative_error"] = float(self._error.numpy())
        return found

    def _count(self, shares: Sequence[Any], owners: Sequence[Any], chosen: Sequence[int]) -> None:
        width = self._dtype.size
        sent = exact = 0
        for index, share in enumerate(shares):
            if not _is_plain(share):
                continue
            size = share.shape.num_elements()
            exact += ring_bytes(size, self._num_replicas)
            if index in chosen and self._compressor is not None:
                own = self._compressor.sent_bytes(share.shape.as_list())
                sent += own * width // 4 if isinstance(self._compressor, PowerSGD) else own
            else:
                sent += ring_bytes(size, self._num_replicas, width)
        self._traffic[tuple(id(owner) for owner in owners if owner is not None)] = Traffic(sent, exact)

    def _record(self, given: Sequence[tf.Tensor], leftovers: Sequence[tf.Tensor]) -> None:
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        if self._error is not None and tf.get_static_value(replica) == 0:
            whole, left = tf.linalg.global_norm(given), tf.linalg.global_norm(leftovers)
            self._error.assign(tf.math.divide_no_nan(left, whole))


def _compressor(options: CommunicationOptions, num_replicas: int) -> Compressor | None:
    if options.compression == "powersgd":
        return PowerSGD(num_replicas, options.rank)
    if options.compression == "topk":
        return TopK(num_replicas, options.share)
    return Sign(num_replicas) if options.compression == "sign" else None


def _is_plain(value: Any) -> bool:
    return isinstance(value, tf.Tensor) and value.dtype == tf.float32 and value.shape.is_fully_defined()


def _fits(share: tf.Tensor, variable: Any) -> bool:
    return variable is not None and tuple(share.shape) == tuple(variable.shape)


def _has_pairs(value: Any) -> bool:
    """Returns whether these are float32 slices with an even number of columns, so that two of them fill 32 bits."""
    if not isinstance(value, tf.IndexedSlices) or value.values.dtype != tf.float32:
        return False
    return (
        value.values.shape.rank == 2
        and value.values.shape[-1] is not None
        and value.values.shape[-1] % 2 == 0
    )
