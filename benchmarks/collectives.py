"""Collectives of one training step, counted in its graph: stock `MirroredStrategy` beside tfdist's `mirrored`.

`python -m benchmarks.collectives [--smoke]`. A collective of two devices is two operations in the graph and counts
as one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks import harness
from benchmarks.overhead import set_patches, two_devices
from benchmarks.workloads import Workload
from tfdist._internals.replica.extended import next_collective_key_base
from tfdist.parity.inspection import is_collective, traced_functions

BATCH = 8


def _mlp_with_metrics() -> tuple[keras.Model, Any]:
    model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(3)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    entropy = keras.metrics.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy", entropy, keras.metrics.SparseTopKCategoricalAccuracy(2)])
    return model, (np.zeros((BATCH, 20), "float32"), np.zeros(BATCH, "int32"))


def _synchronized_norm() -> tuple[keras.Model, Any]:
    norm = keras.layers.BatchNormalization(synchronized=True)
    model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(8), norm, keras.layers.Dense(3)])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model, (np.zeros((BATCH, 20), "float32"), np.zeros(BATCH, "int32"))


def _masked() -> tuple[keras.Model, Any]:
    embedding = keras.layers.Embedding(20, 4, mask_zero=True)
    model = keras.Sequential([keras.Input((6,), dtype="int32"), embedding, keras.layers.Dense(3)])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model, (np.ones((BATCH, 6), "int32"), np.zeros((BATCH, 6), "int32"))


def _bert() -> tuple[keras.Model, Any]:
    workload = Workload("bert", BATCH, smoke=True)
    return workload.build(), workload.rows(1)


CASES: dict[str, Callable[[], tuple[keras.Model, Any]]] = {
    "mlp, 3 metrics": _mlp_with_metrics,
    "bert": _bert,
    "synchronized BatchNormalization": _synchronized_norm,
    "masked loss": _masked,
}


def count(model: keras.Model, num_devices: int) -> dict[str, float]:
    """Returns the collectives of the model's training step by kind of operation.

    Counted in the largest graph of the train function: a nested function is in the library of what calls it.
    """
    counts: list[Counter[str]] = []
    for function in traced_functions(model.train_function):
        for concrete in function._list_all_concrete_functions():
            graph = concrete.graph.as_graph_def()
            nodes = [*graph.node, *(node for one in graph.library.function for node in one.node_def)]
            counts.append(Counter(node.op for node in nodes if is_collective(node.op)))
    largest = max(counts, key=Counter.total)
    return {name: number / num_devices for name, number in sorted(largest.items())}


def measure(smoke: bool) -> dict[str, Any]:
    """Trains every case, or the first, for one step under both strategies and counts."""
    next_collective_key_base()
    mirrored, stock = two_devices()
    results: dict[str, Any] = {}
    for name, build in list(CASES.items())[: 1 if smoke else None]:
        results[name] = {}
        for label, strategy in {"stock_mirrored": stock, "mirrored": mirrored}.items():
            set_patches(label == "mirrored")
            with strategy.scope():
                model, (inputs, labels) = build()
            dataset = tf.data.Dataset.from_tensor_slices((inputs, labels)).batch(BATCH)
            model.fit(dataset, verbose=0)
            results[name][label] = count(model, strategy.num_replicas_in_sync)
        print(name, results[name], flush=True)
    return {"collectives": results}


def main() -> None:
    arguments = harness.parse_arguments(__doc__.splitlines()[0])
    print(harness.write(arguments.output, "collectives", measure(arguments.smoke)))


if __name__ == "__main__":
    main()
