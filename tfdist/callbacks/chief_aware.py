"""Turns Keras's callbacks that write files into ones that are right with several workers."""

from __future__ import annotations

import shutil
import tempfile
from typing import Any

import keras

from tfdist._internals.contract import distribution_of
from tfdist.callbacks.backup_and_restore import BackupAndRestore
from tfdist.callbacks.model_checkpoint import ModelCheckpoint
from tfdist.process import is_chief

# These would write the same on every worker, so the chief alone writes.
_CHIEF_ONLY = (keras.callbacks.TensorBoard, keras.callbacks.CSVLogger)


class _ReadsAlong(keras.callbacks.TensorBoard):
    """Reads weights at the same times as the chief's `TensorBoard`, which lacks pieces of them; keeps no file."""

    def on_train_end(self, logs: Any = None) -> None:
        super().on_train_end(logs)
        shutil.rmtree(self.log_dir, ignore_errors=True)


def _reads_weights(callback: Any, model: Any) -> bool:
    distribution = distribution_of(model.distribute_strategy)
    shows_weights = type(callback) is keras.callbacks.TensorBoard and callback.histogram_freq
    return bool(shows_weights and distribution is not None and distribution.saves_together)


def chief_aware_callbacks(callbacks: list[Any], model: Any) -> list[Any]:
    """Returns the callbacks for this worker. Only stock callbacks that write files are changed or left out.

    A stock `ModelCheckpoint` becomes tfdist's and stays the same object, so that the script can read its `best` later.
    """
    adopted = []
    for callback in callbacks:
        if not is_chief() and _reads_weights(callback, model):
            callback.__class__ = _ReadsAlong
            callback.log_dir = tempfile.mkdtemp()
        elif type(callback) in _CHIEF_ONLY and not is_chief():
            continue
        if type(callback) is keras.callbacks.ModelCheckpoint:
            callback.__class__ = ModelCheckpoint
        elif type(callback) is keras.callbacks.BackupAndRestore:
            callback = BackupAndRestore(callback.backup_dir, callback.save_freq, callback.delete_checkpoint)
        adopted.append(callback)
    return adopted
