"""Each replica draws its own random numbers from the one seed that all of them advance alike."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from keras.src.random.seed_generator import SeedGenerator

from tfdist._internals.registry import Patch
from tfdist._internals.replica.step import current_step


def _by_replica(stock: Any) -> Any:
    def next(self: Any, ordered: bool = True) -> Any:  # noqa: A001 - the name is Keras's
        seed, step = stock(self, ordered), current_step()
        if step is None or step.draws_by_row or tf.distribute.get_strategy().num_replicas_in_sync == 1:
            return seed
        folded = tf.random.experimental.stateless_fold_in(tf.cast(seed, tf.int32), step.replica_id)
        return tf.cast(folded, seed.dtype)

    return next


PATCHES = (
    Patch(
        name="seeds",
        owner=SeedGenerator,
        attribute="next",
        make=_by_replica,
        reason="dropout and augmentation masks are the same on every replica",
        upstream="no thread found for Keras 3",
    ),
)
