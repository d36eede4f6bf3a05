"""Carries Keras's thread-local state into the threads that trace replicas.

Keras keeps the dtype policy, autocast and custom-object scopes and the global seed generator in thread-locals;
MirroredStrategy traces replicas in threads of its own, where they are all at their defaults: a global
`mixed_bfloat16` is float32 there, and unseeded `keras.random` functions make a new generator and crash.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from keras.src.backend.common import global_state
from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR, SeedGenerator


def capture(seed_generator: SeedGenerator | None = None) -> dict[str, Any]:
    """Returns this thread's Keras state; the values are shared, not copied.

    Args:
        seed_generator: What functions of `keras.random` without a seed draw from, in place of Keras's own.
    """
    state = dict(global_state.GLOBAL_STATE_TRACKER.__dict__)
    if seed_generator is not None:
        state[GLOBAL_SEED_GENERATOR] = seed_generator
    return state


def new_seed_generator() -> SeedGenerator:
    """Returns a generator like Keras's global one, with its variable under the strategy in force."""
    return SeedGenerator()


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
