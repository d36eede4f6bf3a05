"""O21: what is saved under one strategy continues under another as if nothing had changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist.parity import tiny
from tfdist.parity.context import Context
from tfdist.parity.registry import WIDE, case


def _adam() -> keras.optimizers.Optimizer:
    return keras.optimizers.Adam(0.05)


def _alone(build: Callable[[], keras.Model]) -> keras.Model:
    """Builds and compiles outside every scope, as a plain Keras script does."""
    model = build()
    model.compile(_adam(), tiny.crossentropy(), metrics=["accuracy"])
    return model


def _fit(model: keras.Model) -> None:
    model.fit(*tiny.rows(25), batch_size=tiny.BATCH, epochs=2, shuffle=False, verbose=0)


@case("O21", layouts=WIDE, meshes=True)
def saved_here_continued_alone(context: Context) -> dict[str, Any]:
    """Train in the scope, save `.keras`, load and train on without a strategy; also `.weights.h5`."""
    model = tiny.compiled(context, tiny.mlp, _adam, metrics=["accuracy"])
    _fit(model)
    path, weights = context.folder / "model.keras", context.folder / "model.weights.h5"
    context.on_chief("saved", lambda: (model.save(path), model.save_weights(weights)))
    loaded = keras.models.load_model(path)
    before = tiny.outcome(Context(context.layout, None, context.process_index, context.folder), loaded)
    _fit(loaded)
    other = _alone(tiny.mlp)
    other.load_weights(weights)
    alone = Context(context.layout, None, context.process_index, context.folder)
    found = tiny.outcome(alone, loaded) | {f"{name} when loaded": value for name, value in before.items()}
    return found | {f"weights/h5 {i}": value for i, value in enumerate(other.get_weights())}


@case("O21", layouts=WIDE, meshes=True)
def saved_alone_continued_here(context: Context) -> dict[str, Any]:
    """Train without a strategy, save `.keras`, load and train on in the scope."""
    path = context.folder / "model.keras"
    alone = _alone(tiny.mlp)
    _fit(alone)
    context.on_chief("saved", lambda: alone.save(path))
    with context.scope():
        model = keras.models.load_model(path)
    before = tiny.outcome(context, model)
    _fit(model)
    return tiny.outcome(context, model) | {f"{name} when loaded": value for name, value in before.items()}


@case("O21")
def tensorflow_checkpoint(context: Context) -> dict[str, Any]:
    """`tf.train.Checkpoint` of model and optimizer, restored into a new model in the scope."""
    model = tiny.compiled(context, tiny.mlp, _adam, metrics=["accuracy"])
    _fit(model)
    prefix = str(context.folder / "checkpoint")
    context.on_chief(
        "saved", lambda: tf.train.Checkpoint(model=model, optimizer=model.optimizer).write(prefix)
    )
    fresh = tiny.compiled(context, tiny.mlp, _adam, metrics=["accuracy"])
    with context.scope():
        fresh.optimizer.build(fresh.trainable_variables)
        tf.train.Checkpoint(model=fresh, optimizer=fresh.optimizer).read(prefix).assert_consumed()
    _fit(fresh)
    return tiny.outcome(context, fresh)


@case("O21", layouts=WIDE, stock_workers=True)
def checkpoint_callbacks(context: Context) -> dict[str, Any]:
    """ModelCheckpoint after every batch and epoch and BackupAndRestore, all processes with the same paths."""
    folder = context.folder
    folder.mkdir(parents=True, exist_ok=True)
    model = tiny.compiled(context, tiny.mlp, _adam, metrics=["accuracy"])
    features, labels = tiny.rows(25)
    found = tiny.fitted(
        context,
        model,
        25,
        epochs=3,
        validation_data=(features, labels),
        callbacks=[
            keras.callbacks.ModelCheckpoint(folder / "best.keras", monitor="val_loss", save_best_only=True),
            keras.callbacks.ModelCheckpoint(folder / "last.weights.h5", save_weights_only=True, save_freq=1),
            keras.callbacks.BackupAndRestore(folder / "backup"),
        ],
    )
    context.meet("fitted")
    best = keras.models.load_model(folder / "best.keras")
    last = _alone(tiny.mlp)
    last.load_weights(folder / "last.weights.h5")
    found |= {f"weights/best {i}": value for i, value in enumerate(best.get_weights())}
    pairs = zip(last.get_weights(), model.get_weights(), strict=True)
    return found | {"true/last": all(np.array_equal(a, b) for a, b in pairs)}


@case("O21")
def restored_backup(context: Context) -> dict[str, Any]:
    """A new model continues after the second of four epochs from what BackupAndRestore left."""
    folder = context.folder / "backup"
    context.folder.mkdir(parents=True, exist_ok=True)
    first = tiny.compiled(context, tiny.mlp, _adam)
    backup = keras.callbacks.BackupAndRestore(folder, delete_checkpoint=False)
    tiny.fitted(context, first, 25, epochs=2, callbacks=[backup])
    context.meet("first half")
    second = tiny.compiled(context, tiny.mlp, _adam)
    return tiny.fitted(context, second, 25, epochs=4, callbacks=[keras.callbacks.BackupAndRestore(folder)])
