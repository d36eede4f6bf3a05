"""What exchanging gradients costs two workers, a core each: buckets, narrow dtypes and compression, beside one alone.

`python -m benchmarks.communication [--smoke]`. The model is shaped like MiniLM, 16 rows of 32 tokens for each worker,
AdamW. All contestants take turns in one pair of processes. `alone` is the same step of one worker while the other
waits, `side by side` while the other does the same for itself. `--trace` writes the picture of docs/communication.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import harness

WORKERS = 2
CONTESTANTS: dict[str, dict[str, Any]] = {
    "one pack": {},
    "buckets": {},
    "bfloat16": {"communication_dtype": "bfloat16"},
    "powersgd": {"gradient_compression": "powersgd"},
    "topk": {"gradient_compression": "topk"},
    "sign": {"gradient_compression": "sign"},
}


def _model(smoke: bool) -> Any:
    import keras

    from tfdist.models.bert import bert_classifier, build_bert
    from tfdist.models.bert_config import BertConfig

    size = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    if smoke:
        size = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=3000 if smoke else 30522, max_position_embeddings=64, **size)
    model = bert_classifier(build_bert(config), num_labels=2)
    model.compile(keras.optimizers.AdamW(1e-5), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def _dataset(batch: int, steps: int) -> Any:
    import numpy as np
    import tensorflow as tf

    numbers = np.random.default_rng(0)
    ids = numbers.integers(1, 3000, (steps * batch, 32), dtype=np.int32)
    inputs = {"token_ids": ids, "segment_ids": ids * 0, "padding_mask": ids * 0 + 1}
    labels = numbers.integers(0, 2, steps * batch)
    return tf.data.Dataset.from_tensor_slices((inputs, labels)).batch(batch, drop_remainder=True).cache()


def _times(model: Any, dataset: Any) -> list[tuple[float, float]]:
    """Wall and processor seconds of each step of an epoch but the first."""
    import keras

    marks: list[tuple[float, float]] = []

    class Clock(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            marks.append((time.perf_counter(), time.process_time()))

    model.fit(dataset, verbose=0, shuffle=False, callbacks=[Clock()])
    return [(b[0] - a[0], b[1] - a[1]) for a, b in zip(marks, marks[1:], strict=False)]


def _built(name: str, options: dict[str, Any], smoke: bool) -> tuple[Any, Any]:
    import tfdist
    from tfdist._internals.replica import exchange

    strategy = tfdist.create_strategy("multi_worker_mirrored", self_check="off", **options)
    bucket_bytes = exchange.BUCKET_BYTES
    exchange.BUCKET_BYTES = 0 if name == "one pack" else bucket_bytes
    with strategy.scope():
        model = _model(smoke)
    model.fit(_dataset(32, 1), verbose=0)
    exchange.BUCKET_BYTES = bucket_bytes
    return model, strategy


def work(smoke: bool, rounds: int, only: list[str], output: Path) -> None:
    """What each of the two workers does."""
    index = int(json.loads(os.environ["TF_CONFIG"])["task"]["index"])
    os.sched_setaffinity(0, {index % os.cpu_count()})
    steps = 3 if smoke else 8
    chosen = {name: options for name, options in CONTESTANTS.items() if name in only}
    contestants = {name: _built(name, options, smoke) for name, options in chosen.items()}
    shared, own = _dataset(32, steps), _dataset(16, steps)
    from tfdist._internals.processes.coordination import barrier

    plain = _model(smoke)
    plain.fit(own.take(1), verbose=0)
    names = ["alone", "side by side", *contestants]
    samples: dict[str, list[list[tuple[float, float]]]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names if number % 2 else reversed(names):
            barrier(f"{number} {name}")
            if name in contestants:
                samples[name].append(_times(contestants[name][0], shared))
            elif index == 0 or name == "side by side":
                samples[name].append(_times(plain, own))
    if index == 0:
        output.write_text(json.dumps(_results(samples, contestants)))


def _results(samples: Any, contestants: Any) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for name, rounds in samples.items():
        medians = [[1000 * statistics.median(step[i] for step in one) for one in rounds] for i in (0, 1)]
        alone = [1000 * statistics.median(step[0] for step in one) for one in samples["alone"]]
        results[name] = {
            "wall_ms": harness.summary(medians[0]),
            "processor_ms": harness.summary(medians[1]),
            "weak_scaling": harness.summary([a / b for a, b in zip(alone, medians[0], strict=True)]),
        }
        if name in contestants and (communication := contestants[name][1].communication) is not None:
            results[name]["bytes_per_step"], exact = communication.traffic
            results[name]["ratio"] = exact / results[name]["bytes_per_step"]
    return results


def measure(smoke: bool, rounds: int, only: list[str]) -> dict[str, Any]:
    """Starts the workers and returns what the chief has measured."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "results.json"
        command = [sys.executable, "-m", "tfdist", "launch", "--num-workers", str(WORKERS), "-m"]
        command += ["benchmarks.communication", "--worker", str(output), "--rounds", str(rounds)]
        command += ["--only", *only, *["--smoke"] * smoke]
        subprocess.run(command, check=True, timeout=3600)
        return json.loads(output.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--smoke", action="store_true", help="a few steps of a tiny model, to see that it runs"
    )
    parser.add_argument("--output", type=Path, default=harness.RESULTS, help="folder of the JSON file")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contestant")
    parser.add_argument("--only", nargs="+", default=list(CONTESTANTS), help="contestants beside one alone")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    rounds = 1 if arguments.smoke else arguments.rounds
    if arguments.worker:
        work(arguments.smoke, rounds, arguments.only, arguments.worker)
        return
    results = measure(arguments.smoke, rounds, arguments.only)
    for name, found in results.items():
        print(
            name, {key: value["median"] if isinstance(value, dict) else value for key, value in found.items()}
        )
    print(harness.write(arguments.output, "communication", {"contestants": results}))


if __name__ == "__main__":
    main()
