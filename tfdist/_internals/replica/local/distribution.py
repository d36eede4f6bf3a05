"""A strategy of replicas that can take local steps: the rounds of its models, and who ends them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from keras.src.backend.tensorflow.trainer import TensorFlowTrainer

from tfdist._internals.communication.options import CommunicationOptions
from tfdist._internals.replica.distribution import ReplicaDistribution
from tfdist._internals.replica.local.options import LocalSteps
from tfdist._internals.replica.local.rounds import Rounds
from tfdist._internals.replica.local.runner import LocalStepRunner
from tfdist._internals.replica.local.step import local_step_class
from tfdist.errors import ConfigError, UnsupportedError


class RoundsDistribution(ReplicaDistribution):
    """Stands in the place of `ReplicaDistribution` among the bases of a strategy.

    Attributes:
        local_steps: What a round is; None if all steps are synchronous.
    """

    local_steps: LocalSteps | None = None

    def _rounds_of(self, model: Any) -> Rounds | None:
        """Returns the rounds of a model, made when they are first asked for; None if all steps are synchronous."""
        if self.local_steps is None:
            return None
        known: Any = vars(self).setdefault("_rounds", weakref.WeakKeyDictionary())
        if model not in known:
            known[model] = Rounds(self, model, self.local_steps)
        rounds: Rounds = known[model]
        return rounds

    @property
    def compares_compilation(self) -> bool:
        # A step that is done for trial would count as one of a round.
        return self.local_steps is None and super().compares_compilation

    def describe(self) -> str:
        if self.local_steps is None:
            return super().describe()
        options = self.local_steps
        outer = f" outer_optimizer={options.outer_optimizer}" if options.has_momentum else ""
        return f"{super().describe()} local_steps={options.num_updates}{outer}"

    def prepare(self, model: Any, call: str) -> None:
        super().prepare(model, call)
        if self.local_steps is None:
            return
        if call == "fit" and self.local_steps.outer_optimizer == "slow_momentum" and model.optimizer is None:
            raise UnsupportedError(
                "outer_optimizer='slow_momentum' divides by the learning rate of the model's optimizer, and "
                f"{model.name!r} was compiled without one. Give outer_optimizer='nesterov' or 'average'."
            )
        if call == "fit" and type(model).make_train_function is not TensorFlowTrainer.make_train_function:
            raise UnsupportedError(
                f"the model {model.name!r} has a make_train_function of its own, and local_steps="
                f"{self.local_steps.num_updates} was given: nobody would know when a round ends. Put what is yours in "
                "train_step, or leave local_steps out."
            )
        self.settle(model, slots=call == "fit")

    def settle(self, model: Any, *, slots: bool = False) -> None:
        rounds = self._rounds_of(model)
        if rounds is not None:
            rounds.settle(slots=slots)

    def before_read(self, variable: Any) -> None:
        """Settles before a script reads a variable of TensorFlow that a training has not alike on all replicas."""
        for rounds in list(vars(self).get("_rounds", {}).values()):
            rounds.before_read(variable)

    def communicate(self, options: CommunicationOptions) -> None:
        """Sets how gradients travel.

        Raises:
            ConfigError: They do not travel at all.
        """
        if self.local_steps is not None and not options.is_exact:
            raise ConfigError(
                f"{options.describe()} is about gradients, and with local_steps={self.local_steps.num_updates} no "
                "gradient leaves its replica. Give one of the two."
            )
        super().communicate(options)

    def own_state(self, model: Any) -> dict[str, tuple[Callable[[], Any], Callable[[Any], None]]]:
        rounds, found = self._rounds_of(model), super().own_state(model)
        momenta = [] if rounds is None else rounds.momenta()
        # By number: names of variables may differ from one process to the next.
        return found | {
            f"outer_momentum/{index}": (variable.numpy, variable.assign)
            for index, variable in enumerate(momenta)
        }

    def figures(self, model: Any) -> dict[str, float]:
        rounds, found = self._rounds_of(model), super().figures(model)
        if rounds is None or not rounds.last:
            return found
        drift, num_bytes = map(float, rounds.last)
        return found | {
            "local_steps/drift": drift,
            "local_steps/megabytes": num_bytes / 1e6,
            "local_steps/synchronizations": float(rounds.num_synchronizations),
        }

    @contextmanager
    def local_updates(self) -> Iterator[None]:
        """While open, what is traced is a local step."""
        before: Any = self.step_class
        self.step_class = local_step_class(before)
        try:
            yield
        finally:
            self.step_class = before

    def runner(self, model: Any, step_function: Callable[..., Any]) -> Callable[[Any], Any]:
        rounds = self._rounds_of(model)
        if rounds is None:
            return super().runner(model, step_function)
        if step_function == model.train_step:
            return LocalStepRunner(self, model, step_function, rounds)
        return _settled_before(rounds, super().runner(model, step_function))

    def predictor(
        self, model: Any, compiled: Callable[[Callable[..., Any]], Callable[..., Any]]
    ) -> Callable[[Any], Any]:
        rounds, predict = self._rounds_of(model), super().predictor(model, compiled)
        return predict if rounds is None else _settled_before(rounds, predict)


def _settled_before(rounds: Rounds, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def call(data: Any) -> Any:
        rounds.settle(slots=False)
        return function(data)

    return call
