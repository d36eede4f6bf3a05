"""One worker of `benchmarks.network`: seconds and bytes of each training step, as one JSON file.

`python -m benchmarks.hosts.worker JOB COUNTER STEPS RESULT`; the environment has TF_CONFIG, and FINETUNE_OPTIONS with
the options of the strategy.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import keras

from benchmarks.peers.job import Job
from benchmarks.peers.tfdist_run import compiled_model, create_data, create_strategy


class _Counted(keras.callbacks.Callback):
    """Notes time and bytes at the end of each step."""

    def __init__(self, counter: Path) -> None:
        super().__init__()
        self.counter = counter
        self.marks: list[tuple[float, int]] = []

    def on_train_begin(self, logs: Any = None) -> None:
        self._mark()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        float(logs["loss"])  # waits for the step
        self._mark()

    def _mark(self) -> None:
        self.marks.append((time.perf_counter(), int(self.counter.read_text())))


def main() -> None:
    folder, counter, steps, result = sys.argv[1:]
    job = Job.load(folder)
    strategy = create_strategy("multi_worker_mirrored")
    keras.utils.set_random_seed(0)
    model = compiled_model(job, strategy, "float32")
    counted = _Counted(Path(counter))
    data = create_data(job, model, seed=0)
    model.fit(data, steps_per_epoch=int(steps), shuffle=False, verbose=0, callbacks=[counted])
    pairs = zip(counted.marks, counted.marks[1:], strict=False)
    told = [[after[0] - before[0], after[1] - before[1]] for before, after in pairs]
    Path(result).write_text(json.dumps({"steps": told, "parameters": model.count_params()}))


if __name__ == "__main__":
    main()
