"""`mesh`: one model over a grid of devices, split over the batch and within its layers, by TensorFlow's DTensor."""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from keras import tree
from tensorflow.experimental import dtensor

from tfdist._internals.mesh.batches import BATCH_AXIS, MeshBatches, place_batch
from tfdist._internals.mesh.check import check_dtensor
from tfdist._internals.mesh.errors import MeshSteps
from tfdist._internals.mesh.extended import MeshExtended
from tfdist._internals.mesh.memory_optimizer import switch_off_memory_optimizer
from tfdist._internals.mesh.variable import MeshVariable, VariableLayouts, fetch, place
from tfdist._internals.processes.coordination import agree, set_default_timeout
from tfdist._internals.processes.deadline import step_limit
from tfdist._internals.processes.end import watch_process_end
from tfdist._internals.processes.seed import share_seed
from tfdist._internals.processes.start import start_mesh_cluster
from tfdist._internals.replica.batches import ReplicaBatch
from tfdist._internals.replica.step import ReplicaStep, RowPosition, replica_step
from tfdist._internals.step import keras_state
from tfdist.cluster.environments import detect_cluster
from tfdist.cluster.spec import ClusterInfo
from tfdist.devices import local_devices
from tfdist.errors import ClusterError, ConfigError, UnsupportedError
from tfdist.process import set_process
from tfdist.sharding.placement import Placement
from tfdist.strategies.base import Distributed, check_timeout

_COMBINE = "DTENSOR_ENABLE_COMBINE_ALL_REDUCES_OPTIMIZATION"


class Mesh(Distributed, tf.distribute.Strategy):
    """Data and tensor parallelism, and sharded state, under plain Keras `fit`.

    One program runs on all devices: to Keras there is one replica, the whole batch. Variables are made in their
    layout, piece by piece; DTensor puts the collectives where layouts ask for them.

    Args:
        mesh: Axis -> size, of the axes `batch` and `model`, as `{"batch": 2, "model": 2}` or `"batch=2,model=2"`; or a
            `keras.distribution.DeviceMesh`, `DataParallel` or `ModelParallel`, which brings its `LayoutMap`.
        layout_map: Regular expression on `variable.path` -> the axis, or None, of each dimension; a
            `keras.distribution.LayoutMap`; `"auto"` for the split of transformers by name and rank (Megatron-LM,
            section 3).
        shard_optimizer: Split the optimizer's state over the batch axis too (ZeRO-1, Rajbhandari et al., 2020).
        shard_weights: Split weights and gradients over the batch axis too, gathered where they are used (ZeRO-3).
        timeout_s: Seconds that a start-up, a step or a meeting of several processes may take.
        random_by_row: Give each row the dropout mask and noise that it gets on one device, at the price of drawing for
            the whole batch on every device; else each draws for its own part.

    Raises:
        ConfigError: A mesh or rule that does not fit.
        ClusterError: Logical CPU devices are needed and TensorFlow already runs, or DTensor is not safe to use.
    """

    cuts_batches = True

    def __init__(
        self,
        mesh: Mapping[str, int] | str | Any,
        layout_map: Any = "auto",
        shard_optimizer: bool = False,
        shard_weights: bool = False,
        timeout_s: float = 300.0,
        random_by_row: bool = False,
    ) -> None:
        self.random_by_row = random_by_row
        self._placement = Placement.create(mesh, layout_map, shard_optimizer, shard_weights)
        self.axes, self.rules = self._placement.mesh, self._placement.rules
        check_timeout(timeout_s)
        self._timeout_s = timeout_s
        self._last_step: tf.Tensor | None = None
        self._checked: weakref.WeakSet[Any] = weakref.WeakSet()
        switch_off_memory_optimizer()
        self.mesh = _create_mesh(self.axes, detect_cluster(os.environ), timeout_s)
        check_dtensor(self.mesh)
        super().__init__(MeshExtended(self, self.mesh, self._layouts_of))
        self._steps = MeshSteps(self.mesh)
        if self.num_processes > 1:
            agree("the mesh", [self.axes, shard_optimizer, shard_weights, random_by_row])
            share_seed()
            watch_process_end()

    def prepare_seeds(self) -> None:
        """Makes what unseeded functions of `keras.random` draw from, if steps may run."""
        self._steps.refuse_after_failure()
        super().prepare_seeds()

    def _layouts_of(
        self, path: str, shape: tuple[int, ...], reference: MeshVariable | None
    ) -> VariableLayouts:
        if reference is not None and tuple(reference.shape) == shape:
            return VariableLayouts.all_as(self._layout(self._placement.of_slot(reference.axes, shape)))
        stored, computed = self._placement.of_variable(path, shape)
        gradient = self._placement.of_slot(stored, shape)
        return VariableLayouts(*(self._layout(axes) for axes in (stored, computed, gradient)))

    def _layout(self, axes: Sequence[str | None]) -> dtensor.Layout:
        return dtensor.Layout([axis or dtensor.UNSHARDED for axis in axes], self.mesh)

    def check_model(self, model: Any) -> None:
        """Raises if the layout does not fit the built model; once for each model.

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
            raise ConfigError(
                f"the mesh {self.axes} has a model axis, and no variable of {model.name!r} is split over it, so that "
                f"{self.axes['model']} devices would do the same work. Give rules, as layout_map={{'hidden/kernel$': "
                "(None, 'model')}, or put all devices on the batch axis."
            )

    def distribute_batches(
        self, dataset: tf.data.Dataset, num_batches: int | None = None, batch_size: int | None = None
    ) -> MeshBatches:
        """Returns `dataset` as batches on the mesh; what `fit` iterates."""
        return MeshBatches(self.mesh, dataset, num_batches)

    @property
    def saves_together(self) -> bool:
        """Whether a process that saves alone would lack pieces of variables."""
        return self.num_processes > 1

    @contextlib.contextmanager
    def watched_step(self) -> Iterator[None]:
        """Limits the time of a step of several processes, and says what went wrong in it."""
        with step_limit(self._timeout_s), self._steps.watched():
            yield

    def flag(self, value: float) -> tf.Tensor:
        """Returns this process's value to be summed in a step: with several processes, on each of its devices."""
        if self.num_processes == 1:
            return tf.constant(value)
        sizes = list(self.axes.values())
        return place(np.full(sizes, value, np.float32), dtensor.Layout(list(self.axes), self.mesh))

    def sum_of_flags(self, value: tf.Tensor, at_once: bool) -> Any:
        """Returns the sum that a step gave; `at_once`, and with several processes, it waits for the step's end."""
        if self.num_processes > 1:
            return float(value)
        # One step late, so that the next is on its way while this one is computed.
        self.check_last_step()
        self._last_step = value
        if at_once:
            self.check_last_step()
        return value

    def check_last_step(self) -> None:
        """Waits for the last step.

        DTensor keeps the error of a step, such as an id outside of a vocabulary, for whoever reads a result of it; if
        nobody does, training goes on with what the steps before left.

        Raises:
            tf.errors.OpError: The step failed.
        """
        value, self._last_step = self._last_step, None
        if value is not None:
            fetch(value)

    def distribute_batch(self, data: Any) -> ReplicaBatch:
        """Returns one global batch on the mesh; what `train_on_batch` runs on."""
        return data if isinstance(data, ReplicaBatch) else place_batch(self.mesh, data)

    def on_host(self, outputs: Any) -> Any:
        """Returns predictions on the host."""
        return tree.map_structure(lambda output: tf.constant(fetch(output)), outputs)

    def run(self, fn: Any, args: tuple[Any, ...] = (), kwargs: Any = None, options: Any = None) -> Any:
        """Runs `fn` once, on the whole batch, over all devices; as `tf.distribute.Strategy.run`."""
        if tf.executing_eagerly():
            raise UnsupportedError(
                "the mesh strategy runs compiled functions only: run_eagerly=True, or strategy.run outside of a "
                "tf.function, is not possible on it. Leave run_eagerly out, or debug under one_device."
            )
        state = keras_state.capture()

        def on_mesh(*args: Any, **kwargs: Any) -> Any:
            with keras_state.restored(state):
                if not args or not isinstance(args[0], ReplicaBatch):
                    return fn(*args, **kwargs)
                batch = args[0]
                step = ReplicaStep(batch.num_valid, batch.num_global)
                step.everywhere, step.by_batch = self._replicated, self._by_batch
                if self.random_by_row:
                    step.rows = RowPosition(tf.zeros_like(batch.num_valid), batch.num_valid)
                with replica_step(step):
                    return fn(batch.data, *args[1:], **kwargs)

        return super().run(on_mesh, args=args, kwargs=kwargs, options=options)

    def _replicated(self, value: tf.Tensor) -> tf.Tensor:
        return dtensor.relayout(value, dtensor.Layout.replicated(self.mesh, value.shape.rank))

    def _by_batch(self, value: tf.Tensor) -> tf.Tensor:
        rows, shards = value.shape[0], self.axes.get(BATCH_AXIS, 1)
        if shards == 1 or not rows or rows % shards:
            return self._replicated(value)
        layout = dtensor.Layout.batch_sharded(self.mesh, BATCH_AXIS, value.shape.rank)
        return dtensor.relayout(value, layout)

    def reduce(self, reduce_op: Any, value: Any, axis: Any = None) -> Any:
        """Returns `value`, which is that of the whole batch already."""
        return value

    def gather(self, value: Any, axis: int) -> Any:
        """Returns `value` on the host."""
        return tf.constant(fetch(value)) if dtensor.is_dtensor(value) else value


def _create_mesh(axes: Mapping[str, int], cluster: ClusterInfo | None, timeout_s: float) -> dtensor.Mesh:
    count = int(np.prod(list(axes.values())))
    # The pass that combines all-reduces makes later reads of variables stale: momentum-like optimizers then train
    # wrong, silently. It is read from the environment when the first DTensor function is compiled.
    given = os.environ.setdefault(_COMBINE, "0")
    if given != "0":
        raise ClusterError(
            f"{_COMBINE}={given} is set, and with it DTensor trains wrong without an error (momentum, Adam and others "
            "read stale values). Unset it, or set it to 0."
        )
    if cluster is not None:
        cluster.check_trains("mesh")
    num_processes = cluster.num_processes if cluster else 1
    if count % num_processes:
        raise ClusterError(
            f"the mesh {dict(axes)} has {count} devices, which {num_processes} processes cannot share evenly. Start as "
            "many processes as divide it, or change the mesh."
        )
    names = local_devices(count // num_processes)
    kind = names[0].partition(":")[0]
    if cluster is None or num_processes == 1:
        if not dtensor.device_name():  # the system starts once in a process
            dtensor.initialize_accelerator_system(kind)
        return dtensor.create_mesh(list(axes.items()), devices=names)
    set_process(cluster.process_index, num_processes)
    set_default_timeout(timeout_s)
    start_mesh_cluster(cluster, timeout_s)
    return dtensor.create_distributed_mesh(list(axes.items()), device_type=kind, local_devices=names)
