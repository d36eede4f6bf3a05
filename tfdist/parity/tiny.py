"""What the cases are made of: tiny models with fixed weights, fixed rows, and the outcome of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist.parity.context import Context

# 1, 2, 3 and 4 replicas divide it.
BATCH = 12
FEATURES = 4
CLASSES = 3


def rows(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns features of shape (count, 4), float32, and class indices of shape (count,), int64.

    The two halves of the rows differ strongly, so that an average of averages shows.
    """
    generator = np.random.default_rng(seed)
    features = generator.standard_normal((count, FEATURES)).astype("float32")
    features[::3] *= 3.0
    return features, generator.integers(0, CLASSES, count)


def fix_weights(model: keras.Model, seed: int = 1, deviation: float = 0.5) -> keras.Model:
    """Sets every matrix of a built model from a seed, with this standard deviation; norms and biases stay."""
    generator = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        if len(variable.shape) > 1:
            variable.assign((generator.standard_normal(variable.shape) * deviation).astype("float32"))
    return model


def dense(units: int = CLASSES, **options: Any) -> keras.Model:
    """One dense layer on the features: (batch, 4) to (batch, units) logits."""
    model = keras.Sequential([keras.layers.Input((FEATURES,)), keras.layers.Dense(units, **options)])
    return fix_weights(model)


def mlp(*middle: Callable[[], keras.layers.Layer]) -> keras.Model:
    """Two dense layers with `middle` between them: (batch, 4) to (batch, 3) logits."""
    layers = [keras.layers.Input((FEATURES,)), keras.layers.Dense(4, activation="tanh")]
    layers += [layer() for layer in middle]
    return fix_weights(keras.Sequential([*layers, keras.layers.Dense(CLASSES)]))


def crossentropy(**options: Any) -> keras.losses.Loss:
    """Sparse categorical cross-entropy on logits."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, **options)


def compiled(
    context: Context,
    build: Callable[[], keras.Model] = dense,
    optimizer: Callable[[], keras.optimizers.Optimizer] | None = None,
    loss: Callable[[], Any] = crossentropy,
    **options: Any,
) -> keras.Model:
    """Builds and compiles a model in the scope; the default optimizer is SGD with a learning rate of 0.5."""
    with context.scope():
        model = build()
        model.compile(optimizer() if optimizer else keras.optimizers.SGD(0.5), loss(), **options)
        # Keras traces a step twice if its variables appear in the first; the reference saves itself the second time.
        if context.strategy is None and model.built:
            build_optimizer(model)
    return model


def build_optimizer(model: keras.Model) -> None:
    """Makes the optimizer's variables, unless they are there: one that scales the loss would make them twice."""
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)


def fitted(
    context: Context, model: keras.Model, count: int = 2 * BATCH, epochs: int = 2, **options: Any
) -> dict[str, Any]:
    """Fits on `count` rows in order, with a global batch of 12, and returns the `outcome`."""
    features, labels = rows(count)
    history = model.fit(
        features, labels, **{"batch_size": BATCH, "epochs": epochs, "shuffle": False, "verbose": 0} | options
    )
    return outcome(context, model, history)


def outcome(
    context: Context, model: keras.Model, history: keras.callbacks.History | None = None
) -> dict[str, Any]:
    """Returns weights, optimizer state, history, and how far the replicas are from each other."""
    found: dict[str, Any] = weights(model)
    if model.optimizer is not None:
        found["exact/iterations"] = int(model.optimizer.iterations.numpy())
        for index, variable in enumerate(model.optimizer.variables):
            value = np.asarray(variable.numpy())
            kind = "slots" if value.dtype.kind == "f" else "exact"
            found[f"{kind}/{index} {variable.name}"] = value
    if history is not None:
        found |= {f"history/{key}": np.asarray(values) for key, values in history.history.items()}
    found["zero/replicas"] = replica_spread(context, model)
    return found


def weights(model: keras.Model, kind: str = "weights") -> dict[str, np.ndarray]:
    """Returns every weight by its number and path, so that a failing comparison names the layer."""
    values = zip(model.weights, model.get_weights(), strict=True)
    return {f"{kind}/{index} {variable.path}": value for index, (variable, value) in enumerate(values)}


def replica_spread(context: Context, model: keras.Model) -> float:
    """Returns the largest difference of any variable of the model or its optimizer between local replicas.

    Gradient accumulators are left out: each replica has its part of a sum, and `outcome` compares the sum.
    """
    strategy = context.strategy or tf.distribute.get_strategy()
    variables: list[Any] = [*model.variables, *(model.optimizer.variables if model.optimizer else [])]
    variables = [variable for variable in variables if "gradient_accumulator" not in variable.path]
    return max(
        (_spread(strategy.experimental_local_results(variable.value)) for variable in variables), default=0.0
    )


def _spread(copies: Sequence[Any]) -> float:
    first, *others = [np.asarray(copy) for copy in copies]
    if first.dtype.kind not in "biuf" or not others:
        return 0.0
    return max(
        float(np.max(np.abs(np.asarray(other, "f8") - np.asarray(first, "f8")), initial=0))
        for other in others
    )
