"""`ModelCheckpoint` for several workers."""

from __future__ import annotations

from typing import Any

import keras

from tfdist._internals.coordination import barrier
from tfdist.callbacks.atomic_save import AtomicModel
from tfdist.runtime.process import is_chief


class ModelCheckpoint(keras.callbacks.ModelCheckpoint):
    """`keras.callbacks.ModelCheckpoint`, written by the chief alone and never half.

    Give it to `fit` on every worker. All of them follow the monitored value; when `fit` ends, they wait until
    the last file is whole, so that any of them may load it.
    """

    def set_model(self, model: keras.Model) -> None:
        super().set_model(AtomicModel(model))
        if not is_chief():
            self.verbose = 0

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        super().on_train_end(logs)
        barrier("model_checkpoint")

    def get_state(self) -> dict[str, Any]:
        """State that a resumed run needs, ready for JSON."""
        return {"best": None if self.best is None else float(self.best)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes back what `get_state` gave: a worse model then does not replace the best one."""
        self.best = state["best"]
