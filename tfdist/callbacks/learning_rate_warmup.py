"""Linear warm-up of a constant learning rate."""

from __future__ import annotations

from typing import Any

import keras

from tfdist._internals.contract import row_shards_of
from tfdist.errors import ConfigError, UnsupportedError
from tfdist.measure.learning_rate import current_learning_rate, has_schedule


class LearningRateWarmup(keras.callbacks.Callback):
    """Raises the learning rate linearly to the optimizer's own over the first epochs or steps.

    After `t` of `N` steps the rate is `target * (f + (1 - f) * t / N)`. With `scale_by_replicas` the target is the
    optimizer's rate times the number of replicas (on a mesh, the size of its batch axis), and `f` is one over that
    number. The warm-up then goes from the one-device rate to the scaled rate, as Horovod's callback does (Goyal et al.,
    2017). Steps are counted by `optimizer.iterations`, so that a second or resumed `fit` goes on where the first one
    stopped. After the warm-up the callback no longer sets the rate.

    Args:
        num_epochs: Length of the warm-up in epochs. Give this or `num_steps`.
        num_steps: Length of the warm-up in training steps.
        initial_fraction: The fraction `f` of the target with which the first step is made. By default it is one over
            the number of replicas with `scale_by_replicas`, and 0.1 without.
        scale_by_replicas: Whether the optimizer's rate is meant for one replica.

    Raises:
        ConfigError: Not exactly one of `num_epochs` and `num_steps` is a positive number, or the fraction is
            not within 0 and 1.
        UnsupportedError: When `fit` begins: the optimizer has a schedule, or the length of an epoch is not known.
    """

    def __init__(
        self,
        num_epochs: float | None = None,
        *,
        num_steps: int | None = None,
        initial_fraction: float | None = None,
        scale_by_replicas: bool = False,
    ) -> None:
        super().__init__()
        given = [length for length in (num_epochs, num_steps) if length is not None]
        if len(given) != 1 or given[0] <= 0:
            raise ConfigError(
                f"The warm-up has num_epochs={num_epochs} and num_steps={num_steps}; give exactly one, "
                "more than 0. For example LearningRateWarmup(num_epochs=5)."
            )
        if initial_fraction is not None and not 0 <= initial_fraction <= 1:
            raise ConfigError(
                f"initial_fraction={initial_fraction} is not a share of the target; allowed: 0 to 1. "
                "Give 0.1 to begin with a tenth of the learning rate."
            )
        self.num_epochs = num_epochs
        self.num_steps = num_steps
        self.initial_fraction = initial_fraction
        self.scale_by_replicas = scale_by_replicas
        self._target: float | None = None

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        if model.optimizer is None:  # `evaluate` of a model without one
            return
        if has_schedule(model.optimizer):
            raise UnsupportedError(
                "LearningRateWarmup sets the learning rate, but this optimizer takes it from a schedule. "
                "Give the optimizer a number, or put the warm-up into the schedule: "
                "keras.optimizers.schedules.CosineDecay(..., warmup_target=..., warmup_steps=...)."
            )
        if self._target is None:  # taken here, before a backup restores a rate from the middle of the warm-up
            scale = row_shards_of(model.distribute_strategy) if self.scale_by_replicas else 1
            self._target = current_learning_rate(model.optimizer) * scale

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._first_step = int(keras.ops.convert_to_numpy(self.model.optimizer.iterations))
        self._is_over = self._first_step > self._length()

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if self._is_over:
            return
        length, fraction = self._length(), self._fraction()
        done = min((self._first_step + batch) / length, 1.0)
        self._is_over = done == 1.0
        assert self._target is not None  # set_model has set it
        self.model.optimizer.learning_rate = self._target * (fraction + (1 - fraction) * done)

    def get_state(self) -> dict[str, Any]:
        """Returns the state that a resumed run needs, ready for JSON."""
        return {"target": self._target}

    def set_state(self, state: dict[str, Any]) -> None:
        """Sets a state that `get_state` has returned."""
        self._target = state["target"]

    def _length(self) -> float:
        if self.num_steps is not None:
            return self.num_steps
        if self.params["steps"] is None:
            raise UnsupportedError(
                f"A warm-up of num_epochs={self.num_epochs} needs the length of an epoch, which this data "
                "does not tell. Give fit steps_per_epoch, or the warm-up num_steps."
            )
        return self.num_epochs * self.params["steps"]

    def _fraction(self) -> float:
        if self.initial_fraction is not None:
            return self.initial_fraction
        return 1 / row_shards_of(self.model.distribute_strategy) if self.scale_by_replicas else 0.1
