"""What a contestant can tell after its steps: memory of the devices, and which collectives its step has."""

from __future__ import annotations

from collections import Counter
from typing import Any

import keras
import tensorflow as tf

from tfdist.parity.inspection import is_collective, traced_functions


def inspected(model: keras.Model) -> dict[str, Any]:
    """Returns `peak_bytes` of each GPU, `devices` by name, and `collectives` of a step by kind and hint.

    The hint of a collective says what was asked for: `auto` takes NCCL where all devices are GPUs.
    """
    gpus = tf.config.list_logical_devices("GPU")
    return {
        "peak_bytes": [
            tf.config.experimental.get_memory_info(f"GPU:{index}")["peak"] for index in range(len(gpus))
        ],
        "devices": [
            tf.config.experimental.get_device_details(gpu).get("device_name", "unknown")
            for gpu in tf.config.list_physical_devices("GPU")
        ],
        "collectives": _collectives(model),
    }


def _collectives(model: keras.Model) -> dict[str, int]:
    counts: list[Counter[str]] = [Counter()]
    for function in traced_functions(model.train_function):
        for concrete in function._list_all_concrete_functions():
            graph = concrete.graph.as_graph_def()
            nodes = [*graph.node, *(node for one in graph.library.function for node in one.node_def)]
            counts.append(Counter(_named(node) for node in nodes if is_collective(node.op)))
    largest: Counter[str] = max(counts, key=lambda count: sum(count.values()))
    return dict(largest)


def _named(node: Any) -> str:
    hint = node.attr["communication_hint"].s.decode() if "communication_hint" in node.attr else ""
    return f"{node.op} ({hint})" if hint else str(node.op)
