"""When one of two workers fails, stops or leaves, the other ends too: soon, with an error and the cause.

The workers are started by hand, without `tfdist launch`: on a cluster nobody else ends them. A worker that is only
late ends well.
"""

from __future__ import annotations

import re
import signal
import sys
import time
from pathlib import Path

import pytest

from tfdist.parity.processes import ProcessGroup, worker_environments

# The workers compute for a moment, and then wait for what is to happen.
pytestmark = [pytest.mark.slow, pytest.mark.processes, pytest.mark.busy(0), pytest.mark.timeout(150)]

START_LIMIT_S = 60

SCRIPT = """
import os, pathlib, signal, sys, time

import keras
import numpy as np
import tfdist

strategy = tfdist.create_strategy({strategy}, timeout_s={timeout_s})
from tfdist.process import process_index

here = pathlib.Path(__file__).parent
rows = np.ones((32, 4), "float32"), np.zeros((32, 1), "float32")
with strategy.scope():
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", metrics=["mae"])


class Fault(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2 and process_index() == {who}:
            (here / "fault").touch()
            self.happen()

    def happen(self):
        {fault}


epochs = {epochs}
model.fit(*rows, batch_size=8, epochs=epochs, verbose=0, callbacks=[Fault()])
{after}
"""


STRATEGIES = {
    "multi_worker_mirrored": "'multi_worker_mirrored'",
    "mesh": "'mesh', mesh={'batch': 2}, shard_weights=True",
    "mesh of two devices each": "'mesh', mesh={'batch': 2, 'model': 2}, layout_map={'dense/kernel$': ('model', None)}",
}

either_strategy = pytest.mark.parametrize("strategy", ["multi_worker_mirrored", "mesh"])


def start(
    folder: Path,
    *,
    fault: str = "pass",
    epochs: str = "10**6",
    after: str = "",
    strategy: str = "multi_worker_mirrored",
    timeout_s: float = 10,
    who: int = 1,
) -> ProcessGroup:
    """Starts two workers of which one, the second if not told otherwise, meets `fault` in its third epoch."""
    script = folder / "train.py"
    text = SCRIPT.format(
        fault=fault, epochs=epochs, after=after, strategy=STRATEGIES[strategy], timeout_s=timeout_s, who=who
    )
    script.write_text(text)
    logs = [folder / f"log.{index}.txt" for index in range(2)]
    return ProcessGroup([sys.executable, str(script)], worker_environments(2), logs, forked=True)


def wait_for_fault(group: ProcessGroup, folder: Path) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while not (folder / "fault").exists():
        codes = group.poll()
        if time.monotonic() > deadline or codes != [None, None]:
            group.kill()
            pytest.fail(f"the workers did not come to the fault: {codes}\n{log(folder, 0)}\n{log(folder, 1)}")
        time.sleep(0.05)


def log(folder: Path, index: int) -> str:
    return (folder / f"log.{index}.txt").read_text(errors="replace")


def end(group: ProcessGroup, folder: Path, limit_s: float) -> list[int | None]:
    """Waits for the fault, and then `limit_s` seconds at most; returns the exit codes, None where killed."""
    wait_for_fault(group, folder)
    return group.wait(limit_s)


@either_strategy
def test_exception(tmp_path, strategy):
    codes = end(
        start(tmp_path, strategy=strategy, fault="raise ValueError('a bug in the script')"), tmp_path, 20
    )
    assert None not in codes and 0 not in codes, log(tmp_path, 0)[-2000:]
    assert "ValueError: a bug in the script" in log(tmp_path, 1)
    assert "a bug in the script" in log(tmp_path, 0), log(tmp_path, 0)[-2000:]


def test_exit(tmp_path):
    codes = end(start(tmp_path, fault="sys.exit(3)"), tmp_path, 20)
    assert codes[1] == 3
    assert codes[0] not in (None, 0), log(tmp_path, 0)[-2000:]


CHIEF_ALONE = {
    "evaluate": "model.evaluate(*rows, batch_size=8, verbose=0)",
    "train_on_batch": "model.train_on_batch(*rows)",
    "save": "model.save(here / 'model.keras')",
}


@pytest.mark.parametrize(
    ("strategy", "call"),
    [
        ("multi_worker_mirrored", "evaluate"),
        pytest.param("multi_worker_mirrored", "train_on_batch", marks=pytest.mark.wide),
        pytest.param("mesh", "evaluate", marks=pytest.mark.wide),
        ("mesh", "save"),
    ],
)
def test_a_callback_calls_on_one_worker_what_is_for_all(tmp_path, strategy, call):
    """Both see within seconds that they wait for each other at different places."""
    group = start(tmp_path, strategy=strategy, fault="self.model; " + CHIEF_ALONE[call], timeout_s=300)
    codes = end(group, tmp_path, 20)
    assert None not in codes and 0 not in codes, log(tmp_path, 0)[-2000:]
    for index in range(2):
        assert "All workers must make the same calls" in log(tmp_path, index), log(tmp_path, index)[-2000:]
        assert re.search(r"worker 1 is [^.]*train\.py:\d+, in happen", log(tmp_path, index))


@either_strategy
def test_generators_of_unequal_length(tmp_path, strategy):
    data = "(rows for rows in [(rows[0][:8], rows[1][:8])] * (5 + 2 * process_index()))"
    group = start(
        tmp_path, strategy=strategy, epochs="3", after=f"model.fit({data}, verbose=0)", timeout_s=300
    )
    codes = end(group, tmp_path, 20)
    assert None not in codes and 0 not in codes, log(tmp_path, 0)[-2000:]
    for index in range(2):
        assert "the data of worker 0 ended after step 5 of fit, and worker 1 has data for step 6" in log(
            tmp_path, index
        ), log(tmp_path, index)[-2000:]


def test_evaluation_by_the_chief_after_the_others_have_ended(tmp_path):
    after = "if process_index() == 0: model.evaluate(*rows, batch_size=8, verbose=0)"
    codes = end(start(tmp_path, epochs="3", after=after, timeout_s=300), tmp_path, 20)
    assert codes == [1, 0], log(tmp_path, 0)[-2000:]
    assert "worker 1 has ended its program, and worker 0 is at 'the start of evaluate'" in log(tmp_path, 0)


def test_leaving_without_a_word(tmp_path):
    codes = end(start(tmp_path, fault="os._exit(0)", timeout_s=300), tmp_path, 20)
    assert codes[0] not in (None, 0), log(tmp_path, 0)[-2000:]
    assert "WorkerError: worker 1 has ended without a word" in log(tmp_path, 0)


@pytest.mark.wide
@either_strategy
def test_a_worker_that_is_stopped_for_a_while_is_waited_for(tmp_path, strategy):
    fault = "os.kill(os.getpid(), signal.SIGSTOP)"
    group = start(tmp_path, strategy=strategy, fault=fault, epochs="4", timeout_s=60)
    wait_for_fault(group, tmp_path)
    time.sleep(20)
    group.send_signal(1, signal.SIGCONT)
    assert group.wait(30) == [0, 0], log(tmp_path, 0)[-2000:]


@either_strategy
def test_killed(tmp_path, strategy):
    codes = end(
        start(tmp_path, strategy=strategy, fault="os.kill(os.getpid(), signal.SIGKILL)"), tmp_path, 30
    )
    assert codes[1] == -signal.SIGKILL
    assert codes[0] not in (None, 0), log(tmp_path, 0)[-2000:]
    assert "worker 1 has ended without a word" in log(tmp_path, 0), log(tmp_path, 0)[-2000:]


def test_stopped(tmp_path):
    codes = end(start(tmp_path, fault="os.kill(os.getpid(), signal.SIGSTOP)"), tmp_path, 30)
    assert codes[1] is None
    assert codes[0] not in (None, 0), log(tmp_path, 0)[-2000:]
    assert "worker 1 does not answer: its process or its machine is stopped" in log(tmp_path, 0)


@pytest.mark.wide
def test_chief_stopped(tmp_path):
    """The service that ends the collectives of all is in the process that is stopped."""
    group = start(tmp_path, fault="os.kill(os.getpid(), signal.SIGSTOP)", who=0)
    wait_for_fault(group, tmp_path)
    deadline = time.monotonic() + 60  # TensorFlow's own end waits for the service too
    while group.poll()[1] is None and time.monotonic() < deadline:
        time.sleep(0.2)
    codes = group.wait(0)
    assert codes[1] not in (None, 0), log(tmp_path, 1)[-2000:]
    assert "worker 0 does not answer: its process or its machine is stopped" in log(tmp_path, 1)


def test_steps_leave_no_threads(tmp_path):
    """Stock's limit of a collective is a thread for each execution, which sleeps until the limit."""
    after = """
threads = len(os.listdir("/proc/self/task"))
model.fit(*rows, batch_size=8, epochs=50, verbose=0)
model.evaluate(*rows, batch_size=8, verbose=0)
model.predict(rows[0], batch_size=8, verbose=0)
print("more threads:", len(os.listdir("/proc/self/task")) - threads)
"""
    assert start(tmp_path, epochs="3", after=after, timeout_s=300).wait(START_LIMIT_S) == [0, 0]
    more = re.search(r"more threads: (-?\d+)", log(tmp_path, 0))
    assert more and int(more[1]) < 40, log(tmp_path, 0)[-2000:]


@either_strategy
def test_worker_that_does_nothing_more(tmp_path, strategy):
    """The process lives, but no longer takes part: the limit of the strategy holds."""
    codes = end(start(tmp_path, strategy=strategy, fault="time.sleep(100)"), tmp_path, 30)
    assert codes[0] not in (None, 0), log(tmp_path, 0)[-2000:]
    assert re.search(r"worker 1 is in fit for \d+ s \(train\.py:\d+, in happen\)", log(tmp_path, 0))


def test_a_model_saved_by_the_chief_alone(tmp_path):
    """Its weights are split over the processes: the chief does not wait for ever for the pieces of the other."""
    after = "if process_index() == 0: model.save(here / 'model.keras')\nelse: time.sleep(60)"
    codes = end(start(tmp_path, strategy="mesh", epochs="3", after=after), tmp_path, 30)
    assert codes[0] not in (None, 0), log(tmp_path, 0)[-2000:]
    assert "worker 1 did not arrive at 'barrier/fetch of a value that is split over processes'" in log(
        tmp_path, 0
    )


def test_a_checkpoint_written_by_the_chief_alone(tmp_path):
    write = "import tensorflow as tf; tf.train.Checkpoint(model=model).write(str(here / 'checkpoint'))"
    after = f"if process_index() == 0: {write}\nelse: time.sleep(60)"
    codes = end(start(tmp_path, strategy="mesh of two devices each", epochs="3", after=after), tmp_path, 30)
    assert codes[0] not in (None, 0), log(tmp_path, 0)[-2000:]
    assert "worker 1 did not arrive at 'barrier/tf.train.Checkpoint of a mesh'" in log(tmp_path, 0)


def test_worker_that_ends_early(tmp_path):
    codes = end(start(tmp_path, fault="sys.exit(0)"), tmp_path, 20)
    assert codes[0] not in (None, 0), log(tmp_path, 0)[-2000:]
    assert "WorkerError: worker 1 left fit by sys.exit(0) (train.py:" in log(tmp_path, 0)


def test_workers_that_were_told_different_things(tmp_path):
    group = start(tmp_path, epochs="10**6 if process_index() == 0 else 3")
    codes = group.wait(START_LIMIT_S)
    assert None not in codes and 0 not in codes
    for index in range(2):
        assert "do not agree on the arguments of fit" in log(tmp_path, index)


def test_evaluation_by_the_chief_alone(tmp_path):
    after = "if process_index() == 0: model.evaluate(*rows, batch_size=8, verbose=0)\nelse: time.sleep(60)"
    codes = end(start(tmp_path, epochs="3", after=after), tmp_path, 30)
    assert codes[0] not in (None, 0), log(tmp_path, 0)[-2000:]


def test_a_late_worker_ends_well(tmp_path):
    """Batches that do not divide are whole in each process, which yet asks the chief; and the chief is done."""
    after = """
class Slow(keras.callbacks.Callback):
    def on_predict_batch_begin(self, batch, logs=None):
        time.sleep(12 if process_index() == 1 else 0)

model.predict_on_batch(rows[0][:5])
model.predict(rows[0][:7], verbose=0, callbacks=[Slow()])
if process_index() == 1:
    time.sleep(3)
    print(model.predict_on_batch(rows[0][:5]).shape)
"""
    group = start(tmp_path, strategy="mesh of two devices each", epochs="3", after=after, timeout_s=60)
    assert group.wait(START_LIMIT_S + 30) == [0, 0], log(tmp_path, 1)[-2000:]
    assert "(5, 1)" in log(tmp_path, 1)
