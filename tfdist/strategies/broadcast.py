"""`tfdist.broadcast_weights`: what the chief has loaded, in every process."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from tfdist._internals.contract import distribution_of
from tfdist.process import num_processes


def broadcast_weights(model: Any) -> None:
    """Gives every process the chief's weights, and those of the optimizer if it is built. All processes call it.

    In one process it does nothing.

    Args:
        model: A built Keras model that was made in the scope of a strategy, in every process.

    Raises:
        UnsupportedError: A variable is split over the processes of a mesh, so that the chief has no whole value.
        WorkerError: A process did not arrive.
    """
    distribution = distribution_of(model.distribute_strategy)
    if num_processes() == 1 or distribution is None:
        return
    optimizer = getattr(model, "optimizer", None)
    of_optimizer = list(optimizer.variables) if optimizer is not None and optimizer.built else []
    variables = [variable for variable in (*model.variables, *of_optimizer) if variable.dtype != "string"]
    arrays = [np.asarray(keras.ops.convert_to_numpy(variable)) for variable in variables]
    for variable, array in zip(variables, distribution.of_chief(arrays), strict=True):
        variable.assign(array)
