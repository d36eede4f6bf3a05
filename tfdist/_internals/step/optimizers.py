"""Gradients are summed over the parts of a step once for each update, before anything else is done with them.

Stock clips the gradient of each replica and sums afterwards, so that the bound acts on a gradient that one device never
sees. It sums inside the update, where gradient accumulation crashes. It never sums the gradients of an optimizer that
overrides `apply`. Here the sum stands where an update begins, in whatever class that is. With gradient accumulation it
waits for the clipping, because stock clips the gradient of an update and nothing else.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import tensorflow as tf
from keras.src.backend.tensorflow.optimizer import TFOptimizer
from keras.src.optimizers.base_optimizer import BaseOptimizer
from keras.src.optimizers.loss_scale_optimizer import LossScaleOptimizer

from tfdist._internals.contract import Step, current_step, distribution_of
from tfdist._internals.patch import Patch, in_step
from tfdist._internals.step.compiled_update import clips_later
from tfdist._internals.step.repeated_rows import as_chosen

# Optimizer -> a function that is shown the gradients of each update: summed, not clipped yet, and None for a variable
# without a gradient.
_observers: weakref.WeakKeyDictionary[Any, Callable[[Sequence[Any]], None]] = weakref.WeakKeyDictionary()

_BEGINNINGS = ("apply", "apply_gradients")


def observe_gradients(optimizer: Any, record: Callable[[Sequence[Any]], None]) -> None:
    """Calls `record` with the gradients of each update of `optimizer` from now on, inside the compiled step."""
    _observers[optimizer] = record


def _updated(step: Step, stock: Any, optimizer: Any, grads: Any, *args: Any, **kwargs: Any) -> Any:
    if step.in_update:
        return stock(optimizer, grads, *args, **kwargs)
    variables = args[0] if args else kwargs.get("trainable_variables")
    with _begun(step, optimizer, list(grads), variables) as gradients:
        return stock(optimizer, gradients, *args, **kwargs)


def _updated_by_pairs(
    step: Step, stock: Any, optimizer: Any, grads_and_vars: Any, *args: Any, **kwargs: Any
) -> Any:
    pairs = list(grads_and_vars)
    if step.in_update or not pairs:
        return stock(optimizer, pairs, *args, **kwargs)
    grads, variables = zip(*pairs, strict=True)
    with _begun(step, optimizer, list(grads), variables) as gradients:
        return stock(optimizer, list(zip(gradients, variables, strict=True)), *args, **kwargs)


@contextmanager
def _begun(step: Step, optimizer: Any, grads: list[Any], variables: Any) -> Iterator[list[Any]]:
    """Surrounds an update, and yields the gradients with which it begins."""
    inner = optimizer.inner_optimizer if isinstance(optimizer, LossScaleOptimizer) else optimizer
    # What keeps errors must not see gradients that are scaled, or not finite; those are known in the update.
    scales = step.keeps_errors and inner is not optimizer
    at_once = not inner.gradient_accumulation_steps and not scales
    known = list(optimizer._trainable_variables if variables is None else variables)
    _tell_shapes(grads, known)
    # The gradients of some variables (scales of 8-bit layers) are their new values, and are not summed.
    kept = {
        index for index, variable in enumerate(known) if optimizer._overwrite_variable_with_gradient(variable)
    }
    given = [None if index in kept else gradient for index, gradient in enumerate(grads)]
    updated = [variable for variable, gradient in zip(known, given, strict=False) if gradient is not None]
    with step.updating(updated):
        found = step.sum_gradients(given) if at_once else step.shares_of(given)
        with step.update(summed=at_once):
            yield [grads[index] if index in kept else gradient for index, gradient in enumerate(found)]


def _tell_shapes(gradients: Iterable[Any], variables: Iterable[Any]) -> None:
    """Gives dense gradients the shapes of their variables: with batches of any size TensorFlow may have lost them."""
    for gradient, variable in zip(gradients, variables, strict=False):
        if isinstance(gradient, tf.Tensor) and gradient.shape.is_compatible_with(variable.shape):
            gradient.set_shape(variable.shape)


def _beginnings_found(stock: Any) -> Any:
    @functools.wraps(stock)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        for owner in type(self).__mro__:
            for attribute in _BEGINNINGS if not owner.__module__.startswith("keras.src.") else ():
                if attribute in vars(owner):
                    _beginning(owner, attribute).apply()
        stock(self, *args, **kwargs)

    return __init__


def _beginning(owner: Any, attribute: str) -> Patch:
    return Patch(
        name="step.optimizers",
        owner=owner,
        attribute=attribute,
        make=in_step(_updated if attribute == "apply" else _updated_by_pairs),
        reason="gradients are clipped on each replica before they are summed, or never summed by a class of the user's",
        upstream="https://github.com/tensorflow/tensorflow/issues/33929 (tf.keras forbade it); none for Keras 3",
    )


def _clipped(stock: Any) -> Any:
    @functools.wraps(stock)
    def _clip_gradients(self: Any, grads: Any) -> Any:
        step = current_step()
        if step is not None:
            grads = step.sum_gradients(grads)
        grads = as_chosen(self, grads)
        if (record := _observers.get(self)) is not None:
            record(grads)
        if step is None and _clips(self) and (context := _replica_of_own_loop()) is not None:
            # The update of a user's own loop sums what the replicas give. Each gives its part of the clipped sum.
            total = [
                None if one is None else context.all_reduce(tf.distribute.ReduceOp.SUM, one) for one in grads
            ]
            part = 1.0 / context.num_replicas_in_sync
            return [None if one is None else tf.math.scalar_mul(part, one) for one in stock(self, total)]
        return grads if clips_later(self, grads) else stock(self, grads)

    return _clip_gradients


def _clips(optimizer: Any) -> bool:
    return any((optimizer.clipnorm, optimizer.global_clipnorm, optimizer.clipvalue))


def _replica_of_own_loop() -> Any:
    """Returns the replica that this runs in by `strategy.run`, None if there is none."""
    context = tf.distribute.get_replica_context()
    return None if context is None or distribution_of(context.strategy) is None else context


def _summed_already(step: Step, stock: Any, optimizer: Any, grads_and_vars: Any) -> Any:
    return grads_and_vars


PATCHES = (
    _beginning(BaseOptimizer, "apply"),
    _beginning(LossScaleOptimizer, "apply"),
    Patch(
        name="step.optimizers",
        owner=BaseOptimizer,
        attribute="__init__",
        make=_beginnings_found,
        reason="a class of the user's that overrides apply or apply_gradients uses gradients before they are summed",
        upstream="no thread found",
    ),
    Patch(
        name="step.optimizers",
        owner=BaseOptimizer,
        attribute="_clip_gradients",
        make=_clipped,
        reason="accumulated gradients are summed once for each update, where stock would clip each replica's own",
        upstream="https://github.com/keras-team/keras/issues/20582",
    ),
    Patch(
        name="step.optimizers",
        owner=TFOptimizer,
        attribute="_all_reduce_sum_gradients",
        make=in_step(_summed_already),
        reason="the counterpart: they are not summed a second time",
        upstream="https://github.com/keras-team/keras/issues/20582",
    ),
)
