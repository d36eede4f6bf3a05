"""Global batches put on a mesh: split over the batch axis if it divides them, otherwise whole on every device.

They are never padded, since a loss, a layer or a `train_step` of the user's own may count every row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from keras import tree
from tensorflow.experimental import dtensor

from tfdist._internals.fit.agreement.batches import WatchedBatches
from tfdist._internals.fit.source import reads_ahead, watch_batches
from tfdist._internals.mesh.variable import place
from tfdist._internals.processes.coordination import agree, barrier
from tfdist._internals.rows import count_rows, named_parts, other_rows
from tfdist.data.sharding import auto_sharding_is_off
from tfdist.errors import DataError, UnsupportedError
from tfdist.process import num_processes
from tfdist.sharding.rules import BATCH_AXIS


class MeshBatch(NamedTuple):
    """A global batch on a mesh: `data` as the user gave it, and the scalar int64 count of its rows."""

    data: Any
    num_rows: Any


class EmptyMeshBatch(MeshBatch):
    """A batch without rows, as `predict` may be given: it has one row of zeros, whose results nobody sees."""


def place_batch(mesh: dtensor.Mesh, data: Any) -> MeshBatch:
    """Returns a batch of the host on the mesh, with its number of rows.

    Args:
        mesh: The mesh to put it on.
        data: Nested arrays or tensors with one first dimension, the rows; scalars go to all devices. DTensor has
            dense tensors only, so sparse ones are made dense.

    Raises:
        UnsupportedError: Text or ragged tensors.
        DataError: Nothing in the batch has rows.
    """
    arrays = tree.map_structure(_as_array, data, none_is_leaf=False)
    counts = {name: len(leaf) for name, leaf in named_parts(arrays).items() if leaf.ndim}
    first, rows = next(iter(counts.items()), ("", 0))
    for name, others in counts.items():
        if others != rows:
            raise other_rows(name, others, first, rows)
    if not counts:
        raise DataError(
            "no part of the batch has a first dimension to split over the mesh. Batch the dataset, for example with "
            "dataset.batch(global_batch_size)."
        )
    kind: type[MeshBatch] = MeshBatch
    if rows == 0:
        arrays = tree.map_structure(_one_row, arrays, none_is_leaf=False)
        rows, kind = 1, EmptyMeshBatch
    num_shards = mesh.dim_size(BATCH_AXIS) if BATCH_AXIS in mesh.dim_names else 1
    split = num_shards > 1 and rows % num_shards == 0

    def placed(leaf: np.ndarray) -> tf.Tensor:
        if split and leaf.ndim:
            return place(leaf, dtensor.Layout.batch_sharded(mesh, BATCH_AXIS, leaf.ndim))
        return place(leaf, dtensor.Layout.replicated(mesh, leaf.ndim))

    count = place(np.int64(rows), dtensor.Layout.replicated(mesh, 0))
    return kind(tree.map_structure(placed, arrays, none_is_leaf=False), count)


def _one_row(leaf: np.ndarray) -> np.ndarray:
    return np.zeros((1, *leaf.shape[1:]), leaf.dtype) if leaf.ndim else leaf


def _as_array(leaf: Any) -> np.ndarray:
    if isinstance(leaf, tf.RaggedTensor):
        raise UnsupportedError(
            "the mesh strategy takes rows of one length, and was given a RaggedTensor. Fill the rows up in the dataset "
            "with .to_tensor(), and mask what was filled in; or train under 'mirrored', which takes ragged rows."
        )
    if isinstance(leaf, tf.SparseTensor):
        leaf = tf.sparse.to_dense(tf.sparse.reorder(leaf))
    array = leaf.numpy() if tf.is_tensor(leaf) else np.asarray(leaf)
    if array.dtype == object or array.dtype.kind in "SU":
        raise UnsupportedError(
            "the mesh strategy takes numbers, and was given text. Look the text up in the dataset, with the layer in "
            "dataset.map instead of in the model."
        )
    return array


def _dense_spec(leaf: Any) -> Any:
    return tf.TensorSpec(leaf.shape, leaf.dtype) if isinstance(leaf, tf.SparseTensorSpec) else leaf


class MeshBatches:
    """What Keras iterates in place of a dataset: a `MeshBatch` of DTensors for every global batch.

    Attributes:
        element_spec: The dataset's, with dense tensors in place of sparse ones.
        num_batches: Steps of an epoch; None if unknown or without end.
    """

    def __init__(self, mesh: dtensor.Mesh, dataset: tf.data.Dataset, num_batches: int | None) -> None:
        if num_processes() > 1:
            # Each process reads whole global batches and gives its devices their rows.
            agree("the number of batches", num_batches)
            if auto_sharding_is_off(dataset):
                raise UnsupportedError(
                    "auto-sharding is off for this dataset, which says that every process has batches of its own; a "
                    "mesh needs whole global batches, the same in every process. Leave auto-sharding on."
                )
        self._mesh = mesh
        self._dataset = dataset
        self._watched = watch_batches()
        self.element_spec = tree.map_structure(_dense_spec, dataset.element_spec, none_is_leaf=False)
        self.num_batches = num_batches

    def __iter__(self) -> MeshIterator:
        return MeshIterator(self._mesh, self._dataset, self._watched)


class MeshIterator(Iterator[MeshBatch]):
    """The batches of a dataset on the mesh, one after the other."""

    def __init__(self, mesh: dtensor.Mesh, dataset: tf.data.Dataset, watched: WatchedBatches | None) -> None:
        self._mesh = mesh
        self._data = iter(dataset.prefetch(tf.data.AUTOTUNE) if reads_ahead(dataset) else dataset)
        self._watched = watched
        self._number = 0
        self._num_rows: int | None = None
        self._ahead: MeshBatch | Exception | None = None

    def prepare(self) -> None:
        """Puts the next batch on the devices while they compute. An error is raised when that batch is asked for."""
        try:
            self._ahead = self._ahead or self._place_next()
        except Exception as error:  # the end of the data too
            self._ahead = error

    def _place_next(self) -> MeshBatch:
        data = next(self._data)
        batch = place_batch(self._mesh, data)
        if self._watched is not None:
            self._watched.see(self._number, data)
            self._number += 1
            num_rows = int(count_rows(data))
            # Each process compiles for the size of its batches, and programs for other sizes do not fit together. So
            # the processes meet whenever the size changes; one that goes on with another size is found by the wait.
            if num_rows != self._num_rows:
                barrier(f"a batch of {num_rows} rows")
            self._num_rows = num_rows
        return batch

    def __next__(self) -> MeshBatch:
        self.prepare()
        ahead, self._ahead = self._ahead, None
        if isinstance(ahead, MeshBatch):
            return ahead
        raise ahead or StopIteration
