"""`stop_training` takes hold in all processes after the same step."""

from __future__ import annotations

from typing import Any

from keras import callbacks as keras_callbacks

from tfdist._internals.fit.run import run_of
from tfdist._internals.processes.coordination import all_gather_json


class StopTogether(keras_callbacks.Callback):
    """Stands last in the list of callbacks, so that it sees what the others have decided.

    A process that wants to stop tells the others with the next step's gradients, or, at the end of an epoch, through
    the coordination service.
    """

    def on_train_begin(self, logs: Any = None) -> None:
        run = run_of(self.model)
        run.wants_stop, run.stop_votes = False, 0.0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        run = run_of(self.model)
        agreed = float(run.stop_votes) > 0
        run.wants_stop = run.wants_stop or self.model.stop_training
        self.model.stop_training = agreed

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        wants = bool(self.model.stop_training or run_of(self.model).wants_stop)
        self.model.stop_training = any(all_gather_json("stop at the end of an epoch", wants))
