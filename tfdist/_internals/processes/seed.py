"""One random seed for all processes where the script sets none.

Without it the unseeded shuffles of tf.data, and of `fit(shuffle=True)`, differ from worker to worker, so that an epoch
shows some rows twice and others never.
"""

from __future__ import annotations

import random

import tensorflow as tf
from tensorflow.python.eager import context

from tfdist._internals.processes.coordination import broadcast_json

_shared: int | None = None


def share_seed() -> None:
    """Gives every process the chief's random seed; `keras.utils.set_random_seed` may still replace it."""
    global _shared
    _shared = broadcast_json("seed", random.SystemRandom().randrange(2**31))
    tf.random.set_seed(_shared)


def global_seed() -> int | None:
    """Returns TensorFlow's seed that is in force."""
    return context.global_seed()


def is_ours() -> bool:
    """Returns whether the seed in force is one that the script did not ask for."""
    return _shared is not None and global_seed() == _shared
