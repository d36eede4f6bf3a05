"""O6 to O9: clipping, accumulation, loss scaling and averaging act on the global gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tfdist.parity import tiny
from tfdist.parity.context import Context
from tfdist.parity.registry import WIDE, case

CLIPPINGS = {"clipnorm": 0.05, "clipvalue": 0.02, "global_clipnorm": 0.05}


@case("O6", each=CLIPPINGS, quick=True, meshes=True)
def clipping(context: Context, name: str) -> dict[str, Any]:
    """A clipping bound that is active at every step."""
    model = tiny.compiled(context, tiny.mlp, lambda: keras.optimizers.SGD(0.5, **{name: CLIPPINGS[name]}))
    return tiny.fitted(context, model)


@case("O6", each=CLIPPINGS, meshes=True)
def clipping_uneven(context: Context, name: str) -> dict[str, Any]:
    """A clipping bound that is active at every step, uneven batches."""
    model = tiny.compiled(context, tiny.mlp, lambda: keras.optimizers.SGD(0.5, **{name: CLIPPINGS[name]}))
    return tiny.fitted(context, model, 25)


def _decaying() -> keras.optimizers.schedules.LearningRateSchedule:
    return keras.optimizers.schedules.ExponentialDecay(0.5, decay_steps=1, decay_rate=0.5)


ACCUMULATIONS: dict[str, Callable[[], keras.optimizers.Optimizer]] = {
    "sgd": lambda: keras.optimizers.SGD(0.5, gradient_accumulation_steps=2),
    "adam, 3 steps": lambda: keras.optimizers.Adam(0.05, gradient_accumulation_steps=3),
    "clipped": lambda: keras.optimizers.SGD(0.5, gradient_accumulation_steps=2, global_clipnorm=0.05),
    "scheduled": lambda: keras.optimizers.SGD(_decaying(), gradient_accumulation_steps=2),
    "loss scaling": lambda: keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.5, gradient_accumulation_steps=2)
    ),
}


@case("O7", each=ACCUMULATIONS)
def accumulation(context: Context, name: str) -> dict[str, Any]:
    """Gradient accumulation over 8 batches."""
    return tiny.fitted(context, tiny.compiled(context, tiny.mlp, ACCUMULATIONS[name]), 48)


@case("O7", each=ACCUMULATIONS, meshes=True)
def accumulation_uneven(context: Context, name: str) -> dict[str, Any]:
    """Gradient accumulation over 9 batches, uneven batches, an update over the end of an epoch."""
    return tiny.fitted(context, tiny.compiled(context, tiny.mlp, ACCUMULATIONS[name]), 29, epochs=3)


@case("O7", quick=True)
def accumulation_is_one_large_step(context: Context) -> dict[str, Any]:
    """Two batches of 6 accumulated are one batch of 12, and the steps count updates."""
    large = tiny.compiled(context, tiny.mlp)
    small = tiny.compiled(context, tiny.mlp, lambda: keras.optimizers.SGD(0.5, gradient_accumulation_steps=2))
    tiny.fitted(context, large, 36)
    found = tiny.fitted(context, small, 36, batch_size=tiny.BATCH // 2)
    pairs = zip(large.get_weights(), small.get_weights(), strict=True)
    return found | {"true/one large step": all(np.allclose(a, b, rtol=0, atol=1e-6) for a, b in pairs)}


@case("O8", layouts=WIDE, meshes=True)
def poisoned_row(context: Context) -> dict[str, Any]:
    """An infinite row on each replica in turn: the step is skipped everywhere and the scale halves once."""
    model = tiny.compiled(
        context, optimizer=lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))
    )
    features, labels = tiny.rows(tiny.BATCH)
    found: dict[str, Any] = {}
    for row in (0, 3, 6, 9):
        poisoned = features.copy()
        poisoned[row] = np.inf
        for name, inputs in (("poisoned", poisoned), ("clean", features)):
            model.fit(inputs, labels, batch_size=tiny.BATCH, shuffle=False, verbose=0)
            found |= {f"{key} {name} {row}": value for key, value in tiny.outcome(context, model).items()}
            found[f"exact/scale {name} {row}"] = float(model.optimizer.dynamic_scale.numpy())
    return found


@case("O8", meshes=True)
def growing_scale(context: Context) -> dict[str, Any]:
    """The loss scale doubles after the set number of finite steps."""
    model = tiny.compiled(
        context,
        tiny.mlp,
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.05), dynamic_growth_steps=2),
    )
    return tiny.fitted(context, model) | {"exact/scale": float(model.optimizer.dynamic_scale.numpy())}


AVERAGES: dict[str, dict[str, Any]] = {
    "plain": {"use_ema": True, "ema_momentum": 0.9},
    "overwriting": {"use_ema": True, "ema_momentum": 0.9, "ema_overwrite_frequency": 2},
}


@case("O9", each=AVERAGES, meshes=True)
def average(context: Context, name: str) -> dict[str, Any]:
    """Moving average of the weights."""
    return tiny.fitted(
        context, tiny.compiled(context, optimizer=lambda: keras.optimizers.SGD(0.5, **AVERAGES[name])), 60
    )
