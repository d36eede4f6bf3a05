"""Explains DTensor's errors, when a step fails on a device or cannot be split, in words that a user can act on."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.experimental import dtensor
from tensorflow.python.eager import context

from tfdist._internals.mesh.variable import MeshVariable, VariableLayouts, place
from tfdist.errors import UnsupportedError
from tfdist.process import num_processes
from tfdist.sharding.rules import LayoutRules

# Operations that run Python or write text -> what a user calls to get them.
_OF_PYTHON = {
    "PrintV2": "tf.print",
    "StringFormat": "tf.strings.format (or tf.print)",
    "PyFunc": "tf.numpy_function (or tf.py_function)",
    "EagerPyFunc": "tf.py_function",
    "PyFuncStateless": "tf.numpy_function",
}
_DEBUG = "To look at one step's values, compile with run_eagerly=True: the step then runs on the host, where all works."
# Operations of preprocessing layers -> such a layer.
_OF_DATASET = {"LookupTableFindV2": "IntegerLookup", "DenseBincount": "CategoryEncoding"}

# The errors of devices, of all meshes of this process: the meshes share TensorFlow's collectives.
_failures: list[str] = []


class MeshSteps:
    """Explains what goes wrong in the steps of a mesh, and ends all training on it once a device has failed.

    After such a failure the devices may hold different values of one variable, and TensorFlow does not always recover:
    right steps went on to fail, and an operation that was run before its devices were clear ended the process with
    `munmap_chunk(): invalid pointer`.

    Args:
        mesh: Where the steps run.
    """

    def __init__(self, mesh: dtensor.Mesh) -> None:
        self._layout = dtensor.Layout.replicated(mesh, 0)
        self._probe = MeshVariable.create(
            np.int64(0), VariableLayouts.all_as(self._layout), trainable=False, name="mesh_probe"
        )

    @staticmethod
    def refuse_after_failure() -> None:
        """Raises UnsupportedError if a step has failed on a device in this process."""
        if _failures:
            raise UnsupportedError(
                "an earlier step of this process failed on a device of the mesh, and the values that its devices hold "
                "may differ since. Mend the cause and start the program again; weights can still be read and saved. "
                f"It was: {_failures[0]}"
            )

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Surrounds a step, and explains its errors.

        Raises:
            UnsupportedError: DTensor has no way to split the step, or an earlier step failed on a device.
            tf.errors.OpError: The step failed on a device.
        """
        self.refuse_after_failure()
        try:
            yield
        except tf.errors.OpError as error:
            if "{{function_node" not in error.message:  # no device has begun
                if "DTensor" in error.message or "tensorflow/dtensor" in error.message:
                    raise _not_split(error) from error
                raise
            failure = self._cause(error)
            _failures.append(failure.message)
            if failure is error:
                raise
            raise failure from error

    def _cause(self, error: tf.errors.OpError) -> tf.errors.OpError:
        """Returns the error of the device that failed; DTensor may raise that another was cancelled because of it."""
        left = self._error_left_on_devices()
        if not isinstance(error, tf.errors.CancelledError):
            return error
        if left is not None and not isinstance(left, tf.errors.CancelledError):
            return left
        return tf.errors.CancelledError(
            error.node_def,
            error.op,
            "a device of the mesh failed in this step, and the others were cancelled. What it failed with is in "
            "TensorFlow's log above where that has a line with 'is aborting with status'; train_on_batch, or fit under "
            f"'one_device', raises it. Here: {error.message}",
        )

    def _error_left_on_devices(self) -> tf.errors.OpError | None:
        """Returns the error that TensorFlow would raise at the next operation, and clears it.

        Weights can be read afterwards.
        """
        if num_processes() > 1:  # a device may wait for a process that is gone
            return None
        left = None
        try:
            context.context().sync_executors()
        except tf.errors.OpError as error:
            left = error
        try:
            # Every operation is "cancelled before it was started" until one without a result has run.
            self._probe.assign(place(np.int64(0), self._layout))
            context.context().sync_executors()
        except tf.errors.OpError as error:
            left = left or error
        return left


def _not_split(error: tf.errors.OpError) -> UnsupportedError:
    # The last operation that the message quotes is the one at which DTensor stopped.
    operations = re.findall(r"['\"]tf\.(\w+)['\"]", error.message)
    stopped_at = operations[-1] if operations else ""
    if stopped_at in _OF_PYTHON:
        return UnsupportedError(
            f"the step on a mesh is compiled for its devices, and {_OF_PYTHON[stopped_at]} needs the host. {_DEBUG} Or "
            "write what is to be seen in a callback, and what is to be computed on rows in the dataset."
        )
    if stopped_at in _OF_DATASET:
        return UnsupportedError(
            f"DTensor has no rule for the operation tf.{stopped_at}. Apply the layer that has it, such as "
            f"{_OF_DATASET[stopped_at]}, in dataset.map instead of in the model, or train under 'mirrored'."
        )
    said = re.sub(r"^.*?error: ", "", error.message.strip().splitlines()[0])
    if "does not implement layout propagation" in said:
        return UnsupportedError(
            f"DTensor has no rule for the operation tf.{stopped_at}, in whatever layout its inputs are. If a metric "
            "has it, let the metric keep sums alone, and compute the rest from its result in a callback. If a layer "
            f"or loss has it, write it with other operations, or train under 'mirrored'. {_DEBUG}"
        )
    where = f" at the operation tf.{stopped_at}" if stopped_at else ""
    return UnsupportedError(
        f"DTensor has no way to split this model's program over the mesh, and stopped{where}: {said} Leave the "
        "variables of the layer that has this operation, and of the one before it, whole (layout_map), or train "
        "under 'mirrored'. docs/parallelisms/mesh.md has the layers that were tried."
    )


def why_whole(rules: LayoutRules, model: Any) -> str:
    """Returns why the largest variables of a model are whole."""
    largest = sorted(model.trainable_variables, key=lambda variable: -math.prod(variable.shape))[:3]
    return "; ".join(
        f"{variable.path} {tuple(variable.shape)}: {rules.reason_whole(variable.path, tuple(variable.shape))}"
        for variable in largest
    )
