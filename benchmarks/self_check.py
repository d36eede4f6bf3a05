"""The self check: faults that it finds, alarms that are false, and what it costs.

`python -m benchmarks.self_check [faults|alarms|models|cost] [--smoke]`. `faults` plants each fault of
`benchmarks.faults` under `mirrored` of 2; `alarms` runs all parity cases with the check on the named topologies;
`models` trains KerasHub's BERT and GPT-2 and a MobileNet in three precisions, and a small model with each optimizer;
`cost` trains a BERT of the size of MiniLM.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import harness

TOPOLOGIES = ("mirrored_2", "mesh_2x2", "workers_2x1")
SMOKE_FAULTS = 3
# Each of these raised a false alarm once.
SMOKE_CASES = (
    "aggregation",
    "poisoned_row",
    "summed_rows",
    "on_batch",
    "resumed_within_an_epoch[accumulating]",
)

CHECKED_MODELS = ("keras_hub/Bert", "keras_hub/GPT2", "applications/MobileNet")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
OPTIMIZERS = (
    *("sgd", "adam", "adamw", "adamax", "nadam", "rmsprop", "adagrad", "adadelta", "ftrl", "lion"),
    *("adafactor", "muon"),
)


def find_faults(smoke: bool) -> dict[str, Any]:
    """Returns by the name of each fault whether the check found it, and the first lines of what it said."""
    import tfdist

    strategy = tfdist.create_strategy("mirrored", devices=2, self_check="on")
    import keras

    from benchmarks.faults import all_faults
    from benchmarks.faults.model import restore, rows

    found = {}
    for fault in all_faults()[: SMOKE_FAULTS if smoke else None]:
        keras.backend.clear_session()
        keras.utils.set_random_seed(0)
        said, begun = "", time.monotonic()
        try:
            with strategy.scope():
                model = fault.build()
            model.fit(*rows(), batch_size=8, epochs=1, verbose=0, shuffle=False)
        except tfdist.errors.SelfCheckError as error:
            said = str(error)
        finally:
            while restore:
                restore.pop()()
        found[fault.name] = {"found": bool(said), "seconds": round(time.monotonic() - begun, 1), "said": said}
        print(f"{'found ' if said else 'MISSED'} {fault.name}", flush=True)
    return found


def false_alarms(smoke: bool, topologies: list[str], jobs: int) -> dict[str, Any]:
    """Returns by topology how many parity cases ran with the check, and those in which it raised an error."""
    os.environ["TFDIST_SELF_CHECK"] = "on"
    from tfdist.parity.run.suite import run_topologies

    with tempfile.TemporaryDirectory() as folder:
        names = SMOKE_CASES if smoke else None
        cells = run_topologies(topologies, Path(folder), cases=names, jobs=jobs)
    found: dict[str, Any] = {}
    for (name, topology), cell in cells.items():
        counted = found.setdefault(topology, {"cases": 0, "alarms": {}, "failures": {}})
        counted["cases"] += 1
        if "SelfCheckError" in cell.message:
            counted["alarms"][name] = cell.message
        elif not cell.passed:
            counted["failures"][name] = cell.message
    return found


def alarms_of_models(smoke: bool) -> dict[str, Any]:
    """Returns what the check said, by strategy and then by model and precision, or optimizer."""
    import tfdist
    from tfdist.devices import make_logical_cpus

    make_logical_cpus(4)
    strategies = {
        "mirrored of 2": tfdist.create_strategy("mirrored", devices=2, self_check="on"),
        "mesh 2x2": tfdist.create_strategy("mesh", mesh={"batch": 2, "model": 2}, self_check="on"),
    }
    import keras
    import numpy as np

    from benchmarks import model_catalog as catalog

    labels = np.arange(catalog.ROWS) % catalog.CLASSES

    def small() -> keras.Model:
        inputs = keras.Input((8,), dtype="int32")
        hidden = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(24, 8)(inputs))
        hidden = keras.layers.Dropout(0.2)(keras.layers.Dense(16, activation="relu")(hidden))
        return keras.Model(inputs, keras.layers.Dense(catalog.CLASSES)(hidden))

    ids = np.random.default_rng(0).integers(0, 24, (catalog.ROWS, 8), dtype=np.int32)
    runs: list[tuple[str, Any, Any, str, Any]] = []
    for name in CHECKED_MODELS[:1] if smoke else CHECKED_MODELS:
        for dtype in PRECISIONS:
            build, rows = catalog.model(name)
            runs.append((f"{name}, {dtype}", build, rows, dtype, "sgd"))
    for optimizer in OPTIMIZERS[:1] if smoke else OPTIMIZERS:
        for dtype in PRECISIONS:
            runs.append((f"{optimizer}, {dtype}", small, ids, dtype, optimizer))
    found: dict[str, Any] = {key: {} for key in strategies}
    for key, strategy in strategies.items():
        for name, build, rows, dtype, optimizer in runs:
            keras.backend.clear_session()
            keras.utils.set_random_seed(0)
            keras.config.set_dtype_policy(dtype)
            said = ""
            try:
                with strategy.scope():
                    model = build()
                    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
                    model.compile(optimizer, loss, metrics=["accuracy"])
                model.fit(rows, labels, batch_size=catalog.ROWS, shuffle=False, verbose=0)
            except Exception as error:
                said = f"{type(error).__name__}: {error}"
            finally:
                keras.config.set_dtype_policy("float32")
            found[key][name] = said
            print(f"{key}: {name}: {said or 'passed'}", flush=True)
    return found


def first_batch(smoke: bool, mode: str, fixed: bool) -> dict[str, Any]:
    """Returns the seconds from the start of `fit` to the end of its first batch, and of the check's parts.

    `peak_mib` is the memory of the process at its most, which on a CPU is that of the devices and of the host.

    Args:
        smoke: Takes a tiny model instead of one of MiniLM's size.
        mode: Of the check.
        fixed: Whether the batches have a fixed shape, so that the check takes a whole one.
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
    ids = generator.integers(1, config.vocab_size, (96, 64), dtype=np.int32)
    inputs = {"token_ids": ids, "segment_ids": ids * 0, "padding_mask": ids * 0 + 1}
    data = tf.data.Dataset.from_tensor_slices((inputs, generator.integers(0, 2, 96)))
    data = data.batch(32, drop_remainder=fixed)
    ended: list[float] = []
    with strategy.scope():
        model = bert_classifier(build_bert(config), num_labels=2)
        model.compile(
            keras.optimizers.AdamW(1e-4), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        )
    note = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: ended.append(time.monotonic())
    )
    begun = time.monotonic()
    model.fit(data, epochs=1, verbose=0, callbacks=[note])
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = {
        "first_batch": ended[0] - begun,
        "step": ended[-1] - ended[-2],
        "peak_mib": round(peak_kib / 1024),
    }
    return found | ({"rows": results[0].num_rows, "parts": results[0].parts} if results else {})


def cost(smoke: bool, repeats: int) -> dict[str, Any]:
    """Returns by the shape of batches what the check costs: runs with it beside runs without, each in its process.

    `seconds` is how much longer the first batch takes, in each pair of runs; `trace` what the step on one device takes
    until it is compiled: its trace, and by how much its first call is longer than its second; `compute` is the rest.
    """
    found: dict[str, Any] = {}
    for shape in ("any", "fixed"):
        pairs = []
        for _ in range(repeats):
            runs = {}
            for mode in ("off", "on"):
                command = [sys.executable, "-m", "benchmarks.self_check", "cost", "--one", mode, shape]
                command += ["--smoke"] * smoke
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                runs[mode] = json.loads(done.stdout.splitlines()[-1])
            pairs.append(runs)
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


def main(arguments: list[str]) -> None:
    """Runs what is asked for, each in this process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["faults", "alarms", "models", "cost"], nargs="?", default="faults")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--topologies", nargs="+", default=list(TOPOLOGIES))
    parser.add_argument("--jobs", type=int, default=2, help="busy processes at a time, of alarms")
    parser.add_argument("--repeats", type=int, default=5, help="pairs of runs, of cost")
    parser.add_argument("--output", type=Path, default=harness.RESULTS)
    parser.add_argument("--one", nargs=2, metavar=("MODE", "SHAPE"), help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.one:
        mode, shape = chosen.one
        print(json.dumps(first_batch(chosen.smoke, mode, shape == "fixed")))
        return
    if chosen.what == "faults":
        results = find_faults(chosen.smoke)
    elif chosen.what == "alarms":
        results = false_alarms(chosen.smoke, chosen.topologies, chosen.jobs)
    elif chosen.what == "models":
        results = alarms_of_models(chosen.smoke)
    else:
        results = cost(chosen.smoke, 1 if chosen.smoke else chosen.repeats)
    harness.write(chosen.output, f"self_check_{chosen.what}", {"results": results})


if __name__ == "__main__":
    main(sys.argv[1:])
