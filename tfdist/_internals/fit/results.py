"""Results of metrics on a mesh are computed on the host.

At the end of an epoch Keras computes them eagerly, and DTensor refuses an operation on a variable of the mesh and a
constant of the host: "got a regular tensor ... but was expecting a DTensor". It is also where the failure of an
epoch's last step must be seen.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from keras.src.backend.common.stateless_scope import StatelessScope
from keras.src.trainers.trainer import Trainer

from tfdist._internals.registry import Patch


def _on_host(stock: Any) -> Any:
    def get_metrics_result(self: Any) -> Any:
        if not hasattr(self.distribute_strategy, "on_host") or not tf.executing_eagerly():
            return stock(self)
        with self.distribute_strategy.watched_step():
            self.distribute_strategy.check_last_step()
        variables = [variable for metric in self.metrics for variable in metric.variables]
        with StatelessScope(state_mapping=[(v, tf.constant(v.value.numpy())) for v in variables]):
            return stock(self)

    return get_metrics_result


PATCHES = (
    Patch(
        name="mesh_results",
        owner=Trainer,
        attribute="get_metrics_result",
        make=_on_host,
        reason="DTensor refuses to mix variables of a mesh and constants of the host",
        upstream="no thread found",
    ),
)
