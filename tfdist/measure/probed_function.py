"""A training function that is told how many seconds it has waited for each batch."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import tensorflow as tf


class ProbedFunction:
    """Keras's training function for one replica, to which each batch is given by hand.

    A batch that is taken from the iterator outside of the function has a shape of its own, and the step would be traced
    for every shape. So the batch goes through a function with the signature of the data.

    Args:
        train_function: A function from an iterator over batches to the logs.
        add: A function that is given each batch, and the seconds that it was waited for, inside the compiled step.
        run_eagerly: Whether nothing is to be compiled.
    """

    def __init__(
        self, train_function: Callable[[Any], Any], add: Callable[[Any, Any], None], run_eagerly: bool
    ) -> None:
        self._train_function = train_function
        self._add = add
        self._run_eagerly = run_eagerly
        self._signature: Any = None
        self._step: Callable[[Any, Any], Any] = self._count_and_train

    def __call__(self, iterator: Any) -> Any:
        begin = time.perf_counter()
        batch = next(iterator)
        input_s = time.perf_counter() - begin
        if not self._run_eagerly and self._signature != iterator.element_spec:
            self._signature = iterator.element_spec
            signature = [self._signature, tf.TensorSpec([], tf.float64)]
            self._step = tf.function(self._count_and_train, input_signature=signature, autograph=False)
        return self._step(batch, tf.constant(input_s, tf.float64))

    def _count_and_train(self, batch: Any, input_s: tf.Tensor) -> Any:
        self._add(batch, input_s)
        return self._train_function(iter([batch]))
