"""Logs of a step as one vector, for a loop over steps, whose variables need one structure from the start."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from keras import tree


class PackedLogs:
    """Packs logs into one vector and back."""

    def __init__(self, dtype: tf.DType) -> None:
        self.dtype = dtype
        self.template: Any = None

    def pack(self, logs: Any) -> tf.Tensor:
        self.template = tree.map_structure(tf.TensorSpec.from_tensor, logs)
        return tf.concat([tf.reshape(tf.cast(leaf, self.dtype), [-1]) for leaf in tree.flatten(logs)], 0)

    def unpack(self, vector: tf.Tensor) -> Any:
        specs = tree.flatten(self.template)
        parts = tf.split(vector, [spec.shape.num_elements() for spec in specs])
        leaves = [
            tf.cast(tf.reshape(part, spec.shape), spec.dtype) for part, spec in zip(parts, specs, strict=True)
        ]
        return tree.pack_sequence_as(self.template, leaves)
