"""`tfdist test`: trains a small model under a strategy on this very machine and compares it with one device."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist._internals.contract import Distribution
from tfdist._internals.contract.sums import sum_error_of
from tfdist.parity.comparison import RELATIVE_TOLERANCE, relative_difference

# 37 rows in batches of 8: the last batch has 5 rows, which no number of replicas divides, and 8 replicas are not all
# given a row.
_NUM_ROWS, _BATCH, _EPOCHS = 37, 8, 4


@dataclass(frozen=True)
class SelfTestResult:
    """The relative difference from one device of everything that was compared."""

    differences: dict[str, float]
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether every difference is within the tolerance."""
        return all(difference <= self.tolerance for difference in self.differences.values())


def self_test(strategy: tf.distribute.Strategy) -> SelfTestResult:
    """Sums known vectors over the replicas, then trains under `strategy` and without, from the same weights.

    The model has an embedding, synchronized batch normalization, clipping by the global norm, and Adam. Each of these
    goes wrong if gradients, statistics or rows are not summed as on one device. In a cluster every process calls this,
    and each computes the one-device result by itself.
    """
    expected, found = _train(None), _train(strategy)
    error = strategy.sum_error() if isinstance(strategy, Distribution) else sum_error_of(strategy)
    differences = {"all-reduce of known vectors": error}
    for name, value in expected.items():
        differences[name] = float(relative_difference(np.asarray(found[name]), np.asarray(value), 1.0))
    return SelfTestResult(differences, RELATIVE_TOLERANCE)


def _model() -> keras.Model:
    tokens, features = keras.Input((3,), dtype="int32"), keras.Input((4,))
    embedded = keras.layers.Flatten()(keras.layers.Embedding(12, 2, name="embedding")(tokens))
    hidden = keras.layers.Dense(8, activation="tanh")(keras.layers.Concatenate()([embedded, features]))
    hidden = keras.layers.BatchNormalization(synchronized=True)(hidden)
    model = keras.Model([tokens, features], keras.layers.Dense(3)(hidden))
    rng = np.random.default_rng(1)
    model.set_weights(
        [weight + rng.normal(0, 0.1, weight.shape) ** 2 for weight in map(np.zeros_like, model.get_weights())]
    )
    model.compile(
        keras.optimizers.Adam(0.01, global_clipnorm=0.5),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def _train(strategy: tf.distribute.Strategy | None) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    x = [rng.integers(0, 11, (_NUM_ROWS, 3)), rng.normal(size=(_NUM_ROWS, 4)).astype("float32")]
    y = rng.integers(0, 3, _NUM_ROWS)
    with strategy.scope() if strategy is not None else contextlib.nullcontext():
        model = _model()
    options = {"batch_size": _BATCH, "verbose": 0}
    history = model.fit(x, y, epochs=_EPOCHS, shuffle=False, **options).history
    return {
        f"weights after {_EPOCHS * -(-_NUM_ROWS // _BATCH)} steps": np.concatenate(
            [weight.ravel() for weight in model.get_weights()]
        ),
        "loss of each epoch": history["loss"],
        "accuracy of each epoch": history["accuracy"],
        "evaluate": model.evaluate(x, y, **options),
        "predict": model.predict(x, **options),
    }
