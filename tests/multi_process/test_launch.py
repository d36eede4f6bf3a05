"""`tfdist launch` with real worker processes; scripts without TensorFlow, but for the last test."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

# What every script begins with: `index`, and `meet()`, which waits until both workers have come as far.
PREAMBLE = """
import json, os, pathlib, signal, subprocess, sys, time
index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
here = pathlib.Path(__file__).parent
(here / f"pid_{index}").write_text(str(os.getpid()))
def meet():
    (here / f"here_{index}").touch()
    while len(list(here.glob("here_*"))) < 2:
        time.sleep(0.01)
def wait():
    meet()
    time.sleep(60)
"""


class Launch:
    """A running `tfdist launch` of two workers."""

    def __init__(self, folder, body, *flags, args=()):
        self.folder = folder
        script = folder / "train.py"
        script.write_text(PREAMBLE + body)
        command = [sys.executable, "-m", "tfdist", "launch", "--num-workers", "2", *flags, str(script), *args]
        self.start = time.monotonic()
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            start_new_session=True,
        )

    def wait_for_workers(self):
        limit = time.monotonic() + 60
        while len(list(self.folder.glob("here_*"))) < 2:
            assert time.monotonic() < limit, "the workers did not start"
            time.sleep(0.02)

    def worker_pid(self, index):
        return int((self.folder / f"pid_{index}").read_text())

    def finish(self):
        """Waits for the end and checks that nothing is left of the workers."""
        try:
            # Bytes, since text mode would make lines of the carriage returns.
            self.out, self.err = (data.decode() for data in self.process.communicate(timeout=120))
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise
        for path in self.folder.glob("pid_*"):
            assert not is_alive(int(path.read_text())), f"{path.name} still runs"
        return self.process.returncode


def is_alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in ("Z", "X")


def test_output_environment_and_logs(tmp_path):
    body = """
get = os.environ.get
print("threads", get("TF_NUM_INTRAOP_THREADS"), index, *sys.argv[1:])
for step in range(3):
    sys.stdout.write(f"\\b\\rstep {step}"); sys.stdout.flush()
print(); print("warning", file=sys.stderr)
assert sys.stdin.read() == ""
"""
    logs = tmp_path / "logs"
    run = Launch(tmp_path, body, "--log-dir", str(logs), args=("--epochs", "3"))
    assert run.finish() == 0
    cores = max(1, len(os.sched_getaffinity(0)) // 2)
    for index in range(2):
        assert f"[worker {index}] threads {cores} {index} --epochs 3\n" in run.out
        assert f"[worker {index}] warning\n" in run.err
        assert "step 2" in (logs / f"worker_{index}.log").read_text()
    assert "\r[worker 0] step 2\n" in run.out
    assert "[worker 1] step" not in run.out
    assert "[tfdist]" not in run.err


def test_exception_ends_all_and_is_printed_last(tmp_path):
    run = Launch(tmp_path, "if index == 0: wait()\nmeet()\nraise ValueError('a bad label')\n")
    assert run.finish() == 1
    assert "[tfdist] ended worker 0, which still ran\n" in run.err
    head, _, error = run.err.rpartition("[tfdist] ")
    assert error.startswith("worker 1 failed first: exit code 1. Its own error:\nTraceback ")
    assert error.endswith("ValueError: a bad label\n")


def test_the_cause_is_told_from_the_noise_of_its_peers(tmp_path):
    body = """
meet()
if index == 0:
    raise RuntimeError("UnavailableError: Collective ops is aborted by: peer went away")
time.sleep(1)
print("no more memory", file=sys.stderr)
sys.exit(3)
"""
    run = Launch(tmp_path, body)
    assert run.finish() == 3
    assert run.err.endswith("[tfdist] worker 1 failed first: exit code 3. Its own error:\nno more memory\n")


def test_kill_9_ends_also_children_and_the_stubborn(tmp_path):
    body = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
(here / f"pid_child_{index}").write_text(str(child.pid))
wait()
"""
    run = Launch(tmp_path, body)
    run.wait_for_workers()
    os.kill(run.worker_pid(1), signal.SIGKILL)
    killed = time.monotonic()
    assert run.finish() == 128 + signal.SIGKILL
    assert time.monotonic() - killed < 15  # the promise of the command, not a speed
    assert "worker 1 failed first: killed by SIGKILL, perhaps for lack of memory." in run.err
    assert run.err.endswith("It wrote no error.\n")


def test_frozen_worker_is_named(tmp_path):
    error = "UnavailableError: heartbeat timeout"
    body = f"if index == 1: wait()\nmeet()\ntime.sleep(1)\nraise RuntimeError({error!r})\n"
    run = Launch(tmp_path, body)
    run.wait_for_workers()
    os.kill(run.worker_pid(1), signal.SIGSTOP)
    assert run.finish() == 1
    assert "[tfdist] worker 1 was stopped (SIGSTOP or a debugger)" in run.err
    assert run.err.endswith("heartbeat timeout\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_forwarded(tmp_path, number):
    body = """
try:
    wait()
except KeyboardInterrupt:
    print("saved", file=sys.stderr)
    raise
"""
    run = Launch(tmp_path, body)
    run.wait_for_workers()
    os.kill(run.process.pid, number)
    assert run.finish() == 128 + number
    assert f"[tfdist] {number.name}: ending worker 0, worker 1\n" in run.err
    assert run.err.count("saved\n") == (2 if number == signal.SIGINT else 0)


def test_second_interrupt_ends_at_once(tmp_path):
    body = """
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: (here / f"asked_{index}").touch())
meet()
while True:
    time.sleep(0.1)
"""
    run = Launch(tmp_path, body)
    run.wait_for_workers()
    os.kill(run.process.pid, signal.SIGINT)
    limit = time.monotonic() + 60
    while not (tmp_path / "asked_1").exists() and time.monotonic() < limit:
        time.sleep(0.02)
    os.kill(run.process.pid, signal.SIGINT)
    assert run.finish() == 130


def test_worker_that_does_not_end_after_the_others_is_named(tmp_path):
    run = Launch(tmp_path, "if index == 1: wait()\nmeet()\n", "--exit-timeout", "0.5")
    assert run.finish() == 1
    assert run.err.startswith("error: worker 1 still ran 0.5 s after worker 0 had ended well, and was ended.")


def test_timeout_of_the_run(tmp_path):
    run = Launch(tmp_path, "wait()", "--timeout", "1")
    assert run.finish() == 1
    assert run.err.startswith("error: worker 0, worker 1 had not ended after 1 s, the limit of --timeout")


@pytest.mark.parametrize(
    ("flags", "message"),
    [(("--port", "{port}"), "cannot be used"), (("--log-dir", "{file}"), "cannot write to --log-dir")],
)
def test_refused_before_the_start(tmp_path, flags, message):
    (tmp_path / "file").touch()
    with socket.socket() as sock:
        sock.bind(("", 0))
        sock.listen()
        values = {"port": sock.getsockname()[1], "file": tmp_path / "file"}
        run = Launch(tmp_path, "", *(flag.format(**values) for flag in flags))
        assert run.finish() in (1, 2)
    assert run.err.startswith("error: ")
    assert message in run.err


def test_missing_script_and_module(tmp_path):
    for target, message in (("nowhere.py", "no such script"), ("-m nowhere", "no module named 'nowhere'")):
        done = subprocess.run(
            [sys.executable, "-m", "tfdist", "launch", "--num-workers", "2", *target.split()],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
        assert message in done.stderr


def test_start_up_lines_of_tensorflow_are_hidden_and_its_errors_are_not(tmp_path, monkeypatch):
    for name in ("TF_CPP_MIN_LOG_LEVEL", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    body = """
import tensorflow as tf
tf.config.list_physical_devices()
print(float(tf.constant(1.0) + 1), os.environ.get("TF_ENABLE_ONEDNN_OPTS"))
if index == 1 and len(sys.argv) > 1:
    tf.matmul(tf.ones([2, 3]), tf.ones([2, 3]))
"""
    run = Launch(tmp_path, body, "--log-dir", str(tmp_path / "logs"))
    assert run.finish() == 0
    assert run.err == ""
    assert sorted(run.out.splitlines()) == ["[worker 0] 2.0 None", "[worker 1] 2.0 None"]
    assert "absl::InitializeLog" in (tmp_path / "logs" / "worker_0.log").read_text()  # which keeps all
    run = Launch(tmp_path, body, args=("fail",))
    assert run.finish() == 1
    assert run.err.startswith("[worker 1] Traceback (most recent call last):\n")
    assert "InvalidArgumentError: " in run.err.splitlines()[-1]


@pytest.mark.slow
def test_tensorflow_workers_reduce_and_their_own_error_is_told(tmp_path):
    body = """
import tensorflow as tf
strategy = tf.distribute.MultiWorkerMirroredStrategy()
@tf.function
def step():
    return strategy.run(lambda: tf.distribute.get_replica_context().all_reduce("SUM", index + 1.0))
print("sum", float(step()), flush=True)
if index == 1:
    raise ValueError("a bad row")
while True:
    step()
    time.sleep(0.1)
"""
    run = Launch(tmp_path, body)
    assert run.finish() == 1
    for index in range(2):
        assert f"[worker {index}] sum 3.0\n" in run.out
    assert "[tfdist] worker 1 failed first: exit code 1" in run.err
    assert run.err.endswith("ValueError: a bad row\n")
