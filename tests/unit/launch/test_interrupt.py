"""Ctrl-C ends a command even where C++ makes another exception of it, or drops it."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time

import pytest

from tfdist.launch import interrupt
from tfdist.launch.interrupt import interruptible


def test_another_exception_is_still_an_interrupt():
    with pytest.raises(KeyboardInterrupt), interruptible():
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise TypeError("as from C++") from None


def test_a_dropped_one_comes_again(monkeypatch):
    monkeypatch.setattr(interrupt, "_AGAIN_S", 0.05)
    with pytest.raises(KeyboardInterrupt), interruptible():
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        time.sleep(5)


def test_other_errors_and_handlers_stay_as_they_are():
    alarm = signal.getsignal(signal.SIGALRM)
    with pytest.raises(TypeError), interruptible():
        raise TypeError("of its own")
    with contextlib.suppress(KeyboardInterrupt), interruptible():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGALRM) is alarm
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


IN_TEXT = """
from tfdist.cli import main
main._run = lambda arguments: exec("raise KeyboardInterrupt")
raise SystemExit(main.main([]))
"""


def test_an_interrupt_in_text_that_python_runs_ends_with_the_code_of_the_command(tmp_path):
    (tmp_path / "in_text.py").write_text(IN_TEXT)
    command = [sys.executable, "-m", "in_text"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
