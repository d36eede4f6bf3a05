"""One random seed for all processes where the script sets none.

Without it, an unseeded shuffle of tf.data or of `fit(shuffle=True)` differs between the processes, and an epoch shows
some rows twice and others never. Keras draws the seeds of initializers from Python's `random`: without a common seed,
each process of a mesh would begin with weights of its own.
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
    random.seed(_shared)


def global_seed() -> int | None:
    """Returns the seed of TensorFlow that is in force, None without one."""
    return context.global_seed()


def is_ours() -> bool:
    """Returns whether the seed in force comes from `share_seed` and not from the script."""
    return _shared is not None and global_seed() == _shared
