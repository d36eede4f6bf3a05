"""Loads TensorFlow for a command, and hides the lines that its C++ code prints meanwhile."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

from tfdist.launch.start_up_lines import LOG_LEVEL, QUIET_LEVEL, hides_start_up_lines


def load_tensorflow() -> None:
    """Imports TensorFlow and finds its devices; both print start-up lines, which are hidden here."""
    if "tensorflow" in sys.modules:
        return
    with start_up_lines_hidden():
        import tensorflow as tf

        tf.config.list_physical_devices()


@contextlib.contextmanager
def start_up_lines_hidden() -> Iterator[None]:
    """Drops TensorFlow's start-up lines from the standard error, unless the user has set TF_CPP_MIN_LOG_LEVEL.

    Another process filters the lines, so that a C++ error that ends this process is still shown.
    """
    if sys.stderr is None or not hides_start_up_lines(os.environ):
        yield
        return
    os.environ[LOG_LEVEL] = QUIET_LEVEL
    sys.stderr.flush()
    own = os.dup(2)
    command = [sys.executable, "-m", "tfdist.launch.start_up_lines"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as filtering:
        assert filtering.stdin is not None  # for the type checker: it is a pipe
        os.dup2(filtering.stdin.fileno(), 2)
        filtering.stdin.close()
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(own, 2)  # closes the last end of the pipe, so that the other process ends
            os.close(own)
