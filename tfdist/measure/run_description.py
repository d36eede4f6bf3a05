"""Describes a run in Markdown tables, for TensorBoard's text page."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from platform import python_version
from typing import Any

import keras
import tensorflow as tf

from tfdist._internals.contract import describe
from tfdist.process import num_processes


def describe_strategy(model: keras.Model) -> str:
    """Returns a table of what the model runs on and is trained with."""
    strategy = model.distribute_strategy
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    kind = next((kind for kind in ("TPU", "GPU") if tf.config.list_logical_devices(kind)), "CPU")
    devices = [device.name for device in tf.config.list_logical_devices(kind)]
    return _table(
        {
            "strategy": describe(strategy),
            "replicas": strategy.num_replicas_in_sync,
            "processes": num_processes(),
            "devices of the chief": ", ".join(name.replace("/device:", "") for name in devices),
            "precision": model.dtype_policy.name,
            "optimizer": type(optimizer).__name__,
            "parameters": f"{model.count_params():,}" if model.built else "not built yet",
            "versions": f"TensorFlow {tf.__version__}, Keras {keras.__version__}, Python {python_version()}",
        }
    )


def describe_config(config: Any) -> str:
    """Returns a table of a dataclass or mapping; the names in nested ones are dotted."""
    return _table(dict(_flatten(config)))


def _flatten(config: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        config = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    if not isinstance(config, Mapping):
        return [(prefix, config)]
    rows = []
    for name, value in config.items():
        rows += _flatten(value, f"{prefix}.{name}" if prefix else str(name))
    return rows


def _table(rows: Mapping[str, Any]) -> str:
    lines = [f"| {name} | {str(value).replace('|', chr(92) + '|')} |" for name, value in rows.items()]
    return "\n".join(["| setting | value |", "|---|---|", *lines])
