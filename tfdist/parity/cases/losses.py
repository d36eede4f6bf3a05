"""O3: sample weights, class weights, masks and every reduction divide by the global denominator."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from tfdist.parity import tiny
from tfdist.parity.context import Context
from tfdist.parity.registry import NARROW, case

REDUCTIONS = {
    "sum": "sum",
    "sum_over_batch_size": "sum_over_batch_size",
    "mean": "mean",
    "mean_with_sample_weight": "mean_with_sample_weight",
    "none": None,
}


def sample_weights(count: int) -> np.ndarray:
    """Returns weights of shape (count,) from 0 to 4 that grow over the rows, some of them exactly 0."""
    weights = np.linspace(0, 4, count).astype("float32")
    weights[::5] = 0
    return weights


@case("O3", each=REDUCTIONS, meshes=True)
def reduction(context: Context, name: str) -> dict[str, Any]:
    """Loss reduction with sample weights, uneven batches."""
    model = tiny.compiled(
        context,
        optimizer=lambda: keras.optimizers.SGD(0.1),
        loss=lambda: tiny.crossentropy(reduction=REDUCTIONS[name]),
        weighted_metrics=["accuracy"],
    )
    return tiny.fitted(context, model, 31, sample_weight=sample_weights(31))


@case("O3", each=["sum", "sum_over_batch_size", "none"], layouts=NARROW)
def reduction_unweighted(context: Context, name: str) -> dict[str, Any]:
    """Loss reduction without weights, uneven batches."""
    model = tiny.compiled(
        context,
        optimizer=lambda: keras.optimizers.SGD(0.1),
        loss=lambda: tiny.crossentropy(reduction=REDUCTIONS[name]),
    )
    return tiny.fitted(context, model, 31)


@case("O3", meshes=True)
def class_weight(context: Context) -> dict[str, Any]:
    """Class weights, uneven batches."""
    return tiny.fitted(context, tiny.compiled(context), 31, class_weight={0: 1.0, 1: 5.0, 2: 0.5})


@case("O3", layouts=NARROW)
def replica_without_weight(context: Context) -> dict[str, Any]:
    """Every sample weight of the second half of each batch is zero."""
    weights = np.tile(np.repeat([1.0, 0.0], tiny.BATCH // 2), 2).astype("float32")
    model = tiny.compiled(context, loss=lambda: tiny.crossentropy(reduction="mean_with_sample_weight"))
    return tiny.fitted(context, model, sample_weight=weights)


def sequences(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns ids of shape (count, 5), padded with 0 to lengths that grow over the rows, and labels alike."""
    generator = np.random.default_rng(0)
    ids = generator.integers(1, 7, (count, 5)).astype("int32")
    ids[np.arange(5)[None, :] >= (1 + np.arange(count)[:, None] * 5 // count)] = 0
    return ids, generator.integers(0, tiny.CLASSES, (count, 5))


def tagger(mask_zero: bool) -> keras.Model:
    """Embedding and a dense layer over every step: (batch, 5) ids to (batch, 5, 3) logits."""
    layers = [keras.layers.Input((5,), dtype="int32"), keras.layers.Embedding(7, 4, mask_zero=mask_zero)]
    return tiny.fix_weights(keras.Sequential([*layers, keras.layers.Dense(tiny.CLASSES)]))


@case("O3", each=["sum_over_batch_size", "mean_with_sample_weight", "sum", "none"], meshes=True)
def masked(context: Context, name: str) -> dict[str, Any]:
    """Padding mask with very different counts of valid steps, uneven batches."""
    model = tiny.compiled(
        context,
        lambda: tagger(mask_zero=True),
        optimizer=lambda: keras.optimizers.SGD(0.1),
        loss=lambda: tiny.crossentropy(reduction=REDUCTIONS[name]),
        metrics=["accuracy"],
    )
    ids, labels = sequences(31)
    history = model.fit(ids, labels, batch_size=tiny.BATCH, epochs=2, shuffle=False, verbose=0)
    return tiny.outcome(context, model, history)


@case("O3", each=["sum_over_batch_size", "mean_with_sample_weight"], meshes=True)
def timestep_weights(context: Context, name: str) -> dict[str, Any]:
    """A weight for every step of every row, uneven batches."""
    model = tiny.compiled(
        context, lambda: tagger(mask_zero=False), loss=lambda: tiny.crossentropy(reduction=REDUCTIONS[name])
    )
    ids, labels = sequences(31)
    weights = np.outer(sample_weights(31), np.arange(5)).astype("float32")
    history = model.fit(
        ids, labels, sample_weight=weights, batch_size=tiny.BATCH, epochs=2, shuffle=False, verbose=0
    )
    return tiny.outcome(context, model, history)
