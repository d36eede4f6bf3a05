"""One random seed for all workers where the script sets none.

Without it the unseeded shuffles of tf.data, and of `fit(shuffle=True)`, differ from worker to worker, so that an epoch
shows some rows twice and others never.
"""

from __future__ import annotations

import random

import tensorflow as tf
from tensorflow.python.eager import context

from tfdist._internals.processes.coordination import broadcast_json

_seeds: list[int] = []


def share_seed() -> None:
    """Gives every process the chief's random seed; `keras.utils.set_random_seed` may still replace it."""
    _take(broadcast_json("seed", random.SystemRandom().randrange(2**31)))


def advance() -> None:
    """Takes the next seed, the same on every worker; what is built afterwards shuffles anew."""
    _take((_seeds[-1] + 1) % 2**31)


def global_seed() -> int | None:
    """Returns the seed that is in force."""
    return context.global_seed()


def is_ours() -> bool:
    """Returns whether the seed in force is one that the script did not ask for."""
    return global_seed() in _seeds


def _take(seed: int) -> None:
    _seeds.append(seed)
    tf.random.set_seed(seed)
