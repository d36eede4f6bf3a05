"""Sample weights, class weights, masks and every reduction divide by the global denominator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tfdist.parity import tiny
from tfdist.parity.context import Context
from tfdist.parity.registry import NARROW, case

REDUCTIONS = ("sum", "sum_over_batch_size", "mean", "mean_with_sample_weight")


def sample_weights(count: int) -> np.ndarray:
    """Returns weights of shape (count,) from 0 to 4 that grow over the rows, some of them exactly 0."""
    weights = np.linspace(0, 4, count).astype("float32")
    weights[::5] = 0
    return weights


def sequences(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns ids of shape (count, 5), padded with 0 to lengths that grow over the rows, and labels alike."""
    generator = np.random.default_rng(0)
    ids = generator.integers(1, 7, (count, 5)).astype("int32")
    ids[np.arange(5)[None, :] >= (1 + np.arange(count)[:, None] * 5 // count)] = 0
    return ids, generator.integers(0, tiny.CLASSES, (count, 5))


def tagger(*, mask_zero: bool) -> keras.Model:
    """Embedding and a dense layer over every step: (batch, 5) ids to (batch, 5, 3) logits."""
    layers = [keras.layers.Input((5,), dtype="int32"), keras.layers.Embedding(7, 4, mask_zero=mask_zero)]
    return tiny.fix_weights(keras.Sequential([*layers, keras.layers.Dense(tiny.CLASSES)]))


def _each_reduction(
    context: Context,
    build: Callable[[], keras.Model],
    data: tuple[np.ndarray, np.ndarray],
    weights: np.ndarray | None = None,
    **metrics: list[str],
) -> dict[str, Any]:
    """Trains a branch for each reduction, with a loss of its own, side by side in one model."""

    def build_all() -> keras.Model:
        inputs = keras.Input(data[0].shape[1:], dtype=data[0].dtype)
        models = {name: build() for name in REDUCTIONS}
        for name, model in models.items():
            model.name = name
        return keras.Model(inputs, {name: model(inputs) for name, model in models.items()})

    model = tiny.compiled(
        context,
        build_all,
        optimizer=lambda: keras.optimizers.SGD(0.1),
        loss=lambda: {name: tiny.crossentropy(reduction=name) for name in REDUCTIONS},
        **{key: dict.fromkeys(REDUCTIONS, value) for key, value in metrics.items()},
    )
    history = model.fit(
        data[0],
        dict.fromkeys(REDUCTIONS, data[1]),
        sample_weight=None if weights is None else dict.fromkeys(REDUCTIONS, weights),
        batch_size=tiny.BATCH,
        epochs=2,
        shuffle=False,
        verbose=0,
    )
    return tiny.outcome(context, model, history)


@case("losses", stands_for_family=True)
def reductions(context: Context) -> dict[str, Any]:
    """Each reduction of a loss with sample weights, uneven batches."""
    return _each_reduction(
        context, tiny.dense, tiny.rows(31), sample_weights(31), weighted_metrics=["accuracy"]
    )


@case("losses")
def reductions_unweighted(context: Context) -> dict[str, Any]:
    """Each reduction of a loss without weights, uneven batches."""
    return _each_reduction(context, tiny.dense, tiny.rows(31))


@case("losses", on=("mirrored_2", "workers_2x1", "mesh_2x2"))
def masked(context: Context) -> dict[str, Any]:
    """Each reduction under a padding mask with very different counts of valid steps, uneven batches."""
    return _each_reduction(context, lambda: tagger(mask_zero=True), sequences(31), metrics=["accuracy"])


@case("losses")
def timestep_weights(context: Context) -> dict[str, Any]:
    """A weight for every step of every row, uneven batches."""
    # Small, so that the sum of them all takes steps after which rounding is not magnified.
    weights = np.outer(sample_weights(31), np.arange(5)).astype("float32") / 10
    return _each_reduction(context, lambda: tagger(mask_zero=False), sequences(31), weights)


@case("losses", each=["unweighted", "weighted", "masked"], every_item=NARROW)
def no_reduction(context: Context, kind: str) -> dict[str, Any]:
    """A loss that is not reduced, uneven batches."""
    model = tiny.compiled(
        context,
        (lambda: tagger(mask_zero=True)) if kind == "masked" else tiny.dense,
        optimizer=lambda: keras.optimizers.SGD(0.1),
        loss=lambda: tiny.crossentropy(reduction=None),
        weighted_metrics=["accuracy"],
    )
    features, labels = sequences(31) if kind == "masked" else tiny.rows(31)
    weights = sample_weights(31) if kind == "weighted" else None
    history = model.fit(
        features, labels, sample_weight=weights, batch_size=tiny.BATCH, epochs=2, shuffle=False, verbose=0
    )
    return tiny.outcome(context, model, history)


@case("losses")
def class_weight(context: Context) -> dict[str, Any]:
    """Class weights, uneven batches."""
    return tiny.fitted(context, tiny.compiled(context), 31, class_weight={0: 1.0, 1: 5.0, 2: 0.5})


@case("losses")
def replica_without_weight(context: Context) -> dict[str, Any]:
    """Every sample weight of the second half of each batch is zero."""
    weights = np.tile(np.repeat([1.0, 0.0], tiny.BATCH // 2), 2).astype("float32")
    model = tiny.compiled(context, loss=lambda: tiny.crossentropy(reduction="mean_with_sample_weight"))
    return tiny.fitted(context, model, sample_weight=weights)
