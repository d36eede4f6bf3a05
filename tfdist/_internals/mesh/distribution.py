"""What `fit` sees of a mesh: one program over all its devices. To Keras it is one replica."""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree
from tensorflow.experimental import dtensor

from tfdist._internals.contract import Batches, Distribution, Sample, Step
from tfdist._internals.fit.execution.runner import StepRunner
from tfdist._internals.mesh.batches import EmptyMeshBatch, MeshBatch, MeshBatches, MeshIterator, place_batch
from tfdist._internals.mesh.errors import MeshSteps, why_whole
from tfdist._internals.mesh.extended import MeshExtended
from tfdist._internals.mesh.operations.table import OPERATIONS
from tfdist._internals.mesh.portable import copy_on_host
from tfdist._internals.mesh.programs import Agreement
from tfdist._internals.mesh.step import MeshStep
from tfdist._internals.mesh.sums import sum_error
from tfdist._internals.mesh.variable import MeshVariable, VariableLayouts, fetch, on_host, place
from tfdist._internals.processes.deadline import step_deadline
from tfdist._internals.processes.watch import shared_step
from tfdist.errors import ConfigError, DataError, UnsupportedError
from tfdist.sharding.placement import Placement
from tfdist.sharding.rules import BATCH_AXIS

_MAKERS = {
    "fit": "make_train_function",
    "evaluate": "make_test_function",
    "predict": "make_predict_function",
}


class MeshDistribution(Distribution):
    """Mixin for a subclass of `tf.distribute.Strategy`; stands before it among the bases.

    Args:
        mesh: The devices.
        placement: Where variables are stored.
        timeout_s: Seconds that a step of several processes may take.
        random_by_row: Whether each row gets the random numbers that it gets on one device.

    Attributes:
        mesh: The devices.
        axes: Axis name -> size.
        rules: What splits which variable.
    """

    def __init__(
        self, mesh: dtensor.Mesh, placement: Placement, timeout_s: float, random_by_row: bool
    ) -> None:
        self.mesh = mesh
        self.axes, self.rules = placement.mesh, placement.rules
        self.random_by_row = random_by_row
        self._placement = placement
        self._timeout_s = timeout_s
        self._last_step: tf.Tensor | None = None
        self._checked: weakref.WeakSet[Any] = weakref.WeakSet()
        super().__init__(MeshExtended(self, mesh, self._layouts_of))  # type: ignore[call-arg]
        self._steps, self._agreement = MeshSteps(mesh), Agreement()

    @property
    def row_shards(self) -> int:
        return self.axes.get(BATCH_AXIS, 1)

    @property
    def saves_together(self) -> bool:  # type: ignore[override]
        return self.num_processes > 1

    def describe(self) -> str:
        return " ".join([self.name, *(f"{axis}={size}" for axis, size in self.axes.items())])

    # Variables.

    def _layouts_of(
        self, path: str, shape: tuple[int, ...], reference: MeshVariable | None
    ) -> VariableLayouts:
        if reference is not None and tuple(reference.shape) == shape:
            return VariableLayouts.all_as(self._layout(self._placement.of_slot(reference.axes, shape)))
        stored, computed = self._placement.of_variable(path, shape)
        gradient = self._placement.of_slot(stored, shape)
        return VariableLayouts(*(self._layout(axes) for axes in (stored, computed, gradient)))

    def pieces_of(self, variable: Any) -> dict[str, np.ndarray]:
        return variable.value.local_pieces()

    def of_chief(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Refuses: what the chief was given of a split variable, it has in pieces only.

        Raises:
            UnsupportedError: There are several processes.
        """
        if self.num_processes == 1:
            return list(arrays)
        raise UnsupportedError(
            "broadcast_weights on a mesh over several processes is not possible: a process keeps only its own pieces "
            "of the weights that it loads. Load the weights in every process (outside of `if chief:`)."
        )

    def sum_error(self) -> float:
        with shared_step("sum"), self.watched_step():
            return sum_error(self.mesh, np.arange(1024, dtype=np.float32))

    def flags(self, value: float) -> tf.Tensor:
        """Returns a value of this process as one number for each device, those of the other processes included."""
        layout = dtensor.Layout(list(self.axes), self.mesh)
        return place(np.full(list(self.axes.values()), value, np.float32), layout)

    def any_process(self, flag: bool) -> bool:
        if self.num_processes == 1:
            return bool(flag)
        with shared_step("sum"), self.watched_step():
            return float(fetch(self._sum_of_flags(self.flags(float(flag))))) > 0

    @functools.cached_property
    def _sum_of_flags(self) -> Any:
        return tf.function(tf.reduce_sum, autograph=False)

    def _layout(self, axes: Sequence[str | None]) -> dtensor.Layout:
        return dtensor.Layout([axis or dtensor.UNSHARDED for axis in axes], self.mesh)

    # Before and after a step.

    def prepare(self, model: Any, call: str) -> None:
        """Makes ready for a call of fit, evaluate or predict.

        Raises:
            UnsupportedError: A step has failed on a device in this process, or the model makes its function itself.
        """
        self._steps.refuse_after_failure()
        maker = _MAKERS[call]
        if getattr(type(model), maker) is not getattr(keras.Model, maker):
            raise UnsupportedError(
                f"{type(model).__name__} overrides {maker}, and the mesh strategy places each batch on the devices "
                f"outside of the compiled function, where an own one would keep the first batch for ever. Override "
                "train_step, test_step or predict_step instead, or train under 'mirrored'."
            )
        super().prepare(model, call)

    def check(self, model: Any) -> None:
        """Refuses a built model that the layout does not fit; looks at each model once.

        Raises:
            ConfigError: A rule that no variable matches, or a `model` axis that splits nothing.
            UnsupportedError: A step has failed on a device in this process.
        """
        self._steps.refuse_after_failure()
        if not model.built or model in self._checked:
            return
        self._checked.add(model)
        self.rules.check_all_used([variable.path for variable in model.variables])
        split = any("model" in variable.value.axes for variable in model.trainable_variables)
        if self.axes.get("model", 1) > 1 and model.trainable_variables and not split:
            cure = "Give rules, as layout_map={'hidden/kernel$': (None, 'model')}"
            if self.rules.automatic:
                cure = f"{why_whole(self.rules, model)}. Give a layer a size that divides"
            raise ConfigError(
                f"the mesh {self.axes} has a model axis, and no variable of {model.name!r} is split over it, so that "
                f"{self.axes['model']} devices would do the same work. {cure}, or put all devices on the batch axis."
            )

    def check_last_step(self) -> None:
        """Waits for the last step, and raises its error if it failed.

        DTensor raises the error of a step, such as an id outside of a vocabulary, where a result of the step is read.
        If nobody reads one, training goes on with the values that the steps before had left.

        Raises:
            tf.errors.OpError: The step failed.
        """
        value, self._last_step = self._last_step, None
        on_host(value)

    def note_step(self, value: tf.Tensor) -> None:
        """Notes a value of the step that has just been started, and waits for the step before it."""
        self.check_last_step()
        self._last_step = value

    def settled(self, variables: Sequence[Any]) -> list[tuple[Any, tf.Tensor]]:
        with self.watched_step():
            self.check_last_step()
        return [(variable, tf.constant(variable.value.numpy())) for variable in variables]

    @contextlib.contextmanager
    def watched_step(self) -> Iterator[None]:
        """Surrounds a step and explains its errors; of several processes it limits time and compares programs."""
        with step_deadline(self._timeout_s), self._steps.watched():
            yield
            self._agreement.check(self._timeout_s)

    # Batches and steps.

    def batches(self, dataset: tf.data.Dataset, num_batches: int | None, batch_size: int | None) -> Batches:
        return MeshBatches(self.mesh, dataset, num_batches)

    def owns(self, variable: tf.Variable) -> bool:
        return isinstance(variable, MeshVariable)

    def place(self, data: Any) -> MeshBatch:
        return data if isinstance(data, MeshBatch) else place_batch(self.mesh, data)

    @property
    def takes_any_rows(self) -> bool:
        return False

    def sample(self, batch: Any, has_fixed_rows: bool) -> Sample:
        data = tree.map_structure(on_host, batch.data, none_is_leaf=False)
        return Sample(batch, data, (), int(batch.num_rows))

    def parts_of(self, batch: Any) -> list[tuple[Any, Any]]:
        return [(batch.data, batch.num_rows)]

    def step_of(self, batch: Any) -> tuple[Step, Any] | None:
        if not isinstance(batch, MeshBatch):
            return None
        if isinstance(batch, EmptyMeshBatch):
            raise DataError(
                "a batch has no rows, and a mean over none is no number. Leave it out, for example with "
                "dataset.filter, or batch the rows anew."
            )
        if tf.executing_eagerly():  # on the host, which has the whole batch
            return Step(batch.num_rows, batch.num_rows), batch.data
        return MeshStep(batch.num_rows, self.mesh, OPERATIONS, self.random_by_row), batch.data

    def runner(self, model: Any, step_function: Callable[..., Any]) -> Callable[[Any], Any]:
        return MeshRunner(self, model, step_function)

    def portable(self, model: Any) -> Any:
        return copy_on_host(model)

    def predictor(
        self, model: Any, compiled: Callable[[Callable[..., Any]], Callable[..., Any]]
    ) -> Callable[[Any], Any]:
        step = compiled(lambda batch: self.run(model.predict_step, args=(batch,)))

        def predict(batch: Any) -> Any:
            rows = slice(0) if isinstance(batch, EmptyMeshBatch) else slice(None)
            with self.watched_step():
                outputs = tree.map_structure(on_host, step(MeshBatch(*batch)))
            return tree.map_structure(lambda output: output[rows], outputs)

        return predict

    def run(self, fn: Any, args: tuple[Any, ...] = (), kwargs: Any = None, options: Any = None) -> Any:
        """Runs `fn` once, on the whole batch, over all devices; as `tf.distribute.Strategy.run`.

        Outside of a compiled function, as with `run_eagerly=True`, `fn` computes on the host: it reads whole variables,
        and each device keeps its piece of what `fn` assigns.
        """
        if not tf.executing_eagerly():
            return super().run(fn, args, kwargs, options)
        with tf.device("CPU:0"):
            args, kwargs = tree.map_structure(on_host, (args, kwargs), none_is_leaf=False)
            return super().run(fn, args, kwargs, options)

    def reduce(self, reduce_op: Any, value: Any, axis: Any = None) -> Any:
        """Returns `value` as it is, since it is that of the whole batch already."""
        return value

    def gather(self, value: Any, axis: int) -> Any:
        """Returns `value` on the host."""
        return on_host(value)


class MeshRunner(StepRunner):
    """Runs steps on a mesh, places the next batch while the devices compute, and looks at every step's end."""

    def __init__(self, distribution: MeshDistribution, model: Any, step_function: Any) -> None:
        super().__init__(distribution, model, step_function)
        self._mesh = distribution

    def flag(self, value: float) -> tf.Tensor:
        if self._mesh.num_processes == 1:
            return tf.constant(value)
        return self._mesh.flags(value)

    def votes(self, total: tf.Tensor, iterator: Any) -> Any:
        with self._mesh.watched_step():
            if self._mesh.num_processes > 1:
                return float(total)
            self._mesh.note_step(total)
            # train_on_batch has no later step that would raise this step's error, so it is waited for here.
            if not isinstance(iterator, MeshIterator):
                self._mesh.check_last_step()
        return total

    def watched(self) -> contextlib.AbstractContextManager[None]:
        return self._mesh.watched_step()

    def stepped(self, iterator: Any) -> None:
        if isinstance(iterator, MeshIterator):
            iterator.prepare()
