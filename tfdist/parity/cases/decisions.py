"""Callbacks see the same logs in every process, and what one process decides, all do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tfdist.parity import tiny
from tfdist.parity.context import Context
from tfdist.parity.registry import MESH, NARROW, WIDE, case

CALLBACKS: dict[str, Callable[[], keras.callbacks.Callback]] = {
    "plateau": lambda: keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.1, patience=1, min_delta=0.1),
    "scheduler": lambda: keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.5),
    "weights swap": lambda: keras.callbacks.SwapEMAWeights(swap_on_epoch=True),
    "early stopping": lambda: keras.callbacks.EarlyStopping(
        "val_loss", patience=1, min_delta=0.05, restore_best_weights=True
    ),
}


@case("callbacks", each=CALLBACKS, every_item=NARROW, stands_for_family=True)
def callback(context: Context, name: str) -> dict[str, Any]:
    """Decisions of Keras's own callbacks over six epochs with validation, uneven batches."""
    optimizer = keras.optimizers.SGD if name != "weights swap" else _averaging
    model = tiny.compiled(context, tiny.mlp, lambda: optimizer(learning_rate=1.0), metrics=["accuracy"])
    return tiny.fitted(
        context, model, 31, epochs=6, validation_data=tiny.rows(17, seed=5), callbacks=[CALLBACKS[name]()]
    )


def _averaging(learning_rate: float) -> keras.optimizers.Optimizer:
    return keras.optimizers.SGD(learning_rate, use_ema=True, ema_momentum=0.9)


@case("callbacks", on=WIDE, limit_s=30)
def one_stops_at_epoch_end(context: Context) -> dict[str, Any]:
    """The last process alone sets stop_training at the end of the second of five epochs."""

    def stop(epoch: int, logs: dict[str, float] | None = None) -> None:
        if epoch == 1 and context.process_index == context.num_processes - 1:
            model.stop_training = True

    model = tiny.compiled(context, metrics=["accuracy"])
    return tiny.fitted(
        context, model, epochs=5, callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=stop)]
    )


@case("callbacks", on=(*WIDE, MESH, "mesh_workers_2x2"), limit_s=30)
def one_stops_in_an_epoch(context: Context) -> dict[str, Any]:
    """The last process alone sets stop_training after the second of five batches: all stop there, as one device."""

    def stop(batch: int, logs: dict[str, float] | None = None) -> None:
        if batch == 1 and context.process_index == context.num_processes - 1:
            model.stop_training = True

    model = tiny.compiled(context)
    callback = keras.callbacks.LambdaCallback(on_train_batch_end=stop)
    return tiny.fitted(context, model, 5 * tiny.BATCH, epochs=5, callbacks=[callback])


@case("callbacks")
def not_a_number(context: Context) -> dict[str, Any]:
    """TerminateOnNaN when only the last row of a batch is infinite."""
    features, labels = tiny.rows(2 * tiny.BATCH)
    features[-1] = np.inf
    model = tiny.compiled(context)
    history = model.fit(
        features,
        labels,
        batch_size=tiny.BATCH,
        epochs=4,
        shuffle=False,
        verbose=0,
        callbacks=[keras.callbacks.TerminateOnNaN()],
    )
    return {"exact/epochs": len(history.epoch), "exact/iterations": int(model.optimizer.iterations.numpy())}
