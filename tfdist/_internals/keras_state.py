"""Carries Keras's thread-local state into the threads that trace replicas.

Keras keeps the dtype policy, the scopes of autocast and custom objects, and the global seed generator in thread-locals.
MirroredStrategy traces replicas in threads of its own, in which these have their defaults. A global `mixed_bfloat16` is
float32 there, and functions of `keras.random` without a seed make a new generator and crash.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf
from keras.src.backend.common import global_state
from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR, SeedGenerator


def capture() -> dict[str, Any]:
    """Returns this thread's Keras state; the values are shared, not copied."""
    return dict(global_state.GLOBAL_STATE_TRACKER.__dict__)


def place_seed_generator(strategy: tf.distribute.Strategy) -> None:
    """Gives the functions of `keras.random` that are given no seed a generator with a variable on every replica.

    A generator that was made outside of the scope hands on its state, so that draws go on as on one device.
    """
    own = global_state.get_global_attribute(GLOBAL_SEED_GENERATOR)
    if own is not None and getattr(own.state.value, "_distribute_strategy", None) is strategy:
        return
    with strategy.scope():
        generator = SeedGenerator()
        if own is not None:
            generator.state.assign(own.state)
    global_state.set_global_attribute(GLOBAL_SEED_GENERATOR, generator)


@contextmanager
def restored(state: dict[str, Any]) -> Iterator[None]:
    """Gives this thread the captured state while open."""
    own = global_state.GLOBAL_STATE_TRACKER.__dict__
    before = dict(own)
    own.update(state)
    try:
        yield
    finally:
        own.clear()
        own.update(before)
