"""The `tf.distribute` side of the mesh strategy: variables in their layout, one program over all devices.

TensorFlow's own DTensor strategy has replicated layouts only, and fails under Keras `fit` with a NotImplementedError
from its replica context. The methods here are the private protocol of `StrategyExtended`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf
from keras.src.backend.common import global_state
from keras.src.backend.common.name_scope import current_path
from tensorflow.experimental import dtensor

from tfdist._internals.mesh.constants import constants_on
from tfdist._internals.mesh.variable import MeshVariable, VariableLayouts
from tfdist.errors import UnsupportedError

LayoutsOf = Callable[[str, tuple[int, ...], "MeshVariable | None"], VariableLayouts]


class _WholeBatch(tf.distribute.ReplicaContext):
    """The one replica that a mesh is to Keras. A sum over replicas is the value itself, that of the whole batch."""

    def all_reduce(self, reduce_op: Any, value: Any, options: Any = None) -> Any:
        return value


def _no_own_loop() -> UnsupportedError:
    return UnsupportedError(
        "a mesh has no pieces of a dataset for a loop of your own: one program computes on the whole batch, and fit "
        "places it on the devices. Write the step of the loop as the train_step of a keras.Model, and call fit "
        "(docs/custom-steps.md)."
    )


def _is_of_optimizer() -> bool:
    scopes = global_state.get_global_attribute("name_scope_stack")
    return bool(scopes) and isinstance(scopes[-1].caller, keras.optimizers.Optimizer)


class MeshExtended(tf.distribute.StrategyExtended):
    """Creates variables in the layouts that `layouts_of(path, shape, reference)` gives."""

    def __init__(self, strategy: tf.distribute.Strategy, mesh: dtensor.Mesh, layouts_of: LayoutsOf) -> None:
        super().__init__(strategy)
        self._mesh = mesh
        self._layouts_of = layouts_of
        self._reference: MeshVariable | None = None

    def _create_variable(self, next_creator: Any, **kwargs: Any) -> MeshVariable:
        name = kwargs.get("name") or ""
        path = "/".join(part for part in (current_path(), name) if part)
        initial = kwargs["initial_value"]
        options = {key: kwargs[key] for key in ("trainable", "name", "dtype", "shape") if key in kwargs}
        with tf.init_scope(), tf.device("CPU:0"):
            value = tf.convert_to_tensor(initial() if callable(initial) else initial, kwargs.get("dtype"))
            shape = tuple(value.shape)
            is_slot = self._reference is not None and tuple(self._reference.shape) == shape
            is_metric = kwargs.get("synchronization") == tf.VariableSynchronization.ON_READ
            if is_metric or (_is_of_optimizer() and not is_slot):
                # Whole everywhere. No rule is meant for the state of a metric, and DTensor lacks layout rules for the
                # operations of some. Adafactor gives the names of the model's variables to vectors.
                layouts = VariableLayouts.all_as(dtensor.Layout.replicated(self._mesh, len(shape)))
            else:
                layouts = self._layouts_of(path, shape, self._reference)
            return MeshVariable.create(value.numpy(), layouts, **options)

    @contextmanager
    def colocate_vars_with(self, colocate_with_variable: Any) -> Iterator[None]:
        before, self._reference = self._reference, colocate_with_variable
        try:
            yield
        finally:
            self._reference = before

    def _experimental_distribute_dataset(self, dataset: Any, options: Any) -> Any:
        raise _no_own_loop()

    def _distribute_datasets_from_function(self, dataset_fn: Any, options: Any) -> Any:
        raise _no_own_loop()

    def _call_for_each_replica(self, fn: Any, args: Any, kwargs: Any) -> Any:
        if tf.executing_eagerly():
            with _WholeBatch(self._container_strategy(), 0):
                return fn(*args, **(kwargs or {}))
        mesh, whole_batch = dtensor.default_mesh(self._mesh), _WholeBatch(self._container_strategy(), 0)
        with constants_on(self._mesh), mesh, whole_batch:
            try:
                return fn(*args, **(kwargs or {}))
            except Exception as error:
                # DTensor keeps its default mesh if an error passes through its context.
                failure = error
        raise failure

    def call_for_each_replica(self, fn: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._call_for_each_replica(fn, args, kwargs)

    @property
    def _num_replicas_in_sync(self) -> int:
        return 1

    @property
    def worker_devices(self) -> tuple[str, ...]:
        return tuple(self._mesh.local_devices())

    @property
    def parameter_devices(self) -> tuple[str, ...]:
        return self.worker_devices

    def _update(self, var: Any, fn: Any, args: Any, kwargs: Any, group: bool) -> Any:
        return fn(var, *args, **kwargs)

    def _reduce_to(self, reduce_op: Any, value: Any, destinations: Any, options: Any) -> Any:
        return value

    def _local_results(self, value: Any) -> tuple[Any, ...]:
        return (value,)

    def _use_merge_call(self) -> bool:
        return False

    def _in_multi_worker_mode(self) -> bool:
        return False

    def _get_local_replica_id(self, replica_id_in_sync_group: Any) -> Any:
        return replica_id_in_sync_group

    def value_container(self, value: Any) -> Any:
        return value
