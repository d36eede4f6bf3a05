"""`CSVLogger` for several workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras

from tfdist.files import cannot_write
from tfdist.process import is_chief


class CSVLogger(keras.callbacks.CSVLogger):
    """`keras.callbacks.CSVLogger`, written by the chief alone: the logs are the same on every worker."""

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        if not is_chief():
            return
        try:
            if "://" not in self.filename:
                Path(self.filename).parent.mkdir(parents=True, exist_ok=True)
            super().on_train_begin(logs)
        except OSError as error:
            raise cannot_write(self.filename, error) from error

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if is_chief():
            super().on_epoch_end(epoch, logs)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        if is_chief():
            super().on_train_end(logs)
