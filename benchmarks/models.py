"""One training step of known models under `mesh` 2x2 and `mirrored` of 2, held against plain Keras on one device.

`python -m benchmarks.models [--smoke] [--only NAME...] [--jobs N] [--page docs/models.md]`. Each model has its own
process. The step is SGD's, and its update is compared, not the weights, which hardly move in one step. What rounding
alone does is measured too: plain Keras on the same rows in reverse order.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks import harness

STRATEGIES: dict[str, tuple[str, dict[str, Any]]] = {
    "mesh 2x2": ("mesh", {"mesh": {"batch": 2, "model": 2}}),
    "mirrored of 2": ("mirrored", {"devices": 2}),
}
LIMIT_S = 420.0
# An update that differs by more than this, and by more than ten times what rounding does, is not that of one device.
EQUAL, ROUNDINGS = 1e-5, 10

PAGE = """# Models

<!-- Written by `python -m benchmarks.models --page docs/models.md`; do not edit. -->

Models of `keras.applications` and backbones of KerasHub, each with a head of {classes} classes, for one step of SGD on
{rows} rows: under `mesh` 2×2 with `layout_map="auto"`, under `mirrored` of 2, and in plain Keras on one device. Weights
are drawn, images are small and from 0 to 1, backbones have two layers. Dropout is off, and batch normalization is
`synchronized`, which Keras has off. The numbers are the difference of the whole update, as a share of it, and of the
loss. *Rounding* is what plain Keras differs by if it is given the rows in reverse order, and *split* how many of the
model's trainable variables the mesh splits.

The self check was on, and passed wherever numbers stand. Depth multiplies rounding. A model is equal to one device if
its update differs by at most 1e-5, or by at most ten times what rounding does.

| Model | rounding | mesh 2x2: update | loss | split | mirrored of 2: update | loss |
|---|---|---|---|---|---|---|
{table}

{refused}
"""


def step(name: str) -> dict[str, Any]:
    """Trains one model for one step on one device and under each strategy."""
    import tfdist
    from tfdist.devices import make_logical_cpus

    make_logical_cpus(4)
    strategies = {
        key: tfdist.create_strategy(kind, self_check="on", **options)
        for key, (kind, options) in STRATEGIES.items()
    }

    import keras
    import numpy as np

    from benchmarks import model_catalog as catalog

    build, rows = catalog.model(name)
    labels = np.arange(catalog.ROWS) % catalog.CLASSES
    start: list[np.ndarray] = []

    def trained(scope: Any, order: slice) -> tuple[float, np.ndarray, Any]:
        keras.utils.set_random_seed(0)
        with scope:
            model = build()
            for layer in model._flatten_layers():
                if isinstance(layer, keras.layers.BatchNormalization):
                    layer.synchronized = True
                if isinstance(layer, keras.layers.Dropout):
                    layer.rate = 0.0
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            model.compile(keras.optimizers.SGD(0.1), loss)
        start.extend(() if start else model.get_weights())
        model.set_weights(start)
        data = keras.tree.map_structure(lambda one: one[order], rows)
        history = model.fit(data, labels[order], batch_size=catalog.ROWS, shuffle=False, verbose=0)
        moved = zip(model.trainable_variables, _trainable(model, start), strict=True)
        update = np.concatenate([(np.asarray(v.numpy(), "f8") - before).ravel() for v, before in moved])
        return float(history.history["loss"][0]), update, model

    loss, update, _ = trained(contextlib.nullcontext(), slice(None))

    def difference(other: np.ndarray) -> float:
        return float(np.linalg.norm(other - update) / np.linalg.norm(update))

    found: dict[str, Any] = {"loss": loss}
    found["rounding"] = difference(trained(contextlib.nullcontext(), slice(None, None, -1))[1])
    for key, strategy in strategies.items():
        began = time.monotonic()
        try:
            other_loss, other, model = trained(strategy.scope(), slice(None))
        except Exception as error:
            found[key] = {"refused": f"{type(error).__name__}: {error}"}
            continue
        found[key] = {
            "update": difference(other),
            "loss": abs(other_loss - loss) / abs(loss),
            "seconds": time.monotonic() - began,
        }
        if key.startswith("mesh"):
            split = sum(any(variable.value.axes) for variable in model.trainable_variables)
            found[key]["split"] = f"{split} of {len(model.trainable_variables)}"
    return found


def _trainable(model: Any, values: list[Any]) -> list[Any]:
    by_path = {id(variable): value for variable, value in zip(model.weights, values, strict=True)}
    return [by_path[id(variable)] for variable in model.trainable_variables]


def in_own_process(name: str) -> dict[str, Any]:
    """Returns what `step` finds; a model that crashes or hangs does not end the others."""
    command = [sys.executable, "-m", "benchmarks.models", "--step", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return {"refused": f"not done in {LIMIT_S:.0f} s"}
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        return {"refused": f"exit code {done.returncode}: {done.stderr.strip().splitlines()[-1:]}"}
    return dict(json.loads(lines[-1]))


def is_equal(cell: dict[str, Any], rounding: float) -> bool:
    """Whether a step was that of one device."""
    return "update" in cell and cell["update"] <= max(EQUAL, ROUNDINGS * rounding)


def page(results: dict[str, dict[str, Any]]) -> str:
    """Returns docs/models.md."""
    from benchmarks import model_catalog as catalog

    rows, refused = [], []
    for name, found in results.items():
        cells = [f"`{name}`"]
        if "refused" in found:
            refused.append(f"- `{name}`: {_first(found['refused'])}")
            rows.append("| " + " | ".join([*cells, *["–"] * 6]) + " |")
            continue
        cells.append(f"{found['rounding']:.0e}")
        for key in STRATEGIES:
            one = found[key]
            if "refused" in one:
                refused.append(f"- `{name}` under {key}: {_first(one['refused'])}")
                cells += ["refused", "–"] + (["–"] if key.startswith("mesh") else [])
                continue
            mark = "" if is_equal(one, found["rounding"]) else "**not equal** "
            cells += [f"{mark}{one['update']:.0e}", f"{one['loss']:.0e}"]
            cells += [one["split"]] if "split" in one else []
        rows.append("| " + " | ".join(cells) + " |")
    text = "\n".join(["What is refused, and why:", "", *refused]) if refused else "None is refused."
    return PAGE.format(classes=catalog.CLASSES, rows=catalog.ROWS, table="\n".join(rows), refused=text)


def _first(message: str) -> str:
    lines = [line for line in message.splitlines() if line and "Exception encountered" not in line]
    return " ".join(lines)[:300].replace("\x1b[1m", "").replace("\x1b[0m", "")


def main() -> None:
    """Runs the models that are asked for; those that were run before keep their results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="one small model, to see that it runs")
    parser.add_argument("--output", type=Path, default=harness.RESULTS, help="folder of the JSON file")
    parser.add_argument("--only", nargs="*", help="models, as keras_hub/Bert or applications/MobileNet")
    parser.add_argument("--jobs", type=int, default=1, help="models at a time")
    parser.add_argument("--page", type=Path, help="write the page here, of all results")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        print(json.dumps(step(arguments.step)))
        return
    from benchmarks import model_catalog as catalog

    file = arguments.output / "models.json"
    known = json.loads(file.read_text())["models"] if file.exists() else {}
    chosen = ["keras_hub/Bert"] if arguments.smoke else arguments.only
    chosen = catalog.names() if chosen is None else chosen
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for name, found in zip(chosen, pool.map(in_own_process, chosen), strict=True):
            known[name] = found
            print(name, json.dumps(found), flush=True)
            harness.write(arguments.output, "models", {"models": known})
    ordered = {name: known[name] for name in catalog.names() if name in known}
    if arguments.page:
        arguments.page.write_text(page(ordered))


if __name__ == "__main__":
    main()
