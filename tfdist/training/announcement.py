"""What a run runs on, told before it starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras
import tensorflow as tf
from rich.table import Table

from tfdist.config.schema import RunConfig
from tfdist.data.examples import Example
from tfdist.process import num_processes


def announcement(
    config: RunConfig,
    strategy: tf.distribute.Strategy,
    model: keras.Model,
    splits: Mapping[str, Sequence[Example]],
    names: Sequence[str],
    num_updates: int,
) -> Table:
    """Returns a table of strategy, devices, batch arithmetic, precision, model, data and output."""
    training = config.training
    # A mesh is one replica to Keras, and its batch axis is what shares the rows.
    replicas = getattr(strategy, "axes", {}).get("batch", strategy.num_replicas_in_sync)
    accumulation = training.gradient_accumulation_steps or 1
    per_replica, rest = divmod(training.global_batch_size // accumulation, replicas)
    share = f"{per_replica} or {per_replica + 1}" if rest else str(per_replica)
    arithmetic = f"{training.global_batch_size} = {share} x {replicas} replicas"
    if accumulation > 1:
        arithmetic += f" x {accumulation} batches accumulated"
    data = ", ".join(f"{len(examples):,} {split}" for split, examples in splits.items())
    if num_processes() > 1:
        divided = hasattr(strategy, "all_gather_arrays")
        data += "; each process prepares " + ("its own rows" if divided else "all of them")
    rate = f"{config.optimizer.learning_rate:g}, {config.optimizer.schedule}"

    table = Table(show_header=False, title="This run", title_justify="left")
    rows = {
        "task": f"{config.task}, {len(names)} labels",
        "strategy": _strategy_name(strategy),
        "devices": ", ".join(_devices(strategy)),
        "processes": str(num_processes()),
        "global batch": arithmetic,
        "precision": training.precision,
        "model": f"{config.model.name}, {model.count_params():,} parameters",
        "data": data,
        "optimizer": f"AdamW, {rate}, {num_updates:,} updates in {training.epochs} epochs",
        "output": config.output,
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _devices(strategy: tf.distribute.Strategy) -> list[str]:
    """Short names of the devices that this process trains on."""
    if strategy is not tf.distribute.get_strategy():
        return [device.rpartition("device:")[2] for device in strategy.extended.worker_devices]
    # The default strategy, which names none: TensorFlow takes the first accelerator.
    kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    return [f"{kind}:0"]


def _strategy_name(strategy: tf.distribute.Strategy) -> str:
    if strategy is tf.distribute.get_strategy():
        return "one_device"
    axes = getattr(strategy, "axes", {})
    return " ".join([type(strategy).__name__, *(f"{axis}={size}" for axis, size in axes.items())])
