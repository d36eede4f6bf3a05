"""Results of metrics are computed on values that can be read on the host, after the last step.

At the end of an epoch Keras computes them eagerly. DTensor refuses an eager operation on a variable of the mesh and a
constant of the host: "got a regular tensor ... but was expecting a DTensor". This is also the place where a failure of
the epoch's last step is raised.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from keras import tree
from keras.src.backend.common.stateless_scope import StatelessScope
from keras.src.trainers.trainer import Trainer

from tfdist._internals.contract import Distribution, current_step
from tfdist._internals.patch import Patch, of_model


def _settled(distribution: Distribution, stock: Any, model: Any) -> Any:
    if not tf.executing_eagerly():
        # A metric may return its variable. No step of a mesh can return one.
        return tree.map_structure(tf.convert_to_tensor, stock(model))
    if current_step() is None:
        # The steps of an epoch are over, and weights may be read from now on.
        distribution.settle(model)
    values = distribution.settled([variable for metric in model.metrics for variable in metric.variables])
    if not values:
        return stock(model)
    with StatelessScope(state_mapping=values):
        return stock(model)


PATCHES = (
    Patch(
        name="fit.results",
        owner=Trainer,
        attribute="get_metrics_result",
        make=of_model(_settled),
        reason="no step of a mesh can return a variable, which a metric may do; an eager one mixes mesh and host",
        upstream="no thread found",
    ),
)
