"""`EarlyStopping` whose counters can be saved."""

from __future__ import annotations

from typing import Any

import keras

from tfdist.process import is_chief


class EarlyStopping(keras.callbacks.EarlyStopping):
    """`keras.callbacks.EarlyStopping`, which speaks on the chief alone and whose state can be saved.

    Every worker sees the same logs, so all decide alike. The best weights that `restore_best_weights` keeps
    in memory are no part of the state: save them with `ModelCheckpoint(save_best_only=True)`.
    """

    _restored: dict[str, Any] | None = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        super().on_train_begin(logs)  # starts from nothing, so a restored state comes after it
        if not is_chief():
            self.verbose = 0
        if self._restored is not None:
            for name, value in self._restored.items():
                setattr(self, name, value)
            self._restored = None

    def get_state(self) -> dict[str, Any]:
        """State that a resumed run needs, ready for JSON."""
        return {
            "best": None if self.best is None else float(self.best),
            "best_epoch": getattr(self, "best_epoch", 0),
            "wait": self.wait,
            "stopped_epoch": self.stopped_epoch,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes back what `get_state` gave; it holds from the next `fit` on."""
        self._restored = {name: state[name] for name in ("best", "best_epoch", "wait", "stopped_epoch")}
