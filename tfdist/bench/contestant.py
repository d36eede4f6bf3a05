"""One process of a contestant: `python -m tfdist.bench.contestant SPEC` trains a model by `fit`, in turns.

SPEC is a JSON object: `model` (`MODULE:FUNCTION`, called with the rows of a batch, as in `tfdist.bench.models`),
`strategy` (a name, or `plain` for Keras without tfdist), `options` of it, `rows` (the global batch), and perhaps
`cores` (numbers of the cores to run on), `precision` (a dtype policy), `tf32` (whether GPUs round what products take to
10 bits), `jit_compile`, and `inspect` (whether memory and collectives are told at the end).
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Mapping
from typing import Any

from tfdist.bench.turns import Ended, Turns


def _pin(cores: list[int] | None) -> None:
    """Keeps this process on some cores; before TensorFlow is loaded, which makes a thread for each that it finds."""
    if cores is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
        os.environ["TF_NUM_INTRAOP_THREADS"] = os.environ["TF_NUM_INTEROP_THREADS"] = str(len(cores))


def _strategy(name: str, options: Mapping[str, Any]) -> Any:
    import tensorflow as tf

    if name == "plain":
        return tf.distribute.get_strategy()
    if name == "stock_mirrored":
        cpu = tf.config.list_physical_devices("CPU")[0]
        count = options["devices"]
        if gpus := tf.config.list_physical_devices("GPU"):
            return tf.distribute.MirroredStrategy(
                [f"GPU:{number}" for number in range(min(count, len(gpus)))]
            )
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
        return tf.distribute.MirroredStrategy([f"CPU:{number}" for number in range(count)])
    from tfdist.strategies.factory import create_strategy

    return create_strategy(name, **options)


def _train(spec: Mapping[str, Any], turns: Turns) -> None:
    import keras
    import tensorflow as tf

    tf.config.experimental.enable_tensor_float_32_execution(spec.get("tf32", True))
    strategy = _strategy(spec["strategy"], spec.get("options", {}))
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(spec.get("precision", "float32"))
    module, _, function = spec["model"].partition(":")
    build, x, y = getattr(importlib.import_module(module), function)(spec["rows"])
    with strategy.scope():
        model = build()
    model.jit_compile = spec.get("jit_compile", model.jit_compile)
    length = next(iter(x.values())).shape[1] if isinstance(x, dict) else 1

    class Pause(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            turns.begin_step()

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            float((logs or {})["loss"])  # waits for the step
            turns.end_step(spec["rows"], length)

    data = tf.data.Dataset.from_tensors((x, y)).repeat(1_000_000).prefetch(2)
    turns.info = {"devices": strategy.num_replicas_in_sync, "parameters": model.count_params()}
    try:
        model.fit(data, verbose=0, shuffle=False, callbacks=[Pause()])
    except Ended:
        turns.done(**(_inspected(model) if spec.get("inspect") else {}))


def _inspected(model: Any) -> dict[str, Any]:
    from tfdist.bench.inspected import inspected

    return inspected(model)


def main() -> None:
    """Trains what the first argument says."""
    spec = json.loads(sys.argv[1])
    _pin(spec.get("cores"))
    _train(spec, Turns())
    # Nothing is left to be done, and processes that train together would wait for each other.
    os._exit(0)


if __name__ == "__main__":
    main()
