"""What DTensor says when it cannot split a program over a mesh, in words that a user can act on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import tensorflow as tf

from tfdist.errors import UnsupportedError


@contextmanager
def mesh_errors_explained() -> Iterator[None]:
    """Raises UnsupportedError in place of an error of DTensor's compiler, and says where the cause of others is."""
    try:
        yield
    except tf.errors.CancelledError as error:
        raise tf.errors.CancelledError(
            error.node_def,
            error.op,
            "a device of the mesh failed in this step, and the others were cancelled. TensorFlow has logged the cause "
            f"above, in a line with 'is aborting with status'. Here: {error.message}",
        ) from error
    except tf.errors.OpError as error:
        of_compiler = "DTensor" in error.message or "tensorflow/dtensor" in error.message
        if not of_compiler or "{{node" in error.message:
            raise
        # The last operation quoted is the one that it stopped at.
        operations = re.findall(r"['\"](tf\.\w+)['\"]", error.message)
        where = f" at the operation {operations[-1]}" if operations else ""
        said = re.sub(r"^.*?error: ", "", error.message.strip().splitlines()[0])
        raise UnsupportedError(
            f"DTensor has no way to split this model's program over the mesh, and stopped{where}: {said} Leave the "
            "variables of the layer that has this operation, and of the one before it, whole (layout_map), or train "
            "under 'mirrored'. docs/parallelisms/mesh.md has the layers that were tried."
        ) from error
