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


def capture() -> dict[str, Any]:
    """Returns this thread's Keras state; the values are shared, not copied."""
    return dict(global_state.GLOBAL_STATE_TRACKER.__dict__)


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
