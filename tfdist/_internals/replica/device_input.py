"""Iterators that copy batches to devices end without a delay.

For each device stock makes a small dataset, which only hands over what the host has prepared, and a thread that tunes
it. An iterator that is given up, at the end of an epoch, waits until that thread wakes up by itself. That takes seconds
after a short epoch, and up to a minute after a long one. These datasets have nothing to tune.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf
from tensorflow.python.data.ops import multi_device_iterator_ops

from tfdist._internals.patch import Patch

_local = threading.local()


@contextmanager
def untuned_devices() -> Iterator[None]:
    """While open, iterators made by this thread do not tune their device side."""
    _local.untuned = True
    try:
        yield
    finally:
        _local.untuned = False


def _without_tuning(stock: Any) -> Any:
    def _create_device_dataset(*args: Any) -> tf.data.Dataset:
        dataset = stock(*args)
        if not getattr(_local, "untuned", False):
            return dataset
        options = tf.data.Options()
        options.autotune.enabled = False
        return dataset.with_options(options)

    return _create_device_dataset


PATCHES = (
    Patch(
        name="replica.device_input",
        owner=multi_device_iterator_ops,
        attribute="_create_device_dataset",
        make=_without_tuning,
        reason="every epoch and evaluation ends with a wait of seconds, of up to a minute",
        upstream="no thread found",
    ),
)
