"""The self check: faults that it finds, alarms that are false, and what it costs.

`python -m benchmarks.self_check [faults|alarms|models|cost|memory] [--smoke]`. `faults` plants each fault of
`benchmarks.faults` under `mirrored` of 2; `alarms` runs all parity cases with the check on the named topologies;
`models` trains KerasHub's BERT and GPT-2 and a MobileNet in three precisions, and a small model with each optimizer;
`cost` and `memory` train a BERT of the size of MiniLM.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.self_check_run import cost, memory

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

    # The folder stays, since the stacks of a process that hung are in its log.
    folder = Path(tempfile.mkdtemp(prefix="self-check-"))
    print(f"logs and results: {folder}", flush=True)
    cells = run_topologies(topologies, folder, cases=SMOKE_CASES if smoke else None, jobs=jobs)
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


def main(arguments: list[str]) -> None:
    """Runs what is asked for, each in this process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "what", choices=["faults", "alarms", "models", "cost", "memory"], nargs="?", default="faults"
    )
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--topologies", nargs="+", default=list(TOPOLOGIES))
    parser.add_argument("--jobs", type=int, default=2, help="busy processes at a time, of alarms")
    parser.add_argument("--repeats", type=int, default=5, help="pairs of runs, of cost")
    parser.add_argument("--output", type=Path, default=harness.RESULTS)
    chosen = parser.parse_args(arguments)
    if chosen.what == "faults":
        results = find_faults(chosen.smoke)
    elif chosen.what == "alarms":
        results = false_alarms(chosen.smoke, chosen.topologies, chosen.jobs)
    elif chosen.what == "models":
        results = alarms_of_models(chosen.smoke)
    elif chosen.what == "memory":
        results = memory(chosen.smoke)
    else:
        results = cost(chosen.smoke, 1 if chosen.smoke else chosen.repeats)
    harness.write(chosen.output, f"self_check_{chosen.what}", {"results": results})


if __name__ == "__main__":
    main(sys.argv[1:])
