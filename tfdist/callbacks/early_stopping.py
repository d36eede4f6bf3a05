"""`EarlyStopping` whose counters can be saved."""

from __future__ import annotations

from typing import Any

import keras

from tfdist.process import is_chief


class EarlyStopping(keras.callbacks.EarlyStopping):
    """`keras.callbacks.EarlyStopping`, which prints on the chief alone and has a state that can be saved.

    Every worker sees the same logs, so all decide alike. The state does not have the best weights, which
    `restore_best_weights` keeps in memory. Save them with `ModelCheckpoint(save_best_only=True)`.
    """

    _restored: dict[str, Any] | None = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        super().on_train_begin(logs)  # it resets the counters, so a restored state must come after it
        if not is_chief():
            self.verbose = 0
        if self._restored is not None:
            for name, value in self._restored.items():
                setattr(self, name, value)
            self._restored = None

    def get_state(self) -> dict[str, Any]:
        """Returns the state that a resumed run needs, ready for JSON."""
        return {
            "best": None if self.best is None else float(self.best),
            "best_epoch": getattr(self, "best_epoch", 0),
            "wait": self.wait,
            "stopped_epoch": self.stopped_epoch,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Sets a state that `get_state` has returned; it holds from the next `fit` on."""
        self._restored = {name: state[name] for name in ("best", "best_epoch", "wait", "stopped_epoch")}
