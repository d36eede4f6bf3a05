"""`fit` for a number of steps, which may end in the middle of an epoch.

In Keras all epochs have the same number of steps. If a callback stopped an epoch earlier, the progress bar would show
steps that never ran. The callback would also come a step late under several workers, and some steps late with
`steps_per_execution`. So an epoch that is cut short is a `fit` of its own, on fewer batches, and the callbacks see both
as one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import keras
import tensorflow as tf

from tfdist.data.by_index import by_index_of
from tfdist.training.arithmetic import Steps


def fit_steps(
    model: keras.Model,
    dataset: tf.data.Dataset,
    steps: Steps,
    callbacks: Sequence[keras.callbacks.Callback],
    **options: Any,
) -> dict[str, list[float]]:
    """Trains for exactly `steps.total` steps, unless a callback stops earlier; returns the history.

    Args:
        model: The compiled model.
        dataset: Batches of an epoch, made by `tfdist.data`.
        steps: How many steps.
        callbacks: The callbacks of all epochs.
        **options: Other arguments of `fit`.

    Returns:
        The values of each epoch, by name, as in `History.history`.
    """
    options |= {"epochs": steps.num_epochs}
    rest = first_batches(dataset, steps.in_last_epoch)
    if steps.num_epochs in (1, steps.num_whole_epochs):
        fit = model.fit(rest if steps.num_epochs == 1 else dataset, callbacks=[*callbacks], **options)
        return _history(fit)
    pause = _Pause(steps.num_whole_epochs)
    with _without("on_train_end", callbacks):
        history = _history(model.fit(dataset, callbacks=[*callbacks, pause], **options))
    # If a callback has stopped the training, this second fit has no epoch left and only calls the last hooks.
    first_epoch = steps.num_whole_epochs if pause.is_reached else steps.num_epochs
    with _without("on_train_begin", callbacks):
        last = _history(model.fit(rest, callbacks=[*callbacks], initial_epoch=first_epoch, **options))
    return {name: values + last.get(name, []) for name, values in history.items()}


def first_batches(dataset: tf.data.Dataset, count: int) -> tf.data.Dataset:
    """Returns the first `count` batches of each epoch; they are still known by the numbers of their rows."""
    source = by_index_of(dataset)
    if source is None:
        return dataset.take(count)
    return replace(
        source,
        indices_of=lambda epoch: source.indices_of(epoch).take(count),
        num_batches=min(count, source.num_batches),
    ).dataset()


class _Pause(keras.callbacks.Callback):
    """Ends `fit` after so many epochs, unless another callback has ended it. Stands last in the list of callbacks."""

    def __init__(self, num_epochs: int) -> None:
        super().__init__()
        self._num_epochs = num_epochs
        self.is_reached = False

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if epoch + 1 == self._num_epochs and not self.model.stop_training:
            self.is_reached = self.model.stop_training = True


@contextlib.contextmanager
def _without(hook: str, callbacks: Sequence[keras.callbacks.Callback]) -> Iterator[None]:
    """Keeps Keras from calling the hook of these callbacks."""
    for callback in callbacks:
        setattr(callback, hook, lambda logs=None: None)
    try:
        yield
    finally:
        for callback in callbacks:
            delattr(callback, hook)


def _history(fit: keras.callbacks.History) -> dict[str, list[float]]:
    return {name: [float(value) for value in values] for name, values in fit.history.items()}
