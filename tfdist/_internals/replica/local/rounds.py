"""The rounds of one model: how far the present one is, and what must be averaged before somebody reads."""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfdist._internals.check.variables import optimizers_of
from tfdist._internals.contract import current_step
from tfdist._internals.processes.watch import shared_step
from tfdist._internals.replica.local.average import Averaging, mean_of, zeros_like
from tfdist._internals.replica.local.counts import Counts
from tfdist._internals.replica.local.options import LocalSteps
from tfdist.log import warn_once
from tfdist.process import num_processes

# What an optimizer has that is the same on all replicas by itself.
_ALIKE = ("_iterations", "_learning_rate", "dynamic_scale")


class Rounds:
    """The rounds of one model.

    Args:
        strategy: The model's.
        model: The model.
        options: What a round is.

    Attributes:
        num_synchronizations: How many averages of the weights there were.
        last: Drift and bytes of the last average; see `Averaging.end`. Empty before the first.
    """

    def __init__(self, strategy: Any, model: Any, options: LocalSteps) -> None:
        self._strategy, self._options = strategy, options
        self._model = weakref.ref(model)
        self._averaging: Averaging | None = None
        self._mean: tuple[list[Any], Callable[[], Any]] = [], lambda: None
        self._is_open = self._has_steps = False
        self._left = 0
        self._slots_differ = self._averages_differ = False
        self._weights: set[int] = set()
        self._averages: set[int] = set()
        self._slots: set[int] = set()
        self._thread = 0
        self.num_synchronizations = 0
        self.last: tuple[tf.Tensor, ...] = ()
        self._counts = Counts(strategy)
        # Weight, which is kept so that no other gets its id, and its outer momentum.
        self._momenta: dict[int, tuple[Any, Any]] = {}

    # Called around steps.

    def begin(self) -> int:
        """Begins a round, if none is open; returns how many steps are left in it."""
        if self._is_open:
            return self._left
        model: Any = self._model()
        averaging = self._averaging_of(model)
        averaging.begin()
        optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
        accumulation = getattr(optimizer, "gradient_accumulation_steps", None) or 1
        self._left = self._options.num_updates * accumulation
        if accumulation > 1 and optimizer.built:
            # An update that is open already belongs to this round.
            self._left -= int(optimizer._iterations) % accumulation
        self._weights = {id(variable._value) for variable in averaging.weights}
        self._averages = {id(variable._value) for variable in _averages_of(model)}
        self._slots = {id(variable._value) for variable in _slots_of(model)} - self._averages
        self._thread = threading.get_ident()
        self._is_open, self._has_steps = True, False
        return self._left

    def counting(self, step_function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Returns a training step that is counted in the round, as each replica runs it."""

        @functools.wraps(step_function)
        def counted(data: Any) -> Any:
            step = current_step()
            assert step is not None
            # Asked before the step, which advances the schedule.
            needs_rate = self._options.outer_optimizer == "slow_momentum"
            model: Any = self._model()
            self._counts.add(step, model.optimizer.learning_rate if needs_rate else 0.0)
            return step_function(data)

        return counted

    def advance(self, num_steps: int) -> None:
        """Notes that so many steps were made, and ends the round if it is full."""
        self._left -= num_steps
        self._has_steps = self._slots_differ = self._averages_differ = True
        if self._left <= 0:
            self._end()

    # Called before weights are read.

    def settle(self, *, slots: bool) -> None:
        """Ends an open round, so that all replicas have the same weights; all processes call it.

        Args:
            slots: Whether the optimizer's slots are averaged too. If not, only moving averages of weights are.
        """
        if self._is_open and self._has_steps:
            self._end()
        self._is_open = False  # where the data had ended before its first step too
        model, chosen = self._model(), []
        if slots and self._slots_differ:
            chosen = _slots_of(model)
        elif self._averages_differ:
            chosen = _averages_of(model)
        self._averages_differ = False
        self._slots_differ = self._slots_differ and not slots
        if not chosen:
            return
        if [id(one) for one in self._mean[0]] != [id(one) for one in chosen]:
            self._mean = chosen, mean_of(self._strategy, chosen)
        with shared_step("sum"):
            self._mean[1]()

    def before_read(self, variable: Any) -> None:
        """Settles before a script reads a variable that the replicas have not alike, or says that it cannot.

        Args:
            variable: TensorFlow's variable.
        """
        is_slot = id(variable) in self._slots
        differs = (
            (self._is_open and self._has_steps and id(variable) in self._weights)
            or (self._averages_differ and id(variable) in self._averages)
            or (self._slots_differ and is_slot)
        )
        if not differs or threading.get_ident() != self._thread:
            return
        if num_processes() == 1:
            self.settle(slots=is_slot)
            return
        warn_once(
            f"{'a slot of the optimizer' if is_slot else 'a weight'} is read within a round of local steps, where each "
            "replica has its own: this process reads that of its first replica. Call tfdist.average_weights(model) "
            "before it, in every worker."
        )

    def _end(self) -> None:
        assert self._averaging is not None
        self._is_open = False
        with shared_step("sum"):
            self.last = self._averaging.end()
        self.num_synchronizations += 1

    def _averaging_of(self, model: Any) -> Averaging:
        """Returns what averages the weights that are trained now; their outer momentum stays."""
        weights = [one for one in model.trainable_variables if tf.as_dtype(one.dtype).is_floating]
        known = self._averaging
        if known is None or [id(one) for one in known.weights] != [id(one) for one in weights]:
            known = self._averaging = Averaging(
                self._strategy, self._options, self._counts, weights, self._momentum_of
            )
        return known

    def _momentum_of(self, weight: Any) -> Any:
        if id(weight) not in self._momenta:
            self._momenta[id(weight)] = weight, zeros_like(weight, "outer_momentum")
        return self._momenta[id(weight)][1]

    def momenta(self) -> list[Any]:
        """Returns the outer momentum of each weight that is trained now, in the order of the weights."""
        if not self._options.has_momentum:
            return []
        return [self._momentum_of(weight) for weight in self._averaging_of(self._model()).weights]


def _slots_of(model: Any) -> list[Any]:
    """Returns the variables of a model's optimizers of which each replica has its own values."""
    optimizers = optimizers_of(model)
    # That which scales the loss has among its variables those of the one inside of it.
    alike = {id(getattr(optimizer, name, None)) for optimizer in optimizers for name in _ALIKE}
    found = {id(variable): variable for optimizer in optimizers for variable in optimizer.variables}
    return [
        variable
        for key, variable in found.items()
        if key not in alike and tf.as_dtype(variable.dtype).is_floating
    ]


def _averages_of(model: Any) -> list[Any]:
    """Returns the moving averages of weights that optimizers keep."""
    return [
        variable
        for optimizer in optimizers_of(model)
        for variable in getattr(optimizer, "_model_variables_moving_average", ())
        if variable is not None
    ]
