"""Ctrl-C ends a command even where C++ makes another exception of it, or drops it."""

from __future__ import annotations

import contextlib
import signal
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
