"""A forked process is what a started one is: arguments, environment, folder, output, exit code, and its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from tfdist.parity.processes import ProcessGroup, run_python

TELLS = """
import atexit, json, os, sys, threading
atexit.register(print, "at exit")
print(json.dumps({"argv": sys.argv, "name": __name__, "cwd": os.getcwd(), "stdin": sys.stdin.read(),
                  "variable": os.environ.get("VARIABLE"), "session": os.getsid(0) == os.getpid(),
                  "threads": len(os.listdir("/proc/self/task")), "tensorflow": "tensorflow" in sys.modules}))
print("to stderr", file=sys.stderr)
sys.exit(3)
"""


def test_code(tmp_path):
    done = run_python(["-c", TELLS, "one", "two"], tmp_path, environment={"VARIABLE": "value"})
    first, last = done.stdout.splitlines()
    told = json.loads(first)
    assert told == {
        "argv": ["-c", "one", "two"],
        "name": "__main__",
        "cwd": os.getcwd(),
        "stdin": "",
        "variable": "value",
        "session": True,
        "threads": 1,
        "tensorflow": True,
    }
    assert (last, done.stderr, done.returncode) == ("at exit", "to stderr\n", 3)


def test_script_and_module(tmp_path):
    (tmp_path / "neighbour.py").write_text("NAME = __name__\n")
    (tmp_path / "script.py").write_text("import neighbour, sys\nprint(neighbour.NAME, sys.argv[1:])\n")
    assert run_python([str(tmp_path / "script.py"), "a"], tmp_path).stdout == "neighbour ['a']\n"
    environment = {"PYTHONPATH": str(tmp_path)}
    assert run_python(["-m", "script", "b"], tmp_path, environment=environment).stdout == "neighbour ['b']\n"


def test_an_error_is_told_as_python_tells_it(tmp_path):
    done = run_python(["-c", "raise ValueError('a bug')"], tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "ValueError: a bug"


def test_one_that_takes_too_long_is_killed(tmp_path):
    with pytest.raises(subprocess.TimeoutExpired):
        run_python(["-c", "import time; time.sleep(60)"], tmp_path, limit_s=0.3)


def test_a_group_ends_together(tmp_path):
    code = "import sys, time; print('here', flush=True); time.sleep(60 if sys.argv[1] == 'wait' else 0)"
    logs = [tmp_path / name for name in "ab"]
    group = ProcessGroup([sys.executable, "-c", code, "wait"], [{}, {}], logs, forked=True)
    while any(not log.exists() or "here" not in log.read_text() for log in logs):
        assert group.poll() == [None, None]
    group.send_signal(0, signal.SIGKILL)
    assert group.wait(30, grace_s=0.2) == [-signal.SIGKILL, None]
