"""The update is divided among the replicas of a host's CPU: each hands the new values of its part to the others.

Each replica would repeat the whole update otherwise. On devices of one process that share the host's memory handing
over is no copy: the variables of all replicas refer to the same numbers, until one of them is written. Who writes to
such a variable gets memory of its own first; that is TensorFlow's rule for variables.

For weights that is what the update does: it makes new ones, and the others keep the old ones until the step has ended.
So this is done in Keras's own step alone, where nothing reads the weights after the update. Slots are read by the
update alone. There the others let go of theirs, so that they are written in place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from keras.src.backend.common.stateless_scope import StatelessScope
from keras.src.backend.tensorflow.trainer import TensorFlowTrainer
from tensorflow.python.framework.func_graph import FuncGraph

from tfdist._internals.fit.execution.runner import StepRunner


def step_runner(distribution: Any, model: Any, step_function: Callable[..., Any]) -> StepRunner:
    """Returns what runs the steps of a model, with a divided update where that is right and saves time."""
    is_keras = getattr(step_function, "__func__", None) is TensorFlowTrainer.train_step
    # Where each has a memory of its own, handing over would copy all that the update writes.
    shares_memory = distribution.num_processes == 1 and not distribution.feeds_devices
    divides = is_keras and shares_memory and distribution.num_replicas_in_sync > 1
    return (_DividedRunner if divides else StepRunner)(distribution, model, step_function)


class _DividedRunner(StepRunner):
    """Runs steps of which each replica makes a part of the update."""

    def __init__(self, distribution: Any, model: Any, step_function: Callable[..., Any]) -> None:
        super().__init__(distribution, model, step_function)
        self._division = Division(model, distribution)

    def _one_step(self, batch: Any, wants_stop: tf.Tensor, function: Any = None) -> Any:
        distribution: Any = self._distribution
        distribution.division = self._division
        try:
            logs = super()._one_step(batch, wants_stop, function)
        finally:
            distribution.division = None
        self._division.hand_over()
        return logs

    def _execute(self, iterator: Any, wants_stop: tf.Tensor, count: int) -> Any:
        try:
            return super()._execute(iterator, wants_stop, count)
        except tf.errors.OpError:
            # A step that fails may have ended between an update and the handing over.
            self._division.hand_over()
            raise


class Division:
    """Who makes the update of which variable in the steps of a model.

    Args:
        model: Whose steps they are.
        strategy: Has the replicas.
    """

    def __init__(self, model: Any, strategy: Any) -> None:
        self._model = model
        self._weights = [0] * strategy.num_replicas_in_sync
        # By identity: a variable, and the replica that updates it.
        self._owners: dict[int, tuple[Any, int]] = {}

    def divides(self, optimizer: Any) -> bool:
        """Returns whether the update of an optimizer can be divided: only weights and slots of their own are in it."""
        return (
            optimizer is self._model.optimizer
            and type(optimizer).__module__.startswith("keras.src.")
            and not optimizer.use_ema
            and not optimizer.gradient_accumulation_steps
            and all(variable.constraint is None for variable in optimizer._trainable_variables)
            and not _logs_read_variables(self._model)
        )

    def take(self, variable: Any, handles: Sequence[Any]) -> list[tf.Operation] | None:
        """Gives the update of a variable to a replica: that with the fewest weights, when the first one comes to it."""
        copies = variable.handle._distributed_container()
        if id(copies) not in self._owners:
            owner = self._weights.index(min(self._weights))
            self._weights[owner] += variable.shape.num_elements()
            written = [handle._distributed_container() for handle in handles]
            self._owners |= {id(one): (one, owner) for one in written}
        owner = self._owners[id(copies)][1]
        if copies.values[owner] is not variable:
            return None
        slots = [handle._distributed_container() for handle in handles if handle is not variable.handle]
        return [_let_go(copy) for slot in slots for copy in slot.values if copy is not slot.values[owner]]

    def hand_over(self) -> None:
        """Gives all replicas what the one that has updated a variable has of it."""
        for variable, owner in self._owners.values():
            own = variable.values[owner]
            with tf.device(own.device):
                value = own.read_value()
            for other in variable.values:
                if other is not own:
                    with tf.device(other.device):
                        tf.raw_ops.AssignVariableOp(resource=other.handle, value=value)


def _let_go(variable: Any) -> tf.Operation:
    """Lets a variable have no memory, until it is given a value of its shape again."""
    with tf.device(variable.device):
        # Tracing does not know its shape, and so lets it pass.
        nothing = tf.compat.v1.placeholder_with_default(tf.zeros([], variable.dtype), None)
        return tf.raw_ops.AssignVariableOp(resource=variable.handle, value=nothing)


def _logs_read_variables(model: Any) -> bool:
    """Returns whether the logs are made of other variables than the states of metrics, such as weights."""
    graph = FuncGraph("logs")
    with graph.as_default():
        states = [(state, tf.zeros(state.shape, state.dtype)) for state in model.metrics_variables]
        with StatelessScope(state_mapping=states):
            model.get_metrics_result()
    return any(outer.dtype == tf.resource for outer, _ in graph.captures)
