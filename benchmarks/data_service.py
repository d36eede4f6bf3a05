"""Examples/s of a training whose preparation is slow, over the number of data workers.

`python -m benchmarks.data_service [--smoke]`. A row takes 20 ms to prepare: of one core (`computes`), or of waiting as
for a disk or another host (`waits`). The model is small, so that the preparation decides. For each number of data
workers the training with them and the one without take turns, epoch by epoch; batches have 8 rows.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

import tfdist
from benchmarks import harness
from tfdist.cluster.data_service import find_data_service
from tfdist.launch.data_service import DataServiceLayout
from tfdist.launch.ports import find_free_ports

NUM_DATA_WORKERS = (1, 2, 4)
BATCH, SECONDS = 8, 0.020
_HOST = "127.0.0.1"
Prepare = Callable[[tf.Tensor], tf.Tensor]


def waits(number: tf.Tensor) -> tf.Tensor:
    """Returns a row after 20 ms in which no core is busy."""
    dataset = tf.data.Dataset.from_tensors(number)
    variant = tf.raw_ops.SleepDataset(
        input_dataset=dataset._variant_tensor,
        sleep_microseconds=tf.constant(int(SECONDS * 1e6), tf.int64),
        output_types=[tf.int64],
        output_shapes=[tf.TensorShape([])],
    )
    slept = tf.raw_ops.DatasetToSingleElement(
        dataset=variant, output_types=[tf.int64], output_shapes=[tf.TensorShape([])]
    )[0]
    return tf.fill([16], tf.cast(tf.ensure_shape(slept, []), tf.float32))


def computing(num_products: int) -> Prepare:
    """Returns a function that gives a row after so many products of two small matrices."""

    def computes(number: tf.Tensor) -> tf.Tensor:
        matrix = tf.random.stateless_uniform([96, 96], tf.stack([number, 1]))

        def again(step: tf.Tensor, product: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return step + 1, tf.linalg.l2_normalize(tf.matmul(product, matrix))

        _, product = tf.while_loop(
            lambda step, _: step < num_products, again, (0, matrix), parallel_iterations=1
        )
        return tf.fill([16], tf.cast(number, tf.float32)) + 0.0 * product[0, 0]

    return computes


def products_of(seconds: float) -> int:
    """Returns how many products take so many seconds of one core."""
    few, run = 400, tf.function(computing(400))
    run(tf.constant(0, tf.int64))
    times = []
    for number in range(5):
        start = time.process_time()
        run(tf.constant(number, tf.int64))
        times.append(time.process_time() - start)
    return max(1, round(few * seconds / sorted(times)[2]))


def rows(prepare: Prepare, num_rows: int) -> tf.data.Dataset:
    """Returns batches whose rows are prepared one after the other."""

    def load(numbers: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        spec = tf.TensorSpec([16], tf.float32)
        x = tf.map_fn(prepare, numbers, fn_output_signature=spec, parallel_iterations=1)
        return x / num_rows, tf.reduce_mean(x, axis=-1, keepdims=True) / num_rows

    return tfdist.data.rows_dataset(
        load, num_rows, global_batch_size=BATCH, shuffle=True, seed=0, in_graph=True
    )


@contextlib.contextmanager
def data_service(num_workers: int) -> Iterator[str]:
    """Runs a dispatcher and its data workers; yields the dispatcher's address when all take connections."""
    layout = DataServiceLayout.on_one_host(_HOST, find_free_ports(1 + num_workers))
    plans = layout.plans(0, num_cpus=os.cpu_count() or 1, environ=os.environ)
    processes = [
        subprocess.Popen(plan.command, env={**os.environ, **plan.env}, stdout=subprocess.DEVNULL)
        for plan in plans
    ]
    try:
        address = find_data_service("auto", layout.variables())
        limit = time.monotonic() + 120
        while address.silent:
            if time.monotonic() > limit:
                raise TimeoutError(f"the data service does not start: no answer from {address.silent}")
            time.sleep(0.2)
        yield layout.dispatcher
    finally:
        for process in processes:
            process.kill()
            process.wait()


def epoch_of(dataset: tf.data.Dataset) -> Callable[[], list[float]]:
    """Returns a function that trains a small model for an epoch and returns its seconds."""
    model = keras.Sequential([keras.Input((16,)), keras.layers.Dense(16, "tanh"), keras.layers.Dense(1)])
    model.compile("adam", "mse")

    def run() -> list[float]:
        start = time.perf_counter()
        model.fit(dataset, epochs=1, verbose=0)
        return [time.perf_counter() - start]

    return run


def measure(smoke: bool) -> dict[str, Any]:
    """Returns examples/s and ratios for both kinds of preparation."""
    tfdist.create_strategy("one_device")
    # An epoch starts a job of the service, which takes some tenths of a second, so it needs some length.
    rows_of, rounds = ({"waits": 32, "computes": 16}, 1) if smoke else ({"waits": 320, "computes": 96}, 3)
    kinds: dict[str, Prepare] = {"waits": waits, "computes": computing(products_of(SECONDS))}
    results: dict[str, Any] = {"rows": rows_of, "seconds_of_a_row": SECONDS, "kinds": {k: {} for k in kinds}}
    for num_workers in NUM_DATA_WORKERS[:1] if smoke else NUM_DATA_WORKERS:
        print(f"{num_workers} data workers", file=sys.stderr, flush=True)
        with data_service(num_workers) as address:
            for kind, prepare in kinds.items():
                num_rows = rows_of[kind]
                served = tfdist.data.distribute(rows(prepare, num_rows), address)
                samples = harness.interleaved(
                    {"alone": epoch_of(rows(prepare, num_rows)), "served": epoch_of(served)}, rounds=rounds
                )
                results["kinds"][kind][str(num_workers)] = {
                    name: harness.summary([num_rows / seconds[0] for seconds in found])
                    for name, found in samples.items()
                } | {"served / alone": harness.ratio(samples, "alone", "served")}
    return results


def main() -> None:
    """Measures, prints a table, and writes `data_service.json`."""
    arguments = harness.parse_arguments(str(__doc__).splitlines()[0])
    results = measure(arguments.smoke)
    print(
        "| preparation | data workers | examples/s | without | ratio | quartiles |\n|---|---|---|---|---|---|"
    )
    for kind, found in results["kinds"].items():
        for number, row in found.items():
            ratio = row["served / alone"]
            print(
                f"| {kind} | {number} | {row['served']['median']:.0f} | {row['alone']['median']:.0f} "
                f"| {ratio['median']:.2f} | {ratio['low']:.2f}–{ratio['high']:.2f} |"
            )
    print(harness.write(arguments.output, "data_service", results))


if __name__ == "__main__":
    main()
