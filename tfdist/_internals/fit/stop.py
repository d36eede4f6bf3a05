"""`stop_training` takes hold in all processes after the same step, which is that of one device."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from keras import callbacks as keras_callbacks

from tfdist._internals.contract import distribution_of
from tfdist._internals.fit.agreement.meetings import after_first_step, end_epoch
from tfdist._internals.fit.run import run_of

_BATCH_HOOKS = ("on_batch_begin", "on_batch_end", "on_train_batch_begin", "on_train_batch_end")
# Keras's callbacks that may stop the training after a batch; the others do not, nor do those of tfdist.
_MAY_STOP = (keras_callbacks.TerminateOnNaN, keras_callbacks.LambdaCallback)


def may_stop_in_an_epoch(callbacks: Iterable[Any]) -> bool:
    """Returns whether one of the callbacks may stop the training after a batch."""
    for callback in callbacks:
        kind = type(callback)
        is_known = kind.__module__.partition(".")[0] in ("keras", "tfdist") and kind not in _MAY_STOP
        if not is_known and any(_is_own(callback, hook) for hook in _BATCH_HOOKS):
            return True
    return False


def _is_own(callback: Any, hook: str) -> bool:
    # LambdaCallback sets its hooks on the object.
    return hook in vars(callback) or getattr(type(callback), hook) is not getattr(
        keras_callbacks.Callback, hook
    )


class StopTogether(keras_callbacks.Callback):
    """Stands last in the list of callbacks, so that it sees what the others have decided.

    If a callback of any process may stop after a batch, all processes vote after each. Otherwise a wish to stop comes
    from elsewhere, such as a signal. It goes along with the next step's gradients, at no cost. At the end of an epoch
    it goes through the coordination service.

    Args:
        votes: Whether the processes vote after each batch; the same in all of them.
    """

    def __init__(self, votes: bool) -> None:
        super().__init__()
        self._votes = votes

    def on_train_begin(self, logs: Any = None) -> None:
        run = run_of(self.model)
        run.wants_stop, run.heard = False, 0.0
        self._has_stepped = False

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if not self._has_stepped:
            self._has_stepped = True
            after_first_step()
        run = run_of(self.model)
        agreed = run.votes() > 0
        distribution = distribution_of(self.model.distribute_strategy)
        if self._votes and distribution is not None:
            self.model.stop_training = distribution.any_process(self.model.stop_training)
            return
        run.wants_stop = run.wants_stop or self.model.stop_training
        self.model.stop_training = agreed

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        wants = bool(self.model.stop_training or run_of(self.model).wants_stop)
        self.model.stop_training = end_epoch(self.model, wants, epoch)
