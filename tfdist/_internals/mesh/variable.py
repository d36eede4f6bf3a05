"""Variables and batches on a DTensor mesh: placed piece by piece, read back piece by piece."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow.dtensor.python import d_variable
from tensorflow.experimental import dtensor
from tensorflow.python.eager import record

from tfdist._internals.fit.agreement.digests import AS_SET, digest_of
from tfdist._internals.processes.coordination import barrier
from tfdist.errors import UnsupportedError
from tfdist.process import num_processes


def place(value: Any, layout: dtensor.Layout) -> tf.Tensor:
    """Returns `value`, which is on the host, as a DTensor. Each device is given its own piece and nothing else."""
    value = np.asarray(value)
    return dtensor.pack(
        [tf.constant(value[_piece(layout, location, value.shape)]) for location in _locations(layout)], layout
    )


def fetch(value: tf.Tensor) -> np.ndarray:
    """Returns a DTensor as one array on the host, put together from the pieces.

    Raises:
        WorkerError: Other processes hold pieces and do not fetch this value too.
    """
    layout = dtensor.fetch_layout(value)
    if not _is_whole_here(layout):
        # A collective brings the pieces. It would wait for ever for a process that does not take part.
        barrier("fetch of a value that is split over processes")
        layout = dtensor.Layout.replicated(layout.mesh, layout.rank)
        value = dtensor.relayout(value, layout)
    whole = np.empty(value.shape, value.dtype.as_numpy_dtype)
    for piece, location in zip(dtensor.unpack(value), _locations(layout), strict=True):
        whole[_piece(layout, location, whole.shape)] = piece.numpy()
    return whole


def on_host(value: Any) -> Any:
    """Returns a DTensor as a tensor of the host, and anything else as it is."""
    return tf.constant(fetch(value)) if dtensor.is_dtensor(value) else value


def _is_whole_here(layout: dtensor.Layout) -> bool:
    """Returns whether this process holds all pieces."""
    axes = [axis for axis in layout.sharding_specs if axis != dtensor.UNSHARDED]
    pieces = {tuple(location[axis] for axis in axes) for location in _locations(layout)}
    return len(pieces) == math.prod(layout.mesh.dim_size(axis) for axis in axes)


def _locations(layout: dtensor.Layout) -> list[dict[str, int]]:
    return list(layout.mesh.local_device_locations())


def _piece(layout: dtensor.Layout, location: dict[str, int], shape: tuple[int, ...]) -> tuple[slice, ...]:
    slices = []
    for size, axis in zip(shape, layout.sharding_specs, strict=True):
        count = 1 if axis == dtensor.UNSHARDED else layout.mesh.dim_size(axis)
        index = 0 if count == 1 else location[axis]
        slices.append(slice(index * size // count, (index + 1) * size // count))
    return tuple(slices)


class VariableLayouts(NamedTuple):
    """How a variable is stored, how a step computes with it, and how the optimizer takes its gradient."""

    stored: dtensor.Layout
    computed: dtensor.Layout
    gradient: dtensor.Layout

    @classmethod
    def all_as(cls, layout: dtensor.Layout) -> VariableLayouts:
        """Returns `layout` for all three."""
        return cls(layout, layout, layout)


def _digest(value: Any) -> int:
    return digest_of(np.asarray(value)) if num_processes() > 1 else 0


def _gathered(value: tf.Tensor, layouts: VariableLayouts) -> tf.Tensor:
    """Returns the pieces put together. Its gradient is scattered to the pieces, or stays slices as on one device."""

    @tf.custom_gradient
    def gather(value: tf.Tensor) -> Any:
        def gradient(upstream: Any) -> Any:
            if isinstance(upstream, tf.IndexedSlices):
                return upstream
            # In two steps. In one, DTensor would carry the optimizer's layout into the products before, and it has no
            # rules for some of these.
            return dtensor.relayout(dtensor.relayout(upstream, layouts.computed), layouts.gradient)

        return dtensor.relayout(value, layouts.computed), gradient

    return gather(value)


@tf.custom_gradient
def _read_on_host(value: tf.Tensor) -> Any:
    # A tape follows a value through the host too.
    return on_host(value), lambda upstream: upstream


class MeshVariable(d_variable.DVariable):
    """A DTensor variable that takes and gives host values, as Keras reads, saves and sets them.

    Attributes:
        layout: How it is stored.
        layouts: All its layouts. Where they differ, the pieces are gathered at each use, and gradients are scattered.
        given: A digest of the value that was last set from the host, 0 in one process.
    """

    layouts: VariableLayouts
    given: int

    @classmethod
    def create(cls, value: Any, layouts: VariableLayouts, **options: Any) -> MeshVariable:
        """Returns a variable that starts with a value of the host."""
        # Not in __init__, because the metaclass of variables takes positional arguments for its own.
        variable = cls(place(value, layouts.stored), **options)
        variable.layouts = layouts
        variable.given = _digest(value)
        return variable

    def _read_variable_op(self, *args: Any, **kwargs: Any) -> Any:
        # Every read of TensorFlow's goes through here. An eager read, outside of a step, gives a value of the host,
        # since DTensor refuses to mix both. In a step, the gradient is scattered back to the pieces. A function that is
        # not of the mesh, such as `generate` of KerasHub, gets a value of the host whenever it runs.
        if not tf.executing_eagerly() and dtensor.get_default_mesh() is None:
            if self.trainable and record.could_possibly_record():
                raise UnsupportedError(
                    f"a GradientTape follows {self.name!r}, a variable of a mesh, in a tf.function of your own, which "
                    "is no program of the mesh. Write the step as the model's train_step and call fit, or call it "
                    "without tf.function; docs/custom-steps.md shows such steps."
                )
            return tf.ensure_shape(tf.py_function(self.read_value, [], self.dtype), self.shape)
        value = super()._read_variable_op(*args, **kwargs)
        if tf.executing_eagerly():
            return _read_on_host(value)
        if self.layouts.stored == self.layouts.computed == self.layouts.gradient:
            return value
        return _gathered(value, self.layouts)

    @property
    def handle(self) -> tf.Tensor:
        """The resource that holds the pieces."""
        return self._resource

    @property
    def _handle(self) -> tf.Tensor | None:
        # If an operation is given a variable as it is, TensorFlow's C++ reads it by this name and not by
        # `_read_variable_op`. Outside of a step it would get pieces. Where there is no handle it converts the variable.
        return None if tf.executing_eagerly() else self._resource

    @_handle.setter
    def _handle(self, resource: tf.Tensor) -> None:
        self._resource = resource

    def _pieces(self) -> tf.Tensor:
        return super()._read_variable_op()

    def numpy(self) -> np.ndarray:
        """Returns the whole value."""
        return fetch(self._pieces())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.numpy(), dtype)

    def device_bytes(self) -> list[int]:
        """Returns the bytes that each local device holds, measured on the pieces themselves."""
        return [piece.dtype.size * math.prod(piece.shape) for piece in dtensor.unpack(self._pieces())]

    def local_pieces(self) -> dict[str, np.ndarray]:
        """Returns the pieces of this process by where they stand; and the digest of the value last set from the host.

        Processes may hold no piece in common. That each was given the same value is then seen by the digest.
        """
        locations = [
            "/".join(f"{axis}={location[axis]}" for axis in self.axes if axis)
            for location in _locations(self.layout)
        ]
        pieces = {
            name: piece.numpy() for name, piece in zip(locations, dtensor.unpack(self._pieces()), strict=True)
        }
        return pieces | {AS_SET: np.int64(self.given)}

    @property
    def axes(self) -> tuple[str | None, ...]:
        """The mesh axis that splits each dimension as it is stored, or None."""
        return tuple(None if axis == dtensor.UNSHARDED else axis for axis in self.layout.sharding_specs)

    def _serialize_to_tensors(self) -> Any:
        # All processes write a tf.train.Checkpoint together; TensorFlow would wait for a missing one for ever.
        barrier("tf.train.Checkpoint of a mesh")
        return super()._serialize_to_tensors()

    def _export_to_saved_model_graph(self, *args: Any, **kwargs: Any) -> Any:
        raise UnsupportedError(
            f"a SavedModel cannot hold {self.name!r}, which is on a mesh. Write the model with model.export, which "
            "saves a copy with whole variables."
        )

    def _on_mesh(self, value: Any) -> Any:
        if not tf.executing_eagerly():
            return value
        if isinstance(value, MeshVariable):
            value = value._pieces()
        if not dtensor.is_dtensor(value):
            array = tf.convert_to_tensor(value, self.dtype).numpy()
            self.given = _digest(array)
            return place(array, self.layout)
        return value if dtensor.fetch_layout(value) == self.layout else dtensor.relayout(value, self.layout)

    def assign(self, value: Any, *args: Any, **kwargs: Any) -> Any:
        """Assigns a DTensor, or a value on the host."""
        return super().assign(self._on_mesh(value), *args, **kwargs)

    def assign_add(self, delta: Any, *args: Any, **kwargs: Any) -> Any:
        """Adds a DTensor, or a value on the host."""
        return super().assign_add(self._on_mesh(delta), *args, **kwargs)

    def assign_sub(self, delta: Any, *args: Any, **kwargs: Any) -> Any:
        """Subtracts a DTensor, or a value on the host."""
        return super().assign_sub(self._on_mesh(delta), *args, **kwargs)

    # DTensor has no layout rule for scattering into a variable, but it has one for the dense sum of slices.
    def scatter_add(self, sparse_delta: Any, use_locking: bool = False, name: str | None = None) -> Any:
        """Adds slices; slices with the same index are summed."""
        return self.assign_add(tf.convert_to_tensor(sparse_delta))

    def scatter_sub(self, sparse_delta: Any, use_locking: bool = False, name: str | None = None) -> Any:
        """Subtracts slices; slices with the same index are summed."""
        return self.assign_sub(tf.convert_to_tensor(sparse_delta))

    def scatter_update(self, sparse_delta: Any, use_locking: bool = False, name: str | None = None) -> Any:
        """Sets the rows of slices."""
        rows = tf.expand_dims(sparse_delta.indices, 1)
        return self.assign(tf.tensor_scatter_nd_update(tf.convert_to_tensor(self), rows, sparse_delta.values))
