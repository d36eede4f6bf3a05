"""`ModelCheckpoint` for several workers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

from tfdist._internals.processes.coordination import barrier
from tfdist.callbacks.chief_writer import AtomicModel
from tfdist.files import cannot_write
from tfdist.process import is_chief


class ModelCheckpoint(keras.callbacks.ModelCheckpoint):
    """`keras.callbacks.ModelCheckpoint` that writes on the chief alone, and whole files only.

    Give it to `fit` on every worker. All workers follow the monitored value. When `fit` ends, they wait until the last
    file is whole, so that each of them may load it.
    """

    def set_model(self, model: keras.Model) -> None:
        super().set_model(AtomicModel(model))
        self.async_safe = self.save_freq == "epoch"  # if true, Keras need not wait for the logs of each step
        if not is_chief():
            self.verbose = 0

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        with self._folder_errors():
            super().on_train_batch_end(batch, logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        with self._folder_errors():
            super().on_epoch_end(epoch, logs)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        super().on_train_end(logs)
        barrier("model_checkpoint")

    def get_state(self) -> dict[str, Any]:
        """Returns the state that a resumed run needs, ready for JSON."""
        return {"best": None if self.best is None else float(self.best)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Sets a state that `get_state` has returned, so that a worse model does not replace the best one."""
        self.best = state["best"]

    @contextmanager
    def _folder_errors(self) -> Iterator[None]:
        """Explains the errors of making the folder, which Keras does before it saves, as those of saving."""
        try:
            yield
        except OSError as error:
            raise cannot_write(self.filepath, error) from error
