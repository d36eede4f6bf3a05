"""Whether an optimizer's update is compiled by XLA, and what of the update waits for its programs."""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import tensorflow as tf
from keras.src.backend.tensorflow.optimizer import TFOptimizer
from keras.src.optimizers.base_optimizer import BaseOptimizer

from tfdist._internals.contract import Division, distribution_of
from tfdist._internals.patch import Patch
from tfdist._internals.step.update_programs import is_compilable, run_update, traced, written
from tfdist._internals.step.update_rows import has_summed_rows, update_rows_apart
from tfdist.errors import ConfigError

# With fewer weights than this, compiling costs more time than it saves in a thousand steps.
_FEWEST_WEIGHTS = 2**20

_CHOICES = {"true": True, "false": False, "auto": "auto", "none": None}

# Where a variable is smaller than this, calling a program costs as much as it saves.
_SMALLEST = 2**14

# In a table of so many numbers a batch looks up few of the rows.
_LARGE_TABLE = 2**20

# Strategy -> what was chosen: True, False, or "auto".
_chosen: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()

# What an update goes through, in this order and with nothing in between, unless a class of the user's overrides it.
_CALLERS = (
    "_backend_apply_gradients",
    "_clip_gradients",
    "_backend_update_step",
    "_distributed_tf_update_step",
)


class _Update(threading.local):
    """The update that this thread traces.

    Attributes:
        optimizer: Whose it is, if it is compiled.
        decayed: The variables whose decay waits for the program of each.
        factor: What the gradients are still to be multiplied by, so that their global norm is within its bound.
    """

    optimizer: Any = None
    decayed: tuple[Any, ...] = ()
    factor: tf.Tensor | None = None


_update = _Update()


def set_compiled_update(strategy: tf.distribute.Strategy, choice: Any) -> None:
    """Sets whether XLA compiles the updates of the optimizers that were made under a strategy, from the next trace on.

    Args:
        strategy: The strategy; TensorFlow's default one stands for a script without any.
        choice: True, False, or `"auto"` for models that are large enough to be worth it.
    """
    _chosen[strategy] = choice


def is_chosen(strategy: tf.distribute.Strategy) -> bool:
    """Returns whether updates under a strategy are compiled, or may be."""
    return bool(_chosen.get(strategy, False))


def checked_choice(value: Any) -> Any:
    """Returns the value of the option `compiled_update`: True, False, `"auto"`, or None for the strategy's default.

    Raises:
        ConfigError: It is none of these.
    """
    text = str(value).lower()
    if text not in _CHOICES:
        raise ConfigError(f"compiled_update={value!r} is not possible; it is True, False or 'auto'.")
    return _CHOICES[text]


def is_compiled(optimizer: Any) -> bool:
    """Returns whether the update of an optimizer that is traced here and now is to be compiled."""
    choice = _chosen.get(optimizer._distribution_strategy, False)
    if not choice or tf.executing_eagerly() or tf.distribute.in_cross_replica_context():
        return False
    if any(_is_own(type(optimizer), name) for name in _CALLERS):
        return False
    weights = sum(variable.shape.num_elements() or 0 for variable in optimizer._trainable_variables)
    return choice is True or weights >= _FEWEST_WEIGHTS


def _is_own(kind: type, name: str) -> bool:
    """Returns whether a class of the user's overrides a method."""
    owner = next(owner for owner in kind.__mro__ if name in vars(owner))
    return not owner.__module__.startswith("keras.src.")


def _opened(stock: Any) -> Any:
    @functools.wraps(stock)
    def _backend_apply_gradients(self: Any, grads: Any, trainable_variables: Any) -> None:
        before = vars(_update).copy()
        vars(_update).update(optimizer=self if is_compiled(self) else None, decayed=(), factor=None)
        try:
            stock(self, grads, trainable_variables)
        finally:
            vars(_update).clear()
            vars(_update).update(before)

    return _backend_apply_gradients


def clips_later(optimizer: Any, gradients: Sequence[Any]) -> bool:
    """Leaves it to the programs of the open update to scale its gradients to a global norm; returns whether it did."""
    if _update.optimizer is not optimizer or optimizer.clipnorm or not optimizer.global_clipnorm:
        return False
    if any(isinstance(one, tf.IndexedSlices) and not has_summed_rows(one) for one in gradients):
        return False  # Keras makes them dense when it scales them, and an update takes that otherwise than slices.
    present = [one for one in gradients if one is not None]
    # A norm in float32 would take half of the digits of a float64.
    exact = tf.float64 if any(one.dtype == tf.float64 for one in present) else tf.float32
    bound = tf.constant(optimizer.global_clipnorm, exact)
    # TensorFlow's norm takes the rows that a gradient has, where that of Keras makes it as large as the table.
    norm = tf.linalg.global_norm([tf.cast(getattr(one, "values", one), exact) for one in present])
    # Not a number where the norm is not finite, as in Keras.
    _update.factor = bound * tf.minimum(1.0 / norm, 1.0 / bound) + (norm - norm)
    return True


def _decayed(stock: Any) -> Any:
    @functools.wraps(stock)
    def _apply_weight_decay(self: Any, variables: Sequence[Any]) -> None:
        if self.weight_decay is None or _update.optimizer is not self:
            return stock(self, variables)
        _update.decayed = tuple(variables)
        return None

    return _apply_weight_decay


def _updated(stock: Any) -> Any:
    @functools.wraps(stock)
    def _distributed_tf_update_step(
        self: Any, distribution: Any, grads_and_vars: Sequence[Any], learning_rate: Any
    ) -> None:
        if _update.optimizer is not self:
            return stock(self, distribution, grads_and_vars, learning_rate)
        decayed = {self._var_key(variable) for variable in _update.decayed}
        division = _division_of(self, distribution)
        scalars = [tf.convert_to_tensor(learning_rate)]
        if _update.factor is not None:
            scalars.append(_update.factor)

        def update(variable: Any, gradient: Any, rate: Any, factor: Any = None) -> None:
            if factor is not None:
                gradient = _scaled(gradient, factor)
            if self._var_key(variable) in decayed:
                with _learning_rate(self, rate):
                    _stock_decay(self, [variable])
            self.update_step(gradient, variable, rate)

        def update_here(variable: Any, gradient: Any) -> None:
            if not _by_program(self, update, variable, gradient, scalars, division):
                update(variable, gradient, *scalars)

        # Replicas have equal parts where the largest variables are given away first.
        pairs = grads_and_vars if division is None else sorted(grads_and_vars, key=_size_of, reverse=True)
        for gradient, variable in pairs:
            distribution.extended.update(variable, update_here, args=(gradient,), group=False)
        return None

    return _distributed_tf_update_step


def _division_of(optimizer: Any, strategy: Any) -> Division | None:
    distribution = distribution_of(strategy)
    division = None if distribution is None else distribution.division
    return division if division is not None and division.divides(optimizer) else None


def _size_of(pair: Any) -> int:
    return pair[1].shape.num_elements() or 0


def _scaled(gradient: Any, factor: tf.Tensor) -> Any:
    if isinstance(gradient, tf.IndexedSlices):
        values = gradient.values * tf.cast(factor, gradient.values.dtype)
        return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
    return gradient * tf.cast(factor, gradient.dtype)


def _by_program(
    optimizer: Any,
    update: Any,
    variable: Any,
    gradient: Any,
    scalars: Sequence[tf.Tensor],
    division: Division | None,
) -> bool:
    """Updates a variable by a program of XLA; does nothing where none can or should be made.

    Where the update is divided, this replica or another one updates it.
    """
    weights = variable.shape.num_elements() or 0
    has_rows = isinstance(gradient, tf.IndexedSlices)
    # Slices that are not summed are squared one by one, as plain Keras does.
    if weights < _SMALLEST or (has_rows and not has_summed_rows(gradient)):
        return False

    def body(*inputs: tf.Tensor) -> None:
        update(variable, *inputs)

    graph = traced(body, [tf.TensorSpec(variable.shape, gradient.dtype), *scalars])
    if not is_compilable(graph):
        return False
    before = [] if division is None else division.take(variable, written(graph))
    if before is None:
        return True
    shared = division is not None
    with tf.control_dependencies(before):
        if (
            has_rows
            and weights >= _LARGE_TABLE
            and update_rows_apart(optimizer, update, graph, variable, gradient, scalars, shared)
        ):
            return True
        dense = tf.convert_to_tensor(gradient)
        dense.set_shape(variable.shape)
        run_update(optimizer, body, graph, variable, [dense, *scalars], shared)
    return True


def _stock_decay(optimizer: Any, variables: Sequence[Any]) -> None:
    TFOptimizer._apply_weight_decay._tfdist_stock(optimizer, variables)


@contextmanager
def _learning_rate(optimizer: Any, value: tf.Tensor) -> Iterator[None]:
    """While open, the learning rate is `value`, so that no schedule is computed again for each variable."""
    vars(optimizer)["_get_current_learning_rate"] = lambda: value
    try:
        yield
    finally:
        del vars(optimizer)["_get_current_learning_rate"]


PATCHES = (
    Patch(
        name="step.compiled_update",
        owner=BaseOptimizer,
        attribute="_backend_apply_gradients",
        make=_opened,
        reason="what waits for the compiled update may only wait where that follows",
        upstream="no thread found",
    ),
    Patch(
        name="step.compiled_update",
        owner=TFOptimizer,
        attribute="_apply_weight_decay",
        make=_decayed,
        reason="the decay of a weight is a pass of its own over all weights; it becomes part of the compiled update",
        upstream="no thread found",
    ),
    Patch(
        name="step.compiled_update",
        owner=TFOptimizer,
        attribute="_distributed_tf_update_step",
        make=_updated,
        reason="an update is a chain of small operations over arrays of the size of the weights; XLA makes one pass",
        upstream="https://github.com/keras-team/keras/issues/18716 (XLA is off under tf.distribute)",
    ),
)
