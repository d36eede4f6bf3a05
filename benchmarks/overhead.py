"""What a training step costs under tfdist: `one_device` beside plain Keras, `mirrored` beside stock `MirroredStrategy`.

`python -m benchmarks.overhead [--smoke]`. Two devices: GPUs where there are two or more, else logical CPU devices.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from benchmarks import harness
from benchmarks.workloads import Workload, workloads
from tfdist import create_strategy
from tfdist._internals.patches import apply_patches, list_patches
from tfdist._internals.replica.extended import next_collective_key_base

AIMS = {
    ("mlp", "one_device"): ("plain", 1.10),
    ("bert", "one_device"): ("plain", 1.02),
    ("mlp", "mirrored"): ("stock_mirrored", 1.00),
    ("bert", "mirrored"): ("stock_mirrored", 1.00),
}


class _StepClock(keras.callbacks.Callback):
    """Seconds from the end of each step to the end of the next."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_train_begin(self, logs: Any = None) -> None:
        self.seconds, self._last = [], None

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        now = time.perf_counter()
        if self._last is not None:
            self.seconds.append(now - self._last)
        self._last = now


def contestant(
    workload: Workload, strategy: tf.distribute.Strategy | None, num_steps: int, patched: bool
) -> Callable[[], list[float]]:
    inputs, labels = workload.rows(num_steps)
    clock = _StepClock()
    model: keras.Model | None = None

    def run() -> list[float]:
        nonlocal model
        set_patches(patched)
        if model is None:
            with (strategy or tf.distribute.get_strategy()).scope():
                model = workload.build()
        model.fit(
            inputs, labels, batch_size=workload.global_batch_size, shuffle=False, verbose=0, callbacks=[clock]
        )
        return list(clock.seconds)

    return run


def set_patches(active: bool) -> None:
    """Puts tfdist's patches in force, or stock Keras back."""
    if active:
        apply_patches()
        return
    for patch in list_patches():
        patch.revert()


def two_devices() -> tuple[tf.distribute.Strategy, tf.distribute.Strategy]:
    """Returns tfdist's strategy of two devices and the stock one of the same."""
    mirrored = create_strategy("mirrored", devices=2)
    # Stock strategies count their collectives from 0; ours must not share their keys.
    stock = tf.distribute.MirroredStrategy(list(mirrored.extended.worker_devices))
    return mirrored, stock


def measure(smoke: bool) -> dict[str, Any]:
    """Runs all contestants; returns step times in seconds and ratios."""
    next_collective_key_base()
    mirrored, stock = two_devices()
    results: dict[str, Any] = {"device": mirrored.extended.worker_devices[0], "steps": {}, "ratios": {}}
    for workload in workloads(smoke):
        num_steps, rounds = (4, 2) if smoke else {"mlp": (100, 25), "bert": (8, 11)}[workload.name]
        groups = {
            "one_device": {"plain": (None, False), "one_device": (create_strategy("one_device"), True)},
            "mirrored": {"stock_mirrored": (stock, False), "mirrored": (mirrored, True)},
        }
        for name, group in groups.items():
            contestants = {
                label: contestant(workload, strategy, num_steps, patched)
                for label, (strategy, patched) in group.items()
            }
            samples = harness.interleaved(contestants, rounds=rounds)
            for label, by_round in samples.items():
                seconds = [second for one in by_round for second in one]
                results["steps"][f"{workload.name} {label}"] = harness.summary(seconds)
            to, aim = AIMS[workload.name, name]
            key = f"{workload.name} {name} / {to}"
            results["ratios"][key] = {**harness.ratio(samples, name, to), "aim": aim, "rounds": rounds}
            print(key, {k: round(v, 3) for k, v in results["ratios"][key].items()}, flush=True)
    return results


def main() -> None:
    arguments = harness.parse_arguments(__doc__.splitlines()[0])
    print(harness.write(arguments.output, "overhead", measure(arguments.smoke)))


if __name__ == "__main__":
    main()
