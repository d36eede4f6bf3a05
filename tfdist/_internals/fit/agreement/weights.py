"""The workers begin and end an epoch with the same weights. If one has loaded others, or drifts away, it is told."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfdist._internals.contract import Distribution, distribution_of
from tfdist._internals.fit.agreement.digests import Pieces, differ, first_difference, in_short
from tfdist.errors import WorkerError


def weights_in_short(model: Any, *, slots: bool) -> dict[str, int] | None:
    """Returns the digests of a model's variables and its optimizer's; None if the model is not built.

    Args:
        model: The model.
        slots: Whether the optimizer's slots count too, once it has made an update.
    """
    distribution = distribution_of(model.distribute_strategy)
    if not model.built or distribution is None:
        return None
    return in_short(_pieces(distribution, model, slots))


def check_weights(model: Any, found: list[dict[str, int] | None], when: str, *, slots: bool) -> None:
    """Compares what `weights_in_short` gave in every process.

    Raises:
        WorkerError: They differ; the message names the first variable.
    """
    known = [one for one in found if one is not None]
    distribution = distribution_of(model.distribute_strategy)
    if len(known) < len(found) or distribution is None or not differ(known):
        return
    raise WorkerError(
        f"the workers have different weights {when}: {first_difference(_pieces(distribution, model, slots))}. Load or "
        "set weights in every process alike; or load them in the chief, and call tfdist.broadcast_weights(model) in "
        "every process before fit."
    )


def _pieces(distribution: Distribution, model: Any, slots: bool) -> Pieces:
    in_metrics = {id(variable) for metric in model.metrics for variable in metric.variables}
    variables = [variable for variable in model.variables if id(variable) not in in_metrics]
    optimizer = getattr(model, "optimizer", None)
    of_optimizer = list(optimizer.variables) if optimizer is not None and optimizer.built else []
    if not slots or (of_optimizer and not _value_is_set(optimizer)):
        of_optimizer = [variable for variable in of_optimizer if not variable.shape]
    pieces: dict[str, Any] = {}
    for variable in (*variables, *of_optimizer):
        name = variable.path
        while name in pieces:  # two layers may have been given one name
            name += "'"
        if tf.as_dtype(variable.dtype) != tf.string:
            pieces[name] = distribution.pieces_of(variable)
    return pieces


def _value_is_set(optimizer: Any) -> bool:
    # While gradients are accumulated this is a tensor, and else a variable.
    return int(keras.ops.convert_to_numpy(optimizer.iterations)) > 0
