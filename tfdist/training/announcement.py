"""The table that a run prints before it starts: strategy, devices, batches, model and data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras
import tensorflow as tf
from rich.table import Table

from tfdist._internals.contract import describe, distribution_of, row_shards_of
from tfdist.config.schema import RunConfig
from tfdist.data.examples import Example
from tfdist.process import num_processes
from tfdist.training.arithmetic import Steps


def announcement(
    config: RunConfig,
    strategy: tf.distribute.Strategy,
    model: keras.Model,
    splits: Mapping[str, Sequence[Example]],
    names: Sequence[str],
    steps: Steps,
) -> Table:
    """Returns a table of strategy, devices, batch arithmetic, precision, model, data and output."""
    training = config.training
    replicas = row_shards_of(strategy)
    accumulation = training.gradient_accumulation_steps or 1
    per_replica, rest = divmod(training.global_batch_size // accumulation, replicas)
    share = f"{per_replica} or {per_replica + 1}" if rest else str(per_replica)
    arithmetic = f"{training.global_batch_size} = {share} x {replicas} replicas"
    if accumulation > 1:
        arithmetic += f" x {accumulation} batches accumulated"
    data = ", ".join(f"{len(examples):,} {split}" for split, examples in splits.items())
    if num_processes() > 1:
        distribution = distribution_of(strategy)
        divided = distribution is not None and distribution.prepares_own_rows
        data += "; each process prepares " + ("its own rows" if divided else "all of them")
    rate = f"{config.optimizer.learning_rate:g}, {config.optimizer.schedule}"
    updates = (
        f"{steps.num_updates(training.gradient_accumulation_steps):,} updates in {steps.num_epochs} epochs"
    )

    table = Table(show_header=False, title="This run", title_justify="left")
    rows = {
        "task": f"{config.task}, {len(names)} labels",
        "strategy": describe(strategy),
        "devices": ", ".join(_devices(strategy)),
        "processes": str(num_processes()),
        "global batch": arithmetic,
        "precision": training.precision,
        "model": f"{config.model.name}, {model.count_params():,} parameters",
        "data": data,
        "optimizer": f"AdamW, {rate}, {updates}",
        "output": config.output,
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _devices(strategy: tf.distribute.Strategy) -> list[str]:
    """Returns short names of the devices on which this process trains."""
    if strategy is not tf.distribute.get_strategy():
        return [device.rpartition("device:")[2] for device in strategy.extended.worker_devices]
    # The default strategy names no device, and TensorFlow takes the first accelerator.
    kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    return [f"{kind}:0"]
