"""Turns Keras's callbacks that write files into ones that are right with several workers."""

from __future__ import annotations

from typing import Any

import keras

from tfdist.callbacks.backup_and_restore import BackupAndRestore
from tfdist.callbacks.model_checkpoint import ModelCheckpoint
from tfdist.process import is_chief

# These would write the same on every worker, so the chief alone writes.
_CHIEF_ONLY = (keras.callbacks.TensorBoard, keras.callbacks.CSVLogger)


def chief_aware_callbacks(callbacks: list[Any]) -> list[Any]:
    """Returns the callbacks for this worker. Only stock callbacks that write files are changed or left out.

    A stock `ModelCheckpoint` becomes tfdist's and stays the same object, so that the script can read its `best` later.
    """
    adopted = []
    for callback in callbacks:
        if type(callback) in _CHIEF_ONLY and not is_chief():
            continue
        if type(callback) is keras.callbacks.ModelCheckpoint:
            callback.__class__ = ModelCheckpoint
        elif type(callback) is keras.callbacks.BackupAndRestore:
            callback = BackupAndRestore(callback.backup_dir, callback.save_freq, callback.delete_checkpoint)
        adopted.append(callback)
    return adopted
