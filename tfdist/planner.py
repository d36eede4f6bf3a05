"""What a mesh would do to a model, without its devices and without memory for a single weight."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

from tfdist._internals.shapes_only import build_valueless
from tfdist.sharding.automatic import Axes
from tfdist.sharding.placement import Placement, local_shape
from tfdist.sharding.report import AS_ITS_VARIABLE, ShardingReport, VariablePlacement


def plan_sharding(
    build: Callable[[], keras.Model],
    mesh: Mapping[str, int] | str | Any,
    layout_map: Any = "auto",
    shard_optimizer: bool = False,
    shard_weights: bool = False,
    optimizer: keras.optimizers.Optimizer | None = None,
) -> ShardingReport:
    """Returns the report that `sharding_report` would give of the model, if it were built under the mesh strategy.

    Variables get a path and a shape but no value, so that a model larger than this host's memory can be planned.

    Args:
        build: Builds the model. It must not assign values to the weights.
        mesh: As for `create_strategy("mesh", ...)`.
        layout_map: As for `create_strategy("mesh", ...)`.
        shard_optimizer: As for `create_strategy("mesh", ...)`.
        shard_weights: As for `create_strategy("mesh", ...)`.
        optimizer: An optimizer that is not built yet, if its state is to be planned too.

    Raises:
        ConfigError: The mesh or a rule does not fit the model.
    """
    placement = Placement.create(mesh, layout_map, shard_optimizer, shard_weights)
    rules, sizes = placement.rules, placement.mesh
    model, references = build_valueless(build, optimizer)
    stored = {v.path: placement.of_variable(v.path, tuple(v.shape))[0] for v in model.variables}
    rules.check_all_used(list(stored))
    placed = [
        _placed(v, stored[v.path], rules.reason_whole(v.path, tuple(v.shape)), sizes) for v in model.variables
    ]
    for variable in optimizer.variables if optimizer is not None else ():
        reference, shape = references.get(variable.path), tuple(variable.shape)
        if reference is None or tuple(reference.shape) != shape:
            placed.append(_placed(variable, (None,) * len(shape), "", sizes))
            continue
        axes = placement.of_slot(stored[reference.path], shape)
        placed.append(_placed(variable, axes, AS_ITS_VARIABLE, sizes))
    return ShardingReport(tuple(placed), sizes)


def _placed(variable: Any, axes: Axes, reason: str, sizes: Mapping[str, int]) -> VariablePlacement:
    shape, item_bytes = tuple(variable.shape), tf.as_dtype(variable.dtype).size
    local_bytes = item_bytes * math.prod(local_shape(axes, shape, sizes))
    return VariablePlacement(
        variable.path,
        shape,
        axes,
        item_bytes * math.prod(shape),
        (local_bytes,) * math.prod(sizes.values()),
        "" if any(axes) or not shape else reason,
    )
