"""One run of a BERT of MiniLM's size with the self check and without: seconds until its first batch, and memory.

`benchmarks.self_check cost` and `memory` start each run as a process of its own.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

BATCH = 32


def train(smoke: bool, mode: str, fixed: bool, **hooks: Callable[..., None]) -> tuple[list[float], list[Any]]:
    """Trains for three batches under `mirrored` of 2.

    Args:
        smoke: Takes a tiny model instead of one of MiniLM's size.
        mode: Of the check.
        fixed: Whether the batches have a fixed shape, so that the check takes a whole one.
        hooks: Functions of a `LambdaCallback`.

    Returns:
        When `fit` began and each batch ended, in seconds, and what the check returned.
    """
    import numpy as np

    import tfdist

    strategy = tfdist.create_strategy("mirrored", devices=2, self_check=mode)
    import keras
    import tensorflow as tf

    import tfdist._internals.check as room
    from tfdist.models import BertConfig, bert_classifier, build_bert

    hidden, layers = (32, 1) if smoke else (384, 6)
    config = BertConfig(
        vocab_size=30522 if not smoke else 100,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        intermediate_size=4 * hidden,
        max_position_embeddings=512,
    )
    results: list[Any] = []
    check_step = room.check_step

    def noted(*args: Any) -> Any:
        results.append(check_step(*args))
        return results[-1]

    room.check_step = noted
    generator = np.random.default_rng(0)
    ids = generator.integers(1, config.vocab_size, (3 * BATCH, 64), dtype=np.int32)
    inputs = {"token_ids": ids, "segment_ids": ids * 0, "padding_mask": ids * 0 + 1}
    data = tf.data.Dataset.from_tensor_slices((inputs, generator.integers(0, 2, 3 * BATCH)))
    data = data.batch(BATCH, drop_remainder=fixed)
    with strategy.scope():
        model = bert_classifier(build_bert(config), num_labels=2)
        model.compile(
            keras.optimizers.AdamW(1e-4), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        )
    times: list[float] = []
    clock = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: times.append(time.monotonic())
    )
    times.append(time.monotonic())
    model.fit(data, epochs=1, verbose=0, callbacks=[clock, keras.callbacks.LambdaCallback(**hooks)])
    return times, results


def first_batch(smoke: bool, mode: str, fixed: bool) -> dict[str, Any]:
    """Returns the seconds from the start of `fit` to the end of its first batch, and of the check's parts.

    `peak_mib` is the memory of the process at its most, which on a CPU is that of the devices and of the host.
    """
    times, results = train(smoke, mode, fixed)
    found = {
        "first_batch": times[1] - times[0],
        "step": times[-1] - times[-2],
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    return found | ({"rows": results[0].num_rows, "parts": results[0].parts} if results else {})


def device_memory(smoke: bool, fixed: bool) -> dict[str, float]:
    """Returns the MiB that TensorFlow's allocator of the devices has given out at most, for each of two devices.

    `state` is what lies there between two steps, `step` that of a training step, `check` that of the check's step on
    all devices, `reference` that of its steps on one. The check's values on the host are kept out of the allocator, as
    they would be if the devices were no CPUs.
    """
    os.environ["TF_CPU_ALLOCATOR_USE_BFC"] = "1"  # the one that keeps account, as on a GPU
    import numpy as np
    import tensorflow as tf

    from tfdist._internals.check import reference, variables

    def on_host(variable: Any) -> np.ndarray:
        return np.array(variable.read_value())

    def used(number: str = "peak") -> float:
        return tf.config.experimental.get_memory_info("CPU:0")[number] / 2**20  # of all logical devices

    def begin() -> None:
        tf.config.experimental.reset_memory_stats("CPU:0")

    most: dict[str, float] = {}

    def note(part: str, number: str = "peak") -> None:
        most[part] = max(most.get(part, 0.0), used(number))

    run = reference.Reference.run

    def noted_run(*args: Any) -> Any:
        most.setdefault("check", used())  # until the first of its runs
        begin()
        found = run(*args)
        note("reference")
        return found

    reference.Reference.run = noted_run  # type: ignore[method-assign]
    reference.value_of = variables.value_of = on_host  # type: ignore[assignment]

    def before_batch(batch: int, logs: Any) -> None:
        if batch:
            note("state", "current")
        begin()

    def after_batch(batch: int, logs: Any) -> None:
        if batch:
            note("step")

    train(smoke, "on", fixed, on_train_batch_begin=before_batch, on_train_batch_end=after_batch)
    # While one device does the step, the other one has its state.
    most["reference"] -= most["state"] / 2
    return {part: round(mib if part == "reference" else mib / 2, 1) for part, mib in most.items()}


def memory(smoke: bool) -> dict[str, Any]:
    """Returns by the shape of batches what memory of a device the check takes, beside that of a training step."""
    found: dict[str, Any] = {}
    for shape in ("any", "fixed"):
        found[shape] = mib = _in_process("memory", "on", shape, smoke)
        mib["ratio"] = max(mib["check"], mib["reference"]) / mib["step"]
        print(f"{shape} shape of batches, MiB of a device: {mib}", flush=True)
    return found


def cost(smoke: bool, repeats: int) -> dict[str, Any]:
    """Returns by the shape of batches what the check costs: runs with it beside runs without, each in its process.

    `seconds` is how much longer the first batch takes, in each pair of runs; `trace` what the step on one device takes
    until it is compiled: its trace, and by how much its first call is longer than its second; `compute` is the rest.
    """
    found: dict[str, Any] = {}
    for shape in ("any", "fixed"):
        pairs = [
            {mode: _in_process("cost", mode, shape, smoke) for mode in ("off", "on")} for _ in range(repeats)
        ]
        seconds = [runs["on"]["first_batch"] - runs["off"]["first_batch"] for runs in pairs]
        traces = []
        for runs in pairs:
            parts = runs["on"]["parts"]
            first_call = parts["first step of one device"] - parts["second step of one device"]
            traces.append(parts["compile on one device"] + first_call)
        compute = [of_pair - trace for of_pair, trace in zip(seconds, traces, strict=True)]
        series = {"seconds": seconds, "trace": traces, "compute": compute}
        medians = {name: statistics.median(values) for name, values in series.items()}
        found[shape] = medians | {"of_pairs": series, "runs": pairs}
        print(f"{shape} shape of batches: {medians}", flush=True)
    return found


def _in_process(what: str, mode: str, shape: str, smoke: bool) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.self_check_run", what, mode, shape, *["--smoke"] * smoke]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main(arguments: list[str]) -> None:
    """Does one run, and prints what was measured as JSON."""
    what, mode, shape, *smoke = arguments
    if what == "memory":
        measured = device_memory(bool(smoke), shape == "fixed")
    else:
        measured = first_batch(bool(smoke), mode, shape == "fixed")
    print(json.dumps(measured))


if __name__ == "__main__":
    main(sys.argv[1:])
