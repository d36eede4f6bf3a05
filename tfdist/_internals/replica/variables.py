"""Variables of several replicas, as a script sees them in the scope, outside of a step."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.distribute.values import MirroredVariable, SyncOnReadVariable
from tensorflow.python.distribute.values_util import in_replica_update_context

from tfdist.process import is_chief


def _outside_of_replicas() -> bool:
    return tf.distribute.in_cross_replica_context() and not in_replica_update_context()


class _Converted:
    """A variable that becomes a Python or numpy value as one of a single device does, in the scope too.

    TensorFlow's class has no `float`, as a callback asks of the learning rate; and it is true for a counter at 0.
    """

    def __float__(self: Any) -> float:
        return float(self.read_value())

    def __int__(self: Any) -> int:
        return int(self.read_value())

    def __complex__(self: Any) -> complex:
        return complex(self.read_value())

    def __bool__(self: Any) -> bool:
        return bool(self.read_value())

    def __array__(self: Any, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.numpy(), dtype)


class PartVariable(SyncOnReadVariable):
    """A variable of which each replica has a part, such as a gradient that is accumulated."""


class SummedVariable(SyncOnReadVariable):
    """A variable of which each replica has a part, and whose value is their sum, such as a metric's state.

    What it starts with, and what is assigned outside of a step, is the sum, and the first replica keeps it whole. Stock
    starts every replica with all of it, and then gives each an equal part. Of integers, such as the counts of a
    confusion matrix, that loses the remainder.
    """

    @property
    def _has_first(self) -> bool:
        """Whether the first replica is in this process."""
        return is_chief() or len(self.values) == self.distribute_strategy.num_replicas_in_sync

    def keep_whole(self, value: Any) -> None:
        """Gives the first replica `value`, and the others zeros."""
        for index, part in enumerate(self.values):
            part.assign(value if self._has_first and index == 0 else tf.zeros_like(value))

    def update_first(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        """Runs `function` on the part that is kept whole, if it is here."""
        return function(self.values[0], *args, **kwargs) if self._has_first else None

    def assign(
        self, value: Any, use_locking: bool = False, name: str | None = None, read_value: bool = True
    ) -> Any:
        """Assigns a replica's part in a step, and the sum outside of one."""
        if not _outside_of_replicas():
            return super().assign(value, use_locking, name, read_value)
        whole = tf.cast(value, self.dtype)
        self.keep_whole(whole)
        return whole if read_value else None


class CopiedVariable(MirroredVariable):
    """A variable of which each replica has a copy."""

    @property
    def handle(self) -> Any:
        """The resource by which a tape knows the variable; outside of replicas that of the copy that is read there."""
        return self._get_on_device_or_primary().handle if _outside_of_replicas() else super().handle

    def _get_cross_replica(self) -> Any:
        # With local steps the replicas have not always the same.
        before_read = getattr(self.distribute_strategy, "before_read", None)
        if before_read is not None and tf.executing_eagerly():
            before_read(self)
        return super()._get_cross_replica()


# Not as a base: a variable that TensorFlow has made takes no class with another layout of its objects.
for _class in (CopiedVariable, SummedVariable, PartVariable):
    for _name in ("__float__", "__int__", "__complex__", "__bool__", "__array__"):
        setattr(_class, _name, vars(_Converted)[_name])


def of_replicas(variable: Any) -> Any:
    """Returns a variable that TensorFlow has made, with the methods of these classes."""
    # TensorFlow's creators name their classes themselves.
    if type(variable) is MirroredVariable:
        variable.__class__ = CopiedVariable
    elif type(variable) is SyncOnReadVariable and variable.aggregation == tf.VariableAggregation.SUM:
        variable.__class__ = SummedVariable
        with tf.init_scope():
            variable.keep_whole(variable.values[0])
    elif type(variable) is SyncOnReadVariable:
        variable.__class__ = PartVariable
    return variable
