"""What is saved under one strategy continues under another as if nothing had changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist._internals.fit.state import StatePart, named_state
from tfdist.callbacks import EarlyStopping
from tfdist.data.rows import rows_dataset
from tfdist.parity import tiny
from tfdist.parity.context import Context
from tfdist.parity.registry import NARROW, WIDE, case


def _adam() -> keras.optimizers.Optimizer:
    return keras.optimizers.Adam(0.05)


def _alone(build: Callable[[], keras.Model]) -> keras.Model:
    """Builds and compiles outside every scope, as a plain Keras script does."""
    model = build()
    model.compile(_adam(), tiny.crossentropy(), metrics=["accuracy"])
    return model


def _fit(model: keras.Model) -> None:
    model.fit(*tiny.rows(25), batch_size=tiny.BATCH, epochs=2, shuffle=False, verbose=0)


@case("checkpoints", on=WIDE, stands_for_family=True)
def saved_here_continued_alone(context: Context) -> dict[str, Any]:
    """Train in the scope, save `.keras`, load and train on without a strategy; also `.weights.h5`."""
    model = tiny.compiled(context, tiny.mlp, _adam, metrics=["accuracy"])
    _fit(model)
    path, weights = context.folder / "model.keras", context.folder / "model.weights.h5"
    context.on_chief("saved", lambda: (model.save(path), model.save_weights(weights)))
    loaded = keras.models.load_model(path)
    before = tiny.outcome(Context(context.topology, None, context.process_index, context.folder), loaded)
    _fit(loaded)
    other = _alone(tiny.mlp)
    other.load_weights(weights)
    alone = Context(context.topology, None, context.process_index, context.folder)
    found = tiny.outcome(alone, loaded) | {f"{name} when loaded": value for name, value in before.items()}
    return found | tiny.weights(other, "weights/h5")


@case("checkpoints", on=WIDE)
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


@case("checkpoints")
def tensorflow_checkpoint(context: Context) -> dict[str, Any]:
    """`tf.train.Checkpoint` of model and optimizer, restored into a new model in the scope."""
    model = tiny.compiled(context, tiny.mlp, _adam, metrics=["accuracy"])
    _fit(model)
    checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    prefix = str(context.folder / "checkpoint")
    context.folder.mkdir(parents=True, exist_ok=True)
    if getattr(context.strategy, "saves_together", False):
        checkpoint.write(prefix)
        context.meet("saved")
    else:
        context.on_chief("saved", lambda: checkpoint.write(prefix))
    fresh = tiny.compiled(context, tiny.mlp, _adam, metrics=["accuracy"])
    with context.scope():
        tiny.build_optimizer(fresh)
        tf.train.Checkpoint(model=fresh, optimizer=fresh.optimizer).read(prefix).assert_consumed()
    _fit(fresh)
    return tiny.outcome(context, fresh)


@case("checkpoints", on=WIDE, stock_workers=True)
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
    found |= tiny.weights(best, "weights/best")
    pairs = zip(last.get_weights(), model.get_weights(), strict=True)
    return found | {"true/last": all(np.array_equal(a, b) for a, b in pairs)}


@case("checkpoints")
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


OPTIMIZERS = {
    "adam, scheduled": lambda: keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.05, 9)),
    "accumulating": lambda: keras.optimizers.SGD(0.5, momentum=0.9, gradient_accumulation_steps=3),
    "averaged": lambda: keras.optimizers.SGD(0.5, use_ema=True, ema_momentum=0.7, ema_overwrite_frequency=3),
    "loss scaling": lambda: keras.optimizers.LossScaleOptimizer(
        keras.optimizers.Adam(0.05), initial_scale=64.0, dynamic_growth_steps=3
    ),
}


def _read(parts: dict[str, StatePart]) -> list[Any]:
    """Returns the values of all parts but those of the metrics, which begin anew in every `fit`."""
    return [part.read() for name, part in parts.items() if not name.startswith("metrics/")]


def _write(parts: dict[str, StatePart], values: list[Any]) -> None:
    # The second model of a process has layers with other names, but in the same order.
    kept = [part for name, part in parts.items() if not name.startswith("metrics/")]
    for part, value in zip(kept, values, strict=True):
        part.write(value)


def _random() -> keras.Model:
    return tiny.mlp(
        lambda: keras.layers.BatchNormalization(synchronized=True), lambda: keras.layers.Dropout(0.5, seed=3)
    )


@case("resume", each=OPTIMIZERS, on=WIDE, every_item=NARROW)
def resumed_within_an_epoch(context: Context, name: str) -> dict[str, Any]:
    """State read after 4 of 9 batches, given to a new model that takes the other 5: as if never interrupted."""

    def build() -> keras.Model:
        return tiny.compiled(context, _random, OPTIMIZERS[name])

    batches = tf.data.Dataset.from_tensor_slices(tiny.rows(103)).batch(tiny.BATCH)
    whole, second = build(), build()
    values: list[Any] = []

    def read(batch: int, logs: Any = None) -> None:
        if batch == 3:
            values.extend(_read(named_state(whole)))

    with context.random_by_row():
        whole.fit(batches, verbose=0, callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=read)])
        with context.scope():
            tiny.build_optimizer(second)
        _write(named_state(second), values)
        second.fit(batches.skip(4), verbose=0)
    found = tiny.outcome(context, second)
    # Accumulated gradients are divided anew over the replicas, and that rounds. So these are compared with one device
    # only.
    if name != "accumulating":
        pairs = zip(_read(named_state(second)), _read(named_state(whole)), strict=True)
        found["zero/state"] = max(
            np.max(np.abs(np.asarray(one, "f8") - np.asarray(other, "f8")), initial=0) for one, other in pairs
        )
    return found


@case("resume", on=WIDE, stands_for_family=True)
def resumed_between_epochs(context: Context) -> dict[str, Any]:
    """The state after 2 of 4 shuffled epochs with a patience, given to a new model, data and callback."""

    def build() -> tuple[keras.Model, tf.data.Dataset, EarlyStopping]:
        features, labels = tiny.rows(31)
        data = rows_dataset(
            lambda rows: (features[rows], labels[rows]),
            31,
            global_batch_size=tiny.BATCH,
            shuffle=True,
            seed=4,
        )
        model = tiny.compiled(context, _random, OPTIMIZERS["adam, scheduled"])
        tiny.build_optimizer(model)
        return model, data, EarlyStopping("loss", patience=1, min_delta=10.0)

    def trained(model: keras.Model, data: Any, stopping: EarlyStopping, first: int, last: int) -> None:
        model.fit(data, initial_epoch=first, epochs=last, verbose=0, callbacks=[stopping])

    with context.random_by_row():
        with context.scope():
            first, second = build(), build()
        trained(*first, 0, 1)
        values = _read(named_state(first[0], [first[2]], first[1]))
        _write(named_state(second[0], [second[2]], second[1]), values)
        trained(*second, 1, 4)
    # The patience of one epoch began in the first run, so that the second run ends after its first epoch.
    return tiny.outcome(context, second[0]) | {"exact/last epoch": second[0].history.epoch[-1]}
