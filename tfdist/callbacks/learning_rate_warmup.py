"""Linear warm-up of a constant learning rate."""

from __future__ import annotations

from typing import Any

import keras

from tfdist._internals.contract import row_shards_of
from tfdist.errors import ConfigError, UnsupportedError
from tfdist.measure.learning_rate import current_learning_rate, has_schedule


class LearningRateWarmup(keras.callbacks.Callback):
    """Raises the learning rate linearly to the optimizer's own over the first epochs or steps.

    After `t` of `N` steps the rate is `target * (f + (1 - f) * t / N)`. With `scale_by_replicas` the target
    is the optimizer's rate times the number of replicas (on a mesh, the size of its batch axis) and `f` is one over
    that number, so the warm-up
    goes from the one-device rate to the scaled one: what Horovod's callback does (Goyal et al., 2017).
    Steps are counted by `optimizer.iterations`, so a second or resumed `fit` goes on where the first
    stopped, and after the warm-up the rate is left to others.

    Args:
        num_epochs: Length of the warm-up in epochs, or
        num_steps: in training steps.
        initial_fraction: Share `f` of the target with which the first step is made; by default one over the
            number of replicas with `scale_by_replicas`, else 0.1.
        scale_by_replicas: Whether the optimizer's rate is meant for one replica.

    Raises:
        ConfigError: Not exactly one of `num_epochs` and `num_steps` is a positive number, or the fraction is
            not within 0 and 1.
        UnsupportedError: When `fit` begins: the optimizer has a schedule, or no one knows an epoch's length.
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
        if self._target is None:  # before a backup puts back a rate from the middle of the warm-up
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
        assert self._target is not None  # since set_model
        self.model.optimizer.learning_rate = self._target * (fraction + (1 - fraction) * done)

    def get_state(self) -> dict[str, Any]:
        """State that a resumed run needs, ready for JSON."""
        return {"target": self._target}

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes back what `get_state` gave."""
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
